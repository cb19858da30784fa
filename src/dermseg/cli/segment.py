"""``dermseg segment``."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.progress import progress_bar
from dermseg.errors import SHOWN, DermsegError, InputError, printable

if TYPE_CHECKING:
    from dermseg.ensemble import Ensemble
    from dermseg.imaging import Source
    from dermseg.quality import Quality
    from dermseg.segmenter import Output, Prediction, Segmenter

DEFAULT_OUTPUT = Path("dermseg-output")
PICTURES: tuple[Output, ...] = ("mask", "overlay", "result", "probability", "uncertainty")
ENDINGS = tuple(f"_{name}.png" for name in PICTURES)


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Orientation(StrEnum):
    """What is done with a photograph's EXIF orientation."""

    upright = "upright"
    stored = "stored"


Tta = Annotated[
    bool,
    typer.Option("--tta", help="Predict ten views of an image, mirrored, turned and scaled, and take the mean."),
]
McDropout = Annotated[
    int,
    typer.Option(help="Predict so many times with Monte Carlo dropout and take the mean; 0: once, without dropout."),
]
Seed = Annotated[int, typer.Option(help="Of the dropout; the same gives the same masks.")]


def segment(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders or quoted globs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = DEFAULT_OUTPUT,
    save: Annotated[
        str, typer.Option(help="What to write: any of mask, overlay, result, probability, uncertainty, json.")
    ] = "mask,overlay",
    bundle: Annotated[str | None, typer.Option("--bundle", "-b", help=f"{WHICH} [lesion].")] = None,
    ensemble: Annotated[
        str | None,
        typer.Option(
            help="Take the mean of several bundles instead: B1,B2; it has no verdict on its masks.", metavar="B1,B2"
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability above which a pixel belongs to the mask [bundle's own].")
    ] = None,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into subfolders, and make them in the output's folder.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Images in work at a time [number of cores].")] = None,
    orientation: Annotated[
        Orientation, typer.Option(help="upright turns a photograph as its EXIF says; stored does not.")
    ] = Orientation.upright,
    max_megapixels: Annotated[float, typer.Option(help="Largest image to open.")] = 100.0,
    tta: Tta = False,
    mc_dropout: McDropout = 0,
    seed: Seed = 0,
    mm_per_pixel: Annotated[
        float | None, typer.Option(help="Length of a side of the images' pixels, to measure in millimetres.")
    ] = None,
    one_bit: Annotated[bool, typer.Option("--one-bit", help="Write masks of 1 bit a pixel, not 8.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object an image.")] = False,
) -> None:
    """Find the lesion in images and write masks at their own size.

    A file that cannot be used is listed at the end, the others are done; the exit code is then 1. Masks that a bundle
    itself says should be reviewed or rejected are written and listed. Of a bundle of several classes, such as the
    attributes of ISIC 2018 Task 2, each has a mask of its own, and the first images' areas are printed as a table.

    Examples:
    - `dermseg segment lesion.jpg`
    - `dermseg segment photos --recursive --output masks --save mask,json`
    - `dermseg segment 'photos/*.png' --threshold 0.4 --json`
    - `dermseg segment lesion.jpg --tta --mc-dropout 10 --seed 1 --save mask,uncertainty,json`
    - `dermseg segment photos --ensemble lesion,runs/unet/bundle --save mask,uncertainty`
    - `dermseg segment lesion.jpg --mm-per-pixel 0.02 --json`
    - `dermseg segment lesion.jpg --bundle attributes --save mask,overlay,json`
    """
    from dermseg.bundle import Bundle
    from dermseg.ensemble import Ensemble
    from dermseg.imaging import make_folder
    from dermseg.segmenter import Segmenter, check_outputs, picture_endings
    from dermseg.wording import count

    if bundle is not None and ensemble is not None:
        raise typer.BadParameter("give one of --bundle and --ensemble")
    outputs = check_outputs(
        [name.strip() for name in save.split(",") if name.strip()],
        sampled=tta or bool(mc_dropout) or ensemble is not None,
    )
    names = names_in(ensemble) if ensemble is not None else ["lesion" if bundle is None else bundle]
    bundles = [Bundle.load(name) for name in names]
    classes = bundles[0].manifest.classes
    jobs = plan(paths, output, recursive, [ending for name in PICTURES for ending in picture_endings(name, classes)])
    segmenters = [
        Segmenter(
            each,
            device=device.value,
            threshold=threshold,
            orientation=orientation.value,
            max_megapixels=max_megapixels,
            # Several images share the cores better than several threads share one image.
            threads=1 if len(jobs) > 1 and workers != 1 else None,
            tta=tta,
            mc_dropout=mc_dropout,
            seed=seed,
            mm_per_pixel=mm_per_pixel,
        )
        for each in bundles
    ]
    segmenter = segmenters[0] if ensemble is None else Ensemble(segmenters)
    make_folder(output)
    failures, doubts, found = _run(segmenter, jobs, outputs, workers, as_json, 1 if one_bit else 8)
    done = len(jobs) - len(failures)
    if found:
        typer.echo("\n".join(table(found)))
        if done > len(found):
            typer.echo(f"and {count(done - len(found), 'more image')}; --save json tells of all")
    if not as_json and done:
        typer.echo(f"{count(done, 'image')}: {', '.join(outputs)} in {printable(output)}")
    for path, quality in doubts[:SHOWN]:
        typer.echo(f"{quality.verdict}: {printable(path)}: {quality.reason}", err=True)
    if len(doubts) > SHOWN:
        typer.echo(f"and {len(doubts) - SHOWN} more masks to review or reject; --save json says which", err=True)
    if failures:
        for path, error in failures:
            typer.echo(f"error: {sentence(path, error)}", err=True)
        if len(jobs) > 1:
            typer.echo(f"{len(failures)} of {len(jobs)} images failed", err=True)
        raise typer.Exit(1)


def plan(
    paths: Sequence[str],
    output: Path,
    recursive: bool,
    endings: Sequence[str] = ENDINGS,
) -> dict[Path, Path]:
    """Find the images, and for each the folder its results go to.

    Args:
        paths: Images, folders or globs.
        output: Folder of the results.
        recursive: Whether to look into subfolders.
        endings: What the names of an image's results may end with, after its stem.

    Raises:
        InputError: If there is nothing to do, or one result would take the place of another or of an input.
    """
    jobs: dict[Path, Path] = {}
    for given in paths:
        try:
            jobs |= {image: output / place for image, place in _find(given, output, recursive)}
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{printable(given)} cannot be searched for images ({reason})") from error
    real = cache(Path.resolve)
    inputs = {real(image.parent) / image.name for image in jobs}
    targets: dict[str, Path] = {}
    for image, folder in jobs.items():
        for ending in ("", *endings):
            # Names that differ in case alone are one file on some systems.
            first = targets.setdefault(str(folder / (image.stem + ending)).casefold(), image)
            if first != image:
                shown = ending or "_*"
                raise InputError(
                    f"{first} and {image} would both be written to {folder / image.stem}{shown}; rename one of them"
                )
        for ending in endings:
            target = image.stem + ending
            if real(folder) / target in inputs:
                what = Path(ending).stem.strip("_").replace("_", " ")
                raise InputError(
                    f"the {what} of {image} would replace the input {folder / target}; choose another --output"
                )
    return jobs


def _find(given: str, output: Path, recursive: bool) -> Iterable[tuple[Path, Path]]:
    """Images meant by one argument, each with its folder relative to the output's.

    An output folder inside the folder that is searched holds an earlier run's results, which are no input.
    """
    from dermseg.imaging import IMAGE_SUFFIXES

    if not given:
        raise InputError("an empty argument is no image; expected a file, a folder or a quoted glob")
    path = Path(given)
    if path.is_dir():
        found = sorted(path.rglob("*") if recursive else path.iterdir())
        results = output.resolve() if path.resolve() in output.resolve().parents else None
        images = [
            file
            for file in found
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and results not in file.resolve().parents
        ]
        if not images:
            hint = "" if recursive else "; --recursive looks into subfolders"
            raise InputError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
        return [(image, image.parent.relative_to(path)) for image in images]
    if not path.exists() and glob.has_magic(given):
        matches = sorted(Path(match) for match in glob.glob(given, recursive=True))  # noqa: PTH207
        if not (files := [match for match in matches if match.is_file()]):
            raise InputError(f"no file matches {given!r}")
        return [(file, Path()) for file in files]
    return [(path, Path())]


def _run(
    segmenter: Segmenter | Ensemble,
    jobs: Mapping[Path, Path],
    outputs: Sequence[Output],
    workers: int | None,
    as_json: bool,
    mask_bits: Literal[1, 8],
) -> tuple[list[tuple[Path, DermsegError]], list[tuple[Path, Quality]], dict[Path, list[dict[str, Any]]]]:
    """Segment and save all images.

    Returns:
        Those that failed; those whose mask is not to be trusted by itself; of the first with several classes, unless
        they were printed as JSON, what ``to_dict`` tells of each class.
    """
    failures: list[tuple[Path, DermsegError]] = []
    doubts: list[tuple[Path, Quality]] = []
    found: dict[Path, list[dict[str, Any]]] = {}

    def save(image: Source, prediction: Prediction) -> None:
        assert isinstance(image, Path)
        prediction.save(jobs[image], outputs, image.stem, mask_bits)
        _ = prediction.quality  # while other images are read

    results = segmenter.stream(jobs, finish=save, workers=workers)
    with progress_bar(len(jobs), "segmenting") as advance:
        for image, result in zip(jobs, results, strict=True):
            advance()
            if isinstance(result, DermsegError):
                failures.append((image, result))
            elif result.quality is not None and result.quality.verdict != "accept":
                doubts.append((image, result.quality))
            if as_json:
                outcome = {"error": str(result)} if isinstance(result, DermsegError) else result.to_dict()
                typer.echo(json.dumps({"path": str(image), **outcome}, allow_nan=False))
            elif not isinstance(result, DermsegError) and len(result.classes) > 1 and len(found) < SHOWN:
                found[image] = result.to_dict()["classes"]
    return failures, doubts, found


def table(found: Mapping[Path, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A line an image: of each class its share of the image, and how likely it is there at all, where that is told."""
    from dermseg.wording import align, plain

    def cell(told: Mapping[str, Any]) -> str:
        area = f"{100 * told['area_fraction']:.1f} %" if told["area_pixels"] else "-"
        return area if told["presence"] is None else f"{area} ({told['presence']:.2f})"

    places = [image.parent.resolve() / image.name for image in found]
    try:
        shared = os.path.commonpath([place.parent for place in places])
    except ValueError:  # on different drives
        names = list(map(str, places))
    else:
        names = [os.path.relpath(place, shared) for place in places]
    is_told = any(told["presence"] is not None for classes in found.values() for told in classes)
    head = ["area (presence)" if is_told else "area", *(plain(told["name"]) for told in next(iter(found.values())))]
    return align(
        [head, *([printable(name), *map(cell, told)] for name, told in zip(names, found.values(), strict=True))]
    )


def sentence(path: Path, error: DermsegError) -> str:
    """What went wrong, on one line that names the file with its folder."""
    message, shown = str(error), printable(path)
    for name in (shown, path.name):
        if message.startswith(f"{name} "):
            return shown + message.removeprefix(name)
    return f"{shown}: {message}"


def names_in(text: str) -> list[str]:
    """What stands between commas.

    Raises:
        InputError: If there is nothing between two of them.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"{text!r} lacks a name; expected names or folders joined by commas")
    return names
