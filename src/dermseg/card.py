"""The model card: a bundle's manifest in words, and between its facts the notes that people write.

The sections are those of Mitchell et al., "Model Cards for Model Reporting", FAT* 2019: the manifest knows what was
measured and trained on; intended use, subgroups, failures and cost are notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from dermseg.manifest import Manifest

MAX_COLUMNS = 8


def model_card(manifest: Manifest) -> str:
    """The manifest in words, as Markdown.

    Its notes are sections between "Scores" and "Limits"; one with the title of a section that there is anyway, such as
    "Limits", stands at the end of that section.
    """
    last = {"Limits": _limits(manifest)}
    sections = {"Training data": _training_data(manifest), "Scores": _scores(manifest)}
    for title, text in manifest.notes.items():
        (last if title in last else sections).setdefault(title, []).append(text)
    blocks = _facts(manifest)
    for title, content in (sections | last).items():
        blocks += [f"## {title}", *content]
    return "\n\n".join(block for each in blocks if (block := each.strip("\n"))) + "\n"


def _facts(manifest: Manifest) -> list[str]:
    data, architecture = manifest.training_data, manifest.architecture
    thresholds = ", ".join(f"{name} {value:.4g}" for name, value in manifest.thresholds.items())
    each = zip(manifest.classes, manifest.calibration.of(manifest.classes).ravel(), strict=True)
    temperatures = ", ".join(f"{value:.3g} ({name})" for name, value in each if value != 1)
    if temperatures and (images := manifest.calibration.images):
        split = manifest.calibration.split
        temperatures += f", fitted on {images} images" + (f" of `{split}`" if split else "")
    facts = [
        f"- **Finds**: {', '.join(manifest.classes)}",
        f"- **Network**: `{architecture.name}`, {architecture.parameters / 1e6:.2f} million parameters, "
        f"input {manifest.input_size} x {manifest.input_size} pixels, weights in float16",
        *([f"- **Processing before the network**: {', '.join(manifest.processing)}"] if manifest.processing else []),
        f"- **Threshold on the probability**{', chosen on the split `tune`' * bool(data.sources)}: {thresholds}",
        *([f"- **Calibration**: logits are divided by {temperatures}"] if temperatures else []),
        *_presence(manifest),
        f"- **Licence of the weights**: {manifest.licence}",
        f"- **Versions**: {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}",
    ]
    return [
        f"# {manifest.name}",
        manifest.description,
        "Research software, not a medical device: it must not decide about a patient.",
        "\n".join(facts),
    ]


def _presence(manifest: Manifest) -> list[str]:
    model = manifest.presence
    if model is None:
        return []
    on = f" of `{model.split}`" if model.split else ""
    return [
        f"- **Presence**: the probability that an image shows {', '.join(model.curves)} is fitted on "
        f"{model.images} images{on}"
    ]


def _training_data(manifest: Manifest) -> list[str]:
    data = manifest.training_data
    text = f"Split `{data.split}`; initialised from {data.initialisation}; content hash `{data.content_hash[:16]}`."
    rows = [f"| {name} | {count} | {data.licences.get(name, 'not stated')} |" for name, count in data.sources.items()]
    return [text, "\n".join(["| data set | images | licence |", "|---|---|---|", *rows])] if rows else [text]


def _scores(manifest: Manifest) -> list[str]:
    if not manifest.scores:
        return ["None recorded yet."]
    blocks = []
    for score in manifest.scores:
        blocks += [
            f"**{score.data}, split `{score.split}`, {score.images} images** ({score.protocol}; mean [95 % interval])",
            _table({name: f"{m.mean:.3f} [{m.low:.3f}, {m.high:.3f}]" for name, m in score.metrics.items()}),
        ]
    own = " --splits TABLE" * (manifest.training_data.splits_hash not in (None, _shipped_table(manifest.classes)))
    from dermseg.protocols import PROTOCOLS  # segmenting does without

    # Those that are not the usual one, by the first word of what they were recorded as.
    ways = dict.fromkeys((score.split, re.split(r"\W", score.protocol)[0]) for score in manifest.scores)
    commands = [
        f"`dermseg evaluate --bundle {manifest.name} --data DATA --split {split}{own}"
        + f" --protocol {protocol}" * (protocol in PROTOCOLS[1:])
        + " --record`"
        for split, protocol in ways
    ]
    return [*blocks, f"Measured by {' and '.join(dict.fromkeys(commands))}."]


@cache
def _shipped_table(classes: tuple[str, ...]) -> str:
    from dermseg.data import splits  # segmenting does without

    return splits.fingerprint(splits.table_for(classes))


def _limits(manifest: Manifest) -> list[str]:
    text = (
        "Trained on dermoscopy of single lesions, mostly on light skin; clinical (non-dermoscopic) photographs, other "
        "organs and images without a lesion are outside what it has seen"
    )
    silent, rejecting = ", and it does not say so by itself.", "; many of them it rejects itself:"
    if not manifest.training_data.sources:
        text = "What it was trained on is not known here, so neither is what lies outside of that"
        silent, rejecting = ".", "; photographs unlike those it was calibrated on it may reject itself:"
    if manifest.quality is None:
        return [text + silent]
    verdicts = [f"- **{verdict}**: {words}" for verdict, words in manifest.quality.meaning.items()]
    return [text + rejecting, "\n".join(verdicts)]


def _table(cells: Mapping[str, str]) -> str:
    """A Markdown table of one row; of one column where that would be too wide for a page."""
    if len(cells) > MAX_COLUMNS:
        rows = ["| metric | value |", "|---|---|", *(f"| {name} | {cell} |" for name, cell in cells.items())]
    else:
        rows = [f"| {' | '.join(cells)} |", f"|{'---|' * len(cells)}", f"| {' | '.join(cells.values())} |"]
    return "\n".join(rows)
