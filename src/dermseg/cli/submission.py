"""``dermseg submission``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.segment import Device


def submission(
    images: Annotated[Path, typer.Option("--images", help="Folder of the challenge's images, ISIC_*.jpg.")],
    task: Annotated[int, typer.Option("--task", min=1, max=2, help="1 is the lesion, 2 the five attributes.")],
    bundle: Annotated[str, typer.Option("--bundle", "-b", help=f"{WHICH}.")] = "lesion",
    output: Annotated[Path, typer.Option("--output", "-o", help="The ZIP to write.")] = Path("submission.zip"),
    threshold: Annotated[float | None, typer.Option(help="In place of the bundle's own.")] = None,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
) -> None:
    """Write the masks of a folder of images as a submission to the ISIC 2018 challenge, Task 1 or 2.

    One ZIP of 8-bit masks at the size of the stored images, named as the official scorer asks. An image that cannot be
    used is listed, and then there is no ZIP, since the challenge refuses an incomplete one.

    Examples:
    - `dermseg submission --task 1 --images ISIC2018_Task1-2_Test_Input`
    - `dermseg submission --task 2 --images ISIC2018_Task1-2_Test_Input --bundle runs/attributes/bundle -o task2.zip`
    """
    from dermseg.cli.progress import progress_bar
    from dermseg.imaging import make_folder
    from dermseg.segmenter import Segmenter
    from dermseg.submission import find_images, write

    found = find_images(images)
    segmenter = Segmenter(bundle, device=device.value, threshold=threshold, orientation="stored", threads=1)
    make_folder(output.parent)
    with progress_bar(len(found), "segmenting") as advance:
        names = write(segmenter, found, task, output, progress=advance)
    typer.echo(f"{len(names)} masks of {len(found)} images for ISIC 2018 Task {task}: {output}")
