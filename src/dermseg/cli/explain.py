"""``dermseg explain``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.progress import progress_bar
from dermseg.cli.segment import DEFAULT_OUTPUT, Device, Orientation, plan, sentence
from dermseg.errors import DermsegError, InputError, printable

if TYPE_CHECKING:
    from dermseg.explanation import Explainer


class Method(StrEnum):
    """How a layer's features and their gradients become a map."""

    gradcam = "gradcam"
    gradcam_plus = "gradcam++"
    hirescam = "hirescam"


def explain(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Images, folders or quoted globs.")
    ] = None,
    bundle: Annotated[str, typer.Option("--bundle", "-b", help=f"{WHICH}.")] = "lesion",
    method: Annotated[Method, typer.Option(help="For a point, hirescam: the others light all alike.")] = Method.gradcam,
    layer: Annotated[str | None, typer.Option(help="By which layer of the network [a deep one].")] = None,
    list_layers: Annotated[bool, typer.Option("--list-layers", help="List the layers and do no more.")] = False,
    class_name: Annotated[str | None, typer.Option("--class", help="What to explain [the bundle's first].")] = None,
    point: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="Explain one pixel, counted from the left and from above."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = DEFAULT_OUTPUT,
    device: Annotated[Device, typer.Option(help="auto is the CPU.")] = Device.auto,
    orientation: Annotated[
        Orientation, typer.Option(help="upright turns a photograph as its EXIF says; stored does not.")
    ] = Orientation.upright,
    max_megapixels: Annotated[float, typer.Option(help="Largest image to open.")] = 100.0,
) -> None:
    """Show which parts of images spoke for what the network found; needs the extra 'train'.

    Writes `ID_explanation.png`, the map over the photograph, and `ID_heat.png`, the map in grey. A map says where the
    features lie that the network used, not whether it was right, nor what a doctor would look at.

    A file that cannot be used is listed at the end, the others are done; the exit code is then 1.

    Examples:
    - `dermseg explain lesion.jpg`
    - `dermseg explain lesion.jpg --method hirescam --point 310,240`
    - `dermseg explain --bundle runs/mine/bundle --list-layers`
    - `dermseg explain photos --bundle runs/mine/bundle --class lesion --layer encoder -o maps`
    """
    from dermseg.explanation import PICTURES, Explainer
    from dermseg.imaging import make_folder
    from dermseg.parallel import attempt
    from dermseg.wording import count

    if not paths and not list_layers:
        raise typer.BadParameter("give at least one image, or --list-layers")
    place = _point(point)
    jobs = {} if list_layers else plan(paths or [], output, False, [f"_{name}.png" for name in PICTURES])
    explainer = Explainer(bundle, device=device.value, orientation=orientation.value, max_megapixels=max_megapixels)
    if list_layers:
        _list(explainer)
        return
    explainer.check(layer, class_name)
    make_folder(output)
    failures = []

    def work(image: Path) -> str:
        found = explainer(image, method=method.value, layer=layer, class_name=class_name, target=place or "lesion")
        return f"{printable(found.save(jobs[image], image.stem)[0])}: by the layer {found.layer}"

    with progress_bar(len(jobs), "explaining") as advance:
        for image in jobs:
            outcome = attempt(work, image)
            if isinstance(outcome, DermsegError):
                failures.append(sentence(image, outcome))
            elif len(jobs) == 1:
                typer.echo(outcome)
            advance()
    if len(jobs) > max(1, len(failures)):
        done = len(jobs) - len(failures)
        typer.echo(f"{count(done, 'image')}: {', '.join(PICTURES)} in {printable(output)}")
    if failures:
        for failure in failures:
            typer.echo(f"error: {failure}", err=True)
        if len(jobs) > 1:
            typer.echo(f"{len(failures)} of {len(jobs)} images failed", err=True)
        raise typer.Exit(1)


def _list(explainer: Explainer) -> None:
    """Print each layer and its channels, height and width."""
    found = explainer.layers()
    width = max(map(len, found))
    for name, (channels, rows, columns) in found.items():
        typer.echo(f"{name:{width}}  {channels} x {rows} x {columns}")


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--point is {text!r}; expected two numbers X,Y such as 310,240") from error
    return x, y
