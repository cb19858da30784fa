"""The model card: facts in their order, notes between them, and no note that breaks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dermseg import synthetic
from dermseg.bundle import CARD, MANIFEST, Bundle, write
from dermseg.calibration import calibrate
from dermseg.card import model_card
from dermseg.data import catalog
from dermseg.errors import BundleError, InputError
from dermseg.manifest import Metric, Score
from dermseg.notes import parse_notes

SCORE = Score(data="d", split="test", protocol="p", images=1, metrics={"dice": Metric(mean=0.5, low=0.4, high=0.6)})
NOTES = {"Subgroups": "Dark skin.", "Intended use": "### By whom\n\nBy researchers.", "Limits": "Ink.\n\n\n    code"}


@pytest.fixture
def annotated(dark_bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(dark_bundle.path, tmp_path / "annotated")).with_notes(NOTES)


def headings(markdown: str) -> list[str]:
    """The titles of a text's sections, by a reader of Markdown that is not ours."""
    tokens = MarkdownIt("commonmark").parse(markdown)
    return [
        tokens[i + 1].content for i, token in enumerate(tokens) if (token.type, token.tag) == ("heading_open", "h2")
    ]


def as_markdown(notes: dict[str, str]) -> str:
    return "".join(f"## {title}\n\n" + (f"{text}\n\n" if text else "") for title, text in notes.items())


# The card


def test_a_card_is_its_facts_then_its_notes_then_its_limits(annotated: Bundle) -> None:
    bundle = annotated.with_scores([SCORE])
    assert (bundle.path / CARD).read_text() == (
        "# dark\n\n"
        "Finds what is dark.\n\n"
        "Research software, not a medical device: it must not decide about a patient.\n\n"
        "- **Finds**: lesion\n"
        "- **Network**: `none`, 0.00 million parameters, input 64 x 64 pixels, weights in float16\n"
        "- **Threshold on the probability**, chosen on the split `tune`: lesion 0.5\n"
        "- **Licence of the weights**: Apache-2.0\n"
        "- **Versions**: dermseg 0.1.0\n\n"
        "## Training data\n\n"
        f"Split `train`; initialised from hand-made weights; content hash `{'0' * 16}`.\n\n"
        "| data set | images | licence |\n|---|---|---|\n| drawn | 1 | CC0-1.0 |\n\n"
        "## Scores\n\n"
        "**d, split `test`, 1 images** (p; mean [95 % interval])\n\n"
        "| dice |\n|---|\n| 0.500 [0.400, 0.600] |\n\n"
        "Measured by `dermseg evaluate --bundle dark --data DATA --split test --record`.\n\n"
        "## Subgroups\n\n"
        "Dark skin.\n\n"
        "## Intended use\n\n"
        "### By whom\n\nBy researchers.\n\n"
        "## Limits\n\n"
        "Trained on dermoscopy of single lesions, mostly on light skin; clinical (non-dermoscopic) photographs, other "
        "organs and images without a lesion are outside what it has seen, and it does not say so by itself.\n\n"
        "Ink.\n\n\n    code\n"
    )


def test_the_limits_of_a_bundle_that_rejects_are_its_verdicts_then_the_note() -> None:
    manifest = Bundle.load().manifest
    card = model_card(manifest.model_copy(update={"notes": {"Limits": "Photographs with ink."}}))
    assert card == f"{model_card(manifest.model_copy(update={'notes': {}}))}\nPhotographs with ink.\n"
    assert card.index("- **reject**: ") < card.index("Photographs with ink.")


def test_what_is_not_known_is_not_claimed() -> None:
    manifest = Bundle.load().manifest
    unknown = manifest.training_data.model_copy(update={"sources": {}, "licences": {}})
    card = model_card(manifest.model_copy(update={"training_data": unknown, "notes": {}}))
    limits = card.partition("## Limits\n\n")[2]
    assert limits.startswith("What it was trained on is not known here, so neither is what lies outside of that; ")
    assert "dermoscopy of single lesions" not in limits
    assert limits.count("- **reject**: ") == 1
    partly = manifest.training_data.model_copy(update={"licences": {}})
    assert "| isic2017 | 1778 | not stated |" in model_card(manifest.model_copy(update={"training_data": partly}))


@pytest.mark.parametrize("title", ["Training data", "Scores"])
def test_a_note_of_another_generated_section_is_added_to_it(dark_bundle: Bundle, title: str) -> None:
    card = model_card(dark_bundle.manifest.model_copy(update={"notes": {title: "More of it."}}))
    assert headings(card) == ["Training data", "Scores", "Limits"]
    below = card.partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert below.endswith("\n\nMore of it.\n")


def test_many_metrics_stand_below_each_other(dark_bundle: Bundle) -> None:
    (value,) = SCORE.metrics.values()
    for count, line in ((8, f"| {' | '.join(f'm{i}' for i in range(8))} |"), (9, "| m8 | 0.500 [0.400, 0.600] |")):
        score = SCORE.model_copy(update={"metrics": {f"m{i}": value for i in range(count)}})
        assert line in model_card(dark_bundle.manifest.model_copy(update={"scores": (score,)})).splitlines()


# Notes in a bundle


def test_notes_are_stored_in_their_order_and_replaced_whole(annotated: Bundle) -> None:
    assert list(Bundle.load(annotated.path).manifest.notes.items()) == list(NOTES.items())
    other = annotated.with_notes({"Cost": "An hour."})
    assert Bundle.load(annotated.path) == other
    assert other.manifest.notes == {"Cost": "An hour."}
    assert annotated.with_notes({}).manifest.notes == {}
    other.verify()


def test_an_old_manifest_has_no_notes(annotated: Bundle) -> None:
    manifest = json.loads((annotated.path / MANIFEST).read_text())
    assert manifest["format"] == 1
    del manifest["notes"]
    (annotated.path / MANIFEST).write_text(json.dumps(manifest))
    assert Bundle.load(annotated.path).manifest.notes == {}


def test_notes_are_not_recorded_in_a_zip(annotated: Bundle, tmp_path: Path) -> None:
    zipped = Bundle.load(annotated.pack(tmp_path / "dark.zip"))
    assert zipped.manifest.notes == NOTES
    with pytest.raises(InputError) as caught:
        zipped.with_notes({})
    assert str(caught.value) == f"{zipped.path} is a zip; notes can be recorded in a bundle's folder only"


def test_copies_and_new_scores_keep_the_notes(annotated: Bundle, tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path / "data", 2, size=(64, 64))
    samples = catalog.with_masks(catalog.read(tmp_path / "data"), ["lesion"])
    files = {name: annotated.read(name) for name in annotated.manifest.hashes}
    calibrated, _ = calibrate(annotated, samples, tmp_path / "calibrated", quality=False)
    for copy in (write(tmp_path / "copy", annotated.manifest, files), calibrated, annotated.with_scores([SCORE])):
        assert Bundle.load(copy.path).manifest.notes == NOTES
        assert "### By whom" in (copy.path / CARD).read_text()


HEADING = "the note 'A' holds the heading {}; expected '### ' or below in a note"
OPEN = "a block of code that begins with {0!r} does not end; put {0!r} on a line after it"
TITLE = "a note has the title {!r}; expected one line of text, with no spaces around it"


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"A": "text\n## B\ntext"}, HEADING.format("'## B'")),
        ({"A": "# B"}, HEADING.format("'# B'")),
        ({"A": "text\r   ##\tB"}, HEADING.format("'## B'")),
        ({"A": "text\r\n#"}, HEADING.format("'# '")),
        ({"A": "```\n## x\n```\n## B"}, HEADING.format("'## B'")),
        ({"A": "an inline ```one```\n## B"}, HEADING.format("'## B'")),
        ({"A": "```python\nx = 1"}, OPEN.format("```")),
        ({"A": "````\n```\n~~~~"}, OPEN.format("````")),
        ({"A": "~~~\n~~~ no end\n    ~~~"}, OPEN.format("~~~")),
        ({"": "text"}, TITLE.format("")),
        ({"A": "", " ": "text"}, TITLE.format(" ")),
        ({"A ": "text"}, TITLE.format("A ")),
        ({"A\n": "text"}, TITLE.format("A\n")),
        ({"A\n## B": "text"}, TITLE.format("A\n## B")),
        ({"A\u2028B": "text"}, TITLE.format("A\u2028B")),
    ],
)
def test_a_note_that_breaks_the_card_is_refused_when_it_is_written_and_when_it_is_read(
    annotated: Bundle, notes: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        annotated.with_notes(notes)
    assert str(caught.value) == message
    assert Bundle.load(annotated.path) == annotated
    manifest = json.loads((annotated.path / MANIFEST).read_text())
    (annotated.path / MANIFEST).write_text(json.dumps(manifest | {"notes": notes}))
    with pytest.raises(BundleError) as refused:
        Bundle.load(annotated.path)
    assert str(refused.value).endswith(f": notes: Value error, {message}")


# Notes in a file


@pytest.mark.parametrize(
    ("markdown", "notes"),
    [
        ("", {}),
        ("\n# Title\n\n", {}),
        ("# Title\n\n## A\n\ntext\n\n## B ##x\n## C", {"A": "text", "B ##x": "", "C": ""}),
        ("## A\r\n\r\none\r\ntwo\r\n", {"A": "one\ntwo"}),
        ("## A\n### B\n#C\n##D\n    ## E\n####### F", {"A": "### B\n#C\n##D\n    ## E\n####### F"}),
        ("## A\n```sh\n## B\n~~~\n```\n## C\n", {"A": "```sh\n## B\n~~~\n```", "C": ""}),
        ("## A\n~~~ `x`\n# B\n```\n~~~~  \n## C\n", {"A": "~~~ `x`\n# B\n```\n~~~~  ", "C": ""}),
        ("## A\n````\n```\n## B\n```\n````\n", {"A": "````\n```\n## B\n```\n````"}),
        ("## A\n``` is not `code`\n## B\n", {"A": "``` is not `code`", "B": ""}),
    ],
)
def test_notes_are_read_by_their_headings(markdown: str, notes: dict[str, str]) -> None:
    assert list(parse_notes(markdown).items()) == list(notes.items())
    assert list(notes) == headings(markdown)


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("text\n## A", "the notes begin with 'text'; expected a heading '## Title' before any text"),
        ("# T\ntext\n## A", "the notes begin with 'text'; expected a heading '## Title' before any text"),
        ("### A", "the notes begin with '### A'; expected a heading '## Title' before any text"),
        (
            "before\n# T\n## A",
            "the notes begin with 'before'; expected a heading '## Title' before any text",
        ),
        (
            "## A\nx\n## A\ny",
            "the notes have the heading '## A' twice; put both texts below one, or rename one",
        ),
        ("## A\n# B", "the notes hold the heading '# B'; expected '## ' for a note, '### ' inside one"),
        ("# T\n# B", "the notes hold the heading '# B'; expected '## ' for a note, '### ' inside one"),
        ("##\ntext", TITLE.format("")),
        ("## A\n```\n## B", OPEN.format("```")),
    ],
)
def test_a_file_that_is_no_notes_is_refused(markdown: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_notes(markdown)
    assert str(caught.value) == message


BARE = Bundle.load().manifest.model_copy(update={"notes": {}})

words = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=12)
titles = words.map(str.strip).filter(lambda title: title not in ("", "Training data", "Scores", "Limits"))
code = st.tuples(st.sampled_from(["```", "~~~~"]), st.lists(words.map(lambda line: f"# {line}"), max_size=2)).map(
    lambda block: "\n".join([block[0], *block[1], block[0]])
)
lines = st.one_of(words.map(lambda line: f"- {line}"), words.map(lambda line: f"### {line}"), st.just(""), code)
texts = st.lists(lines, max_size=5).map(lambda parts: "\n".join(parts).strip("\n"))


@given(st.dictionaries(titles, texts, max_size=4))
def test_notes_survive_markdown_and_stand_whole_in_the_card(notes: dict[str, str]) -> None:
    markdown = as_markdown(notes)
    assert list(parse_notes(markdown).items()) == list(notes.items())
    before, limits, after = model_card(BARE).partition("## Limits\n")
    assert model_card(BARE.model_copy(update={"notes": notes})) == f"{before}{markdown}{limits}{after}"


@given(st.text(st.sampled_from("##``~~ \n\n\tab"), max_size=40))
def test_what_is_a_heading_is_so_for_every_reader_of_markdown(text: str) -> None:
    try:
        notes = parse_notes(f"## A\n{text}")
    except InputError:
        return
    assert len(headings(as_markdown(notes))) == len(notes)
