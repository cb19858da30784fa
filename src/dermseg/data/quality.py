"""Finds what would spoil training or scoring in a data set: broken files, wrong masks, names, duplicates and leaks.

Each image and mask is decoded once, on several threads, and only figures about it are kept.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.appearance import look
from dermseg.data import copy_checks, file_checks, mask_checks, tables
from dermseg.data.catalog import LESION, Sample
from dermseg.data.copy_checks import View
from dermseg.data.duplicates import fingerprint
from dermseg.data.findings import KINDS, Finding, Kind, make, ordered, place_of, summary, to_csv, write_csv
from dermseg.data.splits import Split
from dermseg.errors import BrokenImageError, DermsegError, InputError
from dermseg.imaging import (
    MASK_THRESHOLD,
    Photograph,
    encode_mask,
    make_folder,
    open_image,
    read_mask_values,
    write_bytes,
)
from dermseg.parallel import in_order

__all__ = ["KINDS", "Finding", "Kind", "check", "check_fix_folder", "fix", "summary", "to_csv", "write_csv"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

WORKING_SIDE = 512  # pixels of the longer side that an image is at least decoded to
SMALL_SIDE = 64
BLANK = 2.0  # grey values of standard deviation
DISAGREEMENT = 0.8  # of intersection over union, between two truths
BLANK_ROWS = 0.02  # of the height
HAIRY, VIGNETTED = 0.05, 0.01  # of the image
DARKEST, LIGHTEST = 40, 250  # of a frame's and a page's rows


def check(
    samples: Sequence[Sample],
    root: Path,
    *,
    table: Mapping[str, Split] | None = None,
    against: Sequence[Sample] = (),
    duplicates: bool = True,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> list[Finding]:
    """Check images, masks, names and splits.

    Args:
        samples: All that ``catalog.read`` found of one source or several; files of others count as unused.
        root: The folder it read; messages name files from there.
        table: The split; the shipped ones if None.
        against: Images, of a test set say, of which ``samples`` should hold no copies; not checked themselves, and
            passed over where they cannot be read or are the very files of ``samples``.
        duplicates: Whether to look for copies.
        workers: Threads; one for each core if None.
        progress: Called after each image of ``samples`` and ``against``.

    Returns:
        The findings, errors first, then by source and id.
    """
    step = progress or (lambda: None)
    by_id: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_id[sample.id].append(sample)
    findings: list[Finding] = []
    views: list[View] = []
    compared: list[View] = []
    for group, (found, seen) in zip(by_id.values(), in_order(_check_images, by_id.values(), workers), strict=True):
        findings += found
        views += seen
        for _ in group:
            step()
    own = {place_of(sample.image) for sample in samples}
    foreign = [sample for sample in against if duplicates and place_of(sample.image) not in own]
    for view in in_order(_view, foreign, workers):
        compared += [] if view is None else [view]
        step()
    for _ in range(len(against) - len(foreign)):
        step()
    for source in sorted({sample.source for sample in samples}):
        for fault in file_checks.find([sample for sample in samples if sample.source == source]):
            id = fault.sample.id if fault.sample else fault.path.stem
            findings.append(make(fault.kind, id, source, fault.path, fault.message, fault.other))
    findings += copy_checks.find_masks(views, root)
    if duplicates:
        findings += copy_checks.find_images(views, compared, table, root)
    findings += copy_checks.find_groups(samples, table)
    return ordered(findings)


def check_fix_folder(output: Path, samples: Iterable[Sample]) -> None:
    """Check that corrected masks may be written to a folder.

    Raises:
        InputError: If it holds something already, is no folder, or lies among the images and masks of ``samples``.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} is not empty; give a new folder for the corrected masks")
    folders = {path.parent for sample in samples for path in (sample.image, *sample.masks.values())}
    inside = {folder.resolve() for folder in folders} & {output.resolve(), *output.resolve().parents}
    if inside:
        raise InputError(f"{output} lies in the data, in {min(inside)}; give a folder outside for the corrected masks")


def fix(findings: Iterable[Finding], samples: Sequence[Sample], output: Path) -> list[Path]:
    """Write corrected masks to a folder, in the layout of the data set; the originals stay as they are.

    Inverted masks are turned round, labels 0 and 1 written as 0 and 255, grey values cut above 128, masks of images
    turned by EXIF turned as well, specks removed and tiny holes filled. ``fixes.csv`` there lists what was done.

    Args:
        findings: Of ``check``; those that are no fault of a mask are passed over, and so are masks with an error that
            needs a judgement.
        samples: The samples that were checked.
        output: The folder, see ``check_fix_folder``; made if it is missing.

    Returns:
        The masks written.

    Raises:
        InputError: If the folder is not empty or lies in the data, or a mask cannot be written.
        ImageError: If a mask cannot be read any more.
    """
    check_fix_folder(output, samples)
    by_mask: dict[Path, set[str]] = defaultdict(set)
    for finding in findings:
        if finding.kind in mask_checks.MENDABLE or finding.severity == "error":
            by_mask[finding.path].add(finding.kind)
    owners = {path: sample for sample in samples for path in sample.masks.values()}
    plan = {}  # all is decided before the first is written
    for path in sorted(by_mask.keys() & owners.keys()):
        # Other masks cannot be read, or would still be wrong after mending.
        if by_mask[path] <= mask_checks.MENDABLE:
            grey = read_mask_values(path)
            if all(mask_checks.is_mendable(kind, grey) for kind in by_mask[path]):
                turned = "turned-mask" in by_mask[path]
                plan[path] = open_image(owners[path].image).exif_orientation if turned else 1
    if not plan:
        return []
    files = [path.absolute() for sample in samples for path in (sample.image, *sample.masks.values())]
    base = Path(os.path.commonpath([path.parent for path in files]))
    rows, written = [], []
    for path, turn in plan.items():
        sample, kinds = owners[path], sorted(by_mask[path])
        mask = mask_checks.repair(read_mask_values(path), kinds, turn)
        target = output / path.absolute().relative_to(base).with_suffix(".png")
        make_folder(target.parent)
        write_bytes(target, encode_mask(mask))
        written.append(target)
        rows.append(
            [sample.id, sample.source, " ".join(kinds), str(path), str(target), f"{mask_checks.share_of(mask):.4f}"]
        )
    tables.write(output / "fixes.csv", ("id", "source", "kinds", "original", "fixed", "foreground"), rows)
    return written


def _check_images(group: Sequence[Sample]) -> tuple[list[Finding], list[View]]:
    """Check the images of one id, each from another data set, and compare their masks."""
    findings: list[Finding] = []
    views: list[View] = []
    masks: list[tuple[Sample, Mapping[str, Mask]]] = []
    for sample in group:
        photograph, pixels, found = _check_image(sample)
        sound, of_masks = _check_masks(sample, photograph, pixels)
        findings += [*found, *of_masks]
        if photograph is not None and pixels is not None:
            lesion = sound.get(LESION)
            findings += _describe(sample, pixels)
            views.append(_view_of(sample, photograph, pixels, lesion))
        masks.append((sample, sound))
    for (one, ours), (other, theirs) in itertools.combinations(masks, 2):
        for name in ours.keys() & theirs.keys():
            share = mask_checks.agreement(ours[name], theirs[name])
            if share is not None and share < DISAGREEMENT:
                message = f"and the {name} mask of {one.source} have an intersection over union of {share:.2f}"
                path, against = other.masks[name], one.masks[name]
                findings.append(make("conflicting-masks", other.id, other.source, path, message, against))
    return findings, views


def _check_image(sample: Sample) -> tuple[Photograph | None, Pixels | None, list[Finding]]:
    """Open and decode an image; its pixels are None where that fails or they show nothing."""
    path, faults = sample.image, []
    try:
        photograph = open_image(path)
        pixels = photograph.pixels(at_least=WORKING_SIDE)
    except DermsegError as error:
        return None, None, [make(*_file_fault(error, path, sample))]
    height, width = photograph.size
    if min(height, width) < SMALL_SIDE:
        faults.append(("small-image", f"has {width} x {height} pixels"))
    spread = float(cv2.meanStdDev(pixels)[1].max())
    if spread < BLANK:
        faults.append(("blank-image", f"has one colour: its values have a standard deviation of {spread:.1f}"))
    elif (blank := _blank_rows(pixels)) > BLANK_ROWS:
        faults.append(("partly-blank", f"has one colour in its lowest {blank:.0%}"))
    findings = [make(kind, sample.id, sample.source, path, message) for kind, message in faults]
    return photograph, None if spread < BLANK else pixels, findings


def _check_masks(
    sample: Sample, photograph: Photograph | None, pixels: Pixels | None
) -> tuple[dict[str, Mask], list[Finding]]:
    """Check an image's masks; gives those that can be compared with others."""
    findings: list[Finding] = []
    sound: dict[str, Mask] = {}
    turned = False
    for name, path in sample.masks.items():
        try:
            grey = read_mask_values(path)
        except DermsegError as error:
            findings.append(make(*_file_fault(error, path, sample)))
            continue
        faults = []
        if (fault := mask_checks.value_fault(grey, may_be_empty=name != LESION)) is not None:
            faults.append(fault)
        if photograph is not None and grey.shape != photograph.size:
            (height, width), image = grey.shape, f"{photograph.size[1]} x {photograph.size[0]}"
            turned = photograph.exif_orientation >= 5 and (width, height) == photograph.size
            kind = "turned-mask" if turned else "size-mismatch"
            faults.append((kind, f"has {width} x {height} pixels, its image {image}"))
        elif fault is None or fault[0] not in ("empty-mask", "label-values", "not-binary"):
            mask = grey > MASK_THRESHOLD
            score = mask_checks.inversion_score(pixels, mask) if name == LESION and pixels is not None else 0.0
            if score > 0:
                share = f"covers {mask_checks.share_of(mask):.0%} of the image"
                faults.append(
                    (
                        "inverted-mask",
                        f"{share}, of which it leaves out what is darker or in the middle (score {score:.1f}, above 0)",
                    )
                )
            else:
                sound[name] = mask
                faults += mask_checks.shape_faults(mask) if name == LESION else []
        findings += [make(kind, sample.id, sample.source, path, message) for kind, message in faults]
    if photograph is not None and photograph.exif_orientation != 1 and not turned:
        message = f"declares the EXIF orientation {photograph.exif_orientation}"
        findings.append(make("exif-turned", sample.id, sample.source, sample.image, message))
    return sound, findings


def _view(sample: Sample) -> View | None:
    photograph, pixels, _ = _check_image(sample)
    return _view_of(sample, photograph, pixels, None) if photograph is not None and pixels is not None else None


def _view_of(sample: Sample, photograph: Photograph, pixels: Pixels, lesion: Mask | None) -> View:
    of_mask = None
    if lesion is not None and 0 < mask_checks.share_of(lesion) < mask_checks.FULL:
        of_mask = _digest(lesion.view(np.uint8))
    return View(sample, photograph.size, _digest(pixels), fingerprint(pixels), of_mask)


def _digest(values: Pixels) -> bytes:
    digest = hashlib.blake2b(str(values.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def _blank_rows(pixels: Pixels) -> float:
    """The share of the image below the last row that differs from the lowest, where that has one mid grey or colour."""
    last = pixels[-1, 0]
    if last.max() < DARKEST or last.min() > LIGHTEST:
        return 0.0  # a frame
    drawn = np.flatnonzero((pixels != last).any(axis=(1, 2)))
    return 1 - (drawn[-1] + 1 if len(drawn) else 0) / len(pixels)


def _file_fault(error: DermsegError, path: Path, sample: Sample) -> tuple[str, str, str, Path, str]:
    """The arguments of ``findings.make`` for a file that cannot be decoded."""
    reason = str(error.__cause__ or error).lower()
    cut = isinstance(error, BrokenImageError) and any(
        word in reason for word in ("truncated", "is empty", "not enough")
    )
    return (
        "truncated" if cut else "unreadable",
        sample.id,
        sample.source,
        path,
        str(error).removeprefix(f"{path.name} "),
    )


def _describe(sample: Sample, pixels: Pixels) -> list[Finding]:
    """Note what lies on the skin or around the picture."""
    seen = look(pixels)
    notes = {"hair": (seen.hair, HAIRY), "ruler": (seen.ruler, 0.0), "vignette": (seen.vignette, VIGNETTED)}
    return [
        make(kind, sample.id, sample.source, sample.image, f"has {kind} on {share:.1%} of it")
        for kind, (share, limit) in notes.items()
        if share > limit
    ]
