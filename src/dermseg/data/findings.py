"""What a check of data can find: the kinds with their severity, the finding, and tables of findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dermseg.data import tables

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
COLUMNS = ("id", "source", "kind", "severity", "message", "path", "other")


@dataclass(frozen=True)
class Kind:
    """A kind of finding: how grave it is, what it means and what to do."""

    severity: Severity
    meaning: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind("error", "A file is no picture, or cannot be decoded.", "Download or export it again."),
    "truncated": Kind("error", "A file ends too early.", "Download or copy it again."),
    "blank-image": Kind("error", "An image shows one colour.", "Leave the image out or find the right one."),
    "size-mismatch": Kind("error", "Mask and image differ in size.", "Scale the mask, or find the one of this image."),
    "turned-mask": Kind(
        "error", "The mask fits the image as stored; viewers turn the image by its EXIF data.", "--fix turns the mask."
    ),
    "label-values": Kind(
        "error",
        "Labels such as 0 and 1 instead of grey: the mask is read as empty, or full.",
        "--fix writes 0 and 255.",
    ),
    "not-binary": Kind(
        "error", "The mask's outline depends on the threshold.", "Find the binary mask, or --fix cuts above 128."
    ),
    "empty-mask": Kind("error", "A lesion's mask has no foreground.", "Outline the lesion or leave the image out."),
    "inverted-mask": Kind("error", "Foreground and background are exchanged.", "--fix turns it round."),
    "leak": Kind(
        "error", "One picture is on two sides of the split, or in both data sets compared.", "Leave out one of the two."
    ),
    "parted-group": Kind(
        "error", "Photographs of one lesion or patient are on two sides of the split.", "Split by group."
    ),
    "id-conflict": Kind("error", "One id names different images.", "Rename one; splits and joins go by id."),
    "near-leak": Kind(
        "warning", "Much alike images are on two sides of the split, or in both data sets.", "Look at both."
    ),
    "duplicate": Kind("warning", "One picture has two ids.", "Leave out one of the two."),
    "conflicting-masks": Kind("warning", "Two data sets outline one image differently.", "Look which one is right."),
    "copied-mask": Kind("warning", "Two different images have the same mask.", "Find the mask that is missing."),
    "full-mask": Kind("warning", "The mask covers the whole image.", "Look whether the lesion fills the frame."),
    "tiny-mask": Kind("warning", "The mask is hardly more than a speck.", "Look whether it is the lesion."),
    "frame-mask": Kind("warning", "The mask covers nearly all of the frame's edge.", "Look whether it is inverted."),
    "soft-mask": Kind("warning", "Grey values beside 0 and 255, as of JPEG or smoothing.", "--fix cuts above 128."),
    "holes": Kind("warning", "Large holes in the mask.", "Look whether they belong to the lesion."),
    "exif-turned": Kind(
        "warning", "The EXIF data turn the image; tools differ in heeding them.", "Look whether the mask fits."
    ),
    "partly-blank": Kind("warning", "The image's lower rows show nothing, as after a cut download.", "Download again."),
    "small-image": Kind("warning", "A side has fewer than 64 pixels.", "Look whether it is a thumbnail."),
    "no-mask": Kind(
        "warning",
        "An image has no mask, where others have one.",
        "Add it; training refuses your own images without one and skips others.",
    ),
    "missing-class": Kind("warning", "An image lacks the mask of one class.", "Add it, empty if nothing is seen."),
    "orphan-mask": Kind("warning", "A mask without an image.", "Add the image or correct the name."),
    "unused-image": Kind("warning", "An image whose name is none of its data set's.", "Correct the name."),
    "wrong-name": Kind("warning", "A name that is probably misspelt.", "Rename the file."),
    "ambiguous-file": Kind("warning", "Two files for one image or mask.", "Remove one."),
    "near-duplicate": Kind("note", "Much alike images on one side of the split.", "Group them by lesion."),
    "specks": Kind("note", "Specks beside the lesion, mostly slips of the hand.", "--fix removes them."),
    "pinholes": Kind("note", "Tiny holes in the mask.", "--fix fills them."),
    "several-components": Kind("note", "The mask has several regions.", "None, if there are several lesions."),
    "cut-off": Kind("note", "The lesion reaches the frame.", "None."),
    "hair": Kind("note", "Hair covers a part of the image.", "None; consider hair removal."),
    "ruler": Kind("note", "A ruler is in the image.", "None."),
    "vignette": Kind("note", "Dark corners of a dermoscope.", "None."),
    "unused-file": Kind("note", "A file that is no picture.", "None."),
}


@dataclass(frozen=True)
class Finding:
    """Something about one image or file.

    Attributes:
        kind: Of ``KINDS``.
        severity: "error" spoils training or scoring, "warning" asks to be looked at, "note" is a property.
        id: The sample's, or the file's name where it is no sample's.
        source: The data set.
        path: The file it is about.
        message: One sentence with the proof in figures.
        other: The other file, such as the duplicate.
    """

    kind: str
    severity: Severity
    id: str
    source: str
    path: Path
    message: str
    other: Path | None = None


def make(kind: str, id: str, source: str, path: Path, message: str, other: Path | None = None) -> Finding:
    """Make a finding with its kind's severity; ``message`` is a sentence without its beginning, the file's name."""
    return Finding(kind, KINDS[kind].severity, id, source, path, f"{path.name} {message}", other)


def place_of(path: Path) -> Path:
    """Where a file lies, however its folder is spelt; a link in another folder is a copy of its own."""
    return path.parent.resolve() / path.name


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then by source, id and kind."""
    kinds = list(KINDS)
    return sorted(
        findings,
        key=lambda one: (SEVERITIES.index(one.severity), one.source, one.id, kinds.index(one.kind), str(one.path)),
    )


def to_csv(findings: Iterable[Finding]) -> str:
    """A table of findings, one a line, with the columns of ``COLUMNS``."""
    return tables.encode(COLUMNS, _rows(findings))


def write_csv(findings: Iterable[Finding], path: Path) -> None:
    """Write ``to_csv``'s table.

    Raises:
        InputError: If the file cannot be written.
    """
    tables.write(path, COLUMNS, _rows(findings))


def _rows(findings: Iterable[Finding]) -> Iterator[list[object]]:
    return ([getattr(finding, name) for name in COLUMNS] for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """The number of findings of each kind, errors first, with what they mean, as a table for a terminal."""
    if not findings:
        return "nothing was found"
    counts = Counter(finding.kind for finding in findings)
    rows = [
        (kind.severity, name, str(counts[name]), kind.meaning)
        for severity in SEVERITIES
        for name, kind in KINDS.items()
        if kind.severity == severity and name in counts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{severity:<{widths[0]}}  {name:<{widths[1]}}  {count:>{widths[2]}}  {meaning}"
        for severity, name, count, meaning in rows
    )
