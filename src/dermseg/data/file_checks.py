"""Files whose names keep them from being used: masks without an image, images without a mask, slips in spelling.

A fault is a file, a kind (see ``dermseg.data.quality.KINDS``), a sentence, and the sample it was meant for, if any.
"""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermseg.data.catalog import LESION, LESION_SUFFIXES, Sample
from dermseg.imaging import IMAGE_SUFFIXES

ALIKE = 0.8  # of difflib's ratio, for two spellings of one name


@dataclass(frozen=True)
class FileFault:
    """What is wrong with a file's name, or with a sample's lack of a file.

    Attributes:
        sample: The sample it is about, or for which the file was meant; None for a file of no sample.
        other: Another file that is involved.
    """

    path: Path
    kind: str
    message: str
    sample: Sample | None = None
    other: Path | None = None


def find(samples: Sequence[Sample]) -> Iterator[FileFault]:
    """Check the names in all folders that hold an image or a mask of ``samples``, which must be all of one source."""
    usual = _usual_classes(samples)
    lacking = {(sample.id, name): sample for sample in samples if usual for name in usual - sample.masks.keys()}
    explained: set[tuple[str, str]] = set()
    for fault, missing in [*_odd_classes(samples, usual), *_unused_files(samples, lacking)]:
        explained.update(missing)
        yield fault
    for (id, name), sample in lacking.items():
        if (id, name) in explained:
            continue
        if sample.masks:
            yield FileFault(
                sample.image, "missing-class", f"has no mask of {name}; others of {sample.source} do", sample
            )
        elif name == min(usual):
            yield FileFault(sample.image, "no-mask", f"has no mask; others of {sample.source} do", sample)


Named = tuple[FileFault, Sequence[tuple[str, str]]]  # with the masks (id, class) whose lack it explains


def _usual_classes(samples: Sequence[Sample]) -> set[str]:
    """The classes that at least half of the samples with any mask have."""
    with_any = [sample for sample in samples if sample.masks]
    counts = Counter(name for sample in with_any for name in sample.masks)
    return {name for name, count in counts.items() if 2 * count >= len(with_any)}


def _odd_classes(samples: Sequence[Sample], usual: set[str]) -> Iterator[Named]:
    """Masks whose ending is a slip of a usual one's: a_segmentatoin.png is read as a class of its own."""
    spellings = {suffix.strip("_"): LESION for suffix in LESION_SUFFIXES if suffix} | {name: name for name in usual}
    for sample in samples:
        for name, path in sample.masks.items():
            close = [] if name in usual else difflib.get_close_matches(_key(name), spellings, 1, ALIKE)
            if close and (meant := spellings[close[0]]) in usual - sample.masks.keys():
                message = f"is read as a mask of {name!r}; {close[0]!r} is probably meant"
                yield FileFault(path, "wrong-name", message, sample), [(sample.id, meant)]


def _unused_files(samples: Sequence[Sample], lacking: Mapping[tuple[str, str], Sample]) -> Iterator[Named]:
    used: dict[Path, dict[str, Sample]] = defaultdict(dict)  # folder -> file name -> sample
    endings: dict[Path, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))  # folder -> class
    image_folders = set()
    for sample in samples:
        image_folders.add(sample.image.parent)
        used[sample.image.parent][sample.image.name] = sample
        for name, path in sample.masks.items():
            used[path.parent][path.name] = sample
            if path.stem.startswith(sample.image.stem):
                endings[path.parent][name][path.stem[len(sample.image.stem) :]] += 1
    images: list[Path] = []
    masks: dict[str, list[Path]] = defaultdict(list)  # key of the image's name -> its masks
    for folder, names in sorted(used.items()):
        ending = {name: counts.most_common(1)[0][0] for name, counts in endings[folder].items()}
        expected = {
            _key(sample.image.stem + ending[name]): (name, sample)
            for (_, name), sample in lacking.items()
            if name in ending
        }
        slips = _by_numbers(expected)
        twins = {_key(sample.image.stem + suffix): name for name, sample in names.items() for suffix in LESION_SUFFIXES}
        twins |= {_key(Path(name).stem): name for name in names}
        for path in sorted(folder.iterdir()):
            hidden = path.name.startswith(".") or path.stem.endswith("_superpixels")  # ISIC 2017's, beside its images
            if path.name in names or hidden or not path.is_file():
                continue
            key = _key(path.stem)
            if meant := _closest(key, slips):
                name, sample = expected[meant]
                message = f"is used by no image; it is probably the mask of {name} that {sample.image.name} lacks"
                yield FileFault(path, "wrong-name", message, sample, sample.image), [(sample.id, name)]
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                yield FileFault(path, "unused-file", f"is no picture and not used ({path.stat().st_size} bytes)"), []
            elif twin := twins.get(key):
                message = f"seems to be of the same image as {twin}, which is used instead"
                yield FileFault(path, "ambiguous-file", message, names[twin], folder / twin), []
            elif folder in image_folders:
                images.append(path)
            else:
                longest = max((end for end in ending.values() if path.stem.endswith(end)), key=len, default="")
                masks[_key(path.stem.removesuffix(longest))].append(path)
    wanted = _by_numbers(masks)
    for path in images:
        meant = _closest(_key(path.stem), wanted)
        if meant is None:
            yield FileFault(path, "unused-image", "is not used: its name is none of this data set's"), []
            continue
        found = masks.pop(meant, [])
        if found and not found[0].stem.startswith(path.stem):  # else a sound pair, that is just not among the samples
            message = f"is not used; it is probably the image of {found[0].name}"
            yield FileFault(path, "wrong-name", message, other=found[0]), []
    for path in itertools.chain.from_iterable(masks.values()):
        yield FileFault(path, "orphan-mask", "is a mask without an image"), []


ByNumbers = Mapping[tuple[str, ...], Sequence[str]]


def _by_numbers(keys: Iterable[str]) -> ByNumbers:
    """Keys of names by the numbers in them."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in keys:
        found[_numbers(key)].append(key)
    return found


def _numbers(key: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+", key))


def _closest(key: str, expected: ByNumbers) -> str | None:
    """The expected key of which a key is a slip; their numbers must be the same."""
    close = difflib.get_close_matches(key, expected.get(_numbers(key), ()), 1, ALIKE)
    return close[0] if close else None


def _key(stem: str) -> str:
    """A name without what a slip of the hand changes: case, spaces, marks, leading zeros, "copy" and "(1)"."""
    text = unicodedata.normalize("NFKC", stem).casefold()
    text = re.sub(r"\(\d+\)|\bcopy\b|\bkopie\b", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", " ", text)).replace(" ", "_").strip("_")
