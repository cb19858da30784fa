"""``dermseg predict`` and ``dermseg inference``: ``dermseg segment`` with the options of DS-AttentionUNet's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.segment import Device, Orientation, segment
from dermseg.errors import InputError

CHECKPOINTS = (".pth", ".pt", ".ckpt")

Model = Annotated[str, typer.Option("--model_path", help=f"{WHICH}.")]
OutputFolder = Annotated[Path, typer.Option("--output_dir", help="Folder of the results.")]
Threshold = Annotated[float | None, typer.Option(help="Probability above which a pixel is lesion [bundle's own].")]
Size = Annotated[int | None, typer.Option("--img_size", help="The bundle's own; masks are of the image's size anyway.")]
Gpu = Annotated[bool, typer.Option("--use_gpu", help="Run on the GPU; needs the extra 'train'.")]


def predict(
    input_dir: Annotated[Path, typer.Option("--input_dir", "--input", help="Folder of images, or one image.")],
    model_path: Model = "lesion",
    output_dir: OutputFolder = Path("predictions"),
    threshold: Threshold = None,
    img_size: Size = None,
    use_gpu: Gpu = False,
) -> None:
    """Segment a folder of images; `dermseg segment FOLDER` does the same.

    Writes `ID_mask.png`, `ID_overlay.png` and `ID_result.png`, the image side by side with them.

    Example:
    - `dermseg predict --model_path runs/mine/bundle --input_dir photos --output_dir masks`
    """
    _segment(input_dir, model_path, output_dir, threshold, img_size, use_gpu)


def inference(
    image: Annotated[Path, typer.Option("--input", help="The image.")],
    model_path: Model = "lesion",
    output_dir: OutputFolder = Path("predictions"),
    threshold: Threshold = None,
    img_size: Size = None,
    use_gpu: Gpu = False,
) -> None:
    """Segment one image; `dermseg segment IMAGE` does the same.

    Writes `ID_mask.png`, `ID_overlay.png` and `ID_result.png`, the image side by side with them.

    Example:
    - `dermseg inference --model_path lesion --input lesion.jpg --output_dir masks --threshold 0.4`
    """
    if image.is_dir():
        raise InputError(f"{image} is a folder; give one image, or use: dermseg predict --input_dir {image}")
    _segment(image, model_path, output_dir, threshold, img_size, use_gpu)


def _segment(
    images: Path, model_path: str, output_dir: Path, threshold: float | None, img_size: int | None, use_gpu: bool
) -> None:
    from dermseg.bundle import Bundle

    if Path(model_path).suffix in CHECKPOINTS:
        raise InputError(
            f"{model_path} is a checkpoint, not a bundle; make one of it: "
            f"dermseg bundles import {model_path} --recipe RECIPE"
        )
    bundle = Bundle.load(model_path)
    if img_size not in (None, own := bundle.manifest.input_size):
        raise InputError(
            f"--img_size is {img_size}, but the bundle {bundle.name} works at {own}; "
            "leave it out, masks are of the image's own size anyway"
        )
    segment(
        [str(images)],
        output=output_dir,
        save="mask,overlay,result",
        bundle=model_path,
        threshold=threshold,
        device=Device.cuda if use_gpu else Device.auto,
        recursive=False,
        workers=None,
        orientation=Orientation.upright,
        one_bit=False,
        as_json=False,
    )
