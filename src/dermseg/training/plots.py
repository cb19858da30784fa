"""Pictures of a run: its losses and scores over time, samples of its data, and what it predicts.

Each function writes one PNG file, whole or not at all. The curves show numbers only; ``dataset_samples`` and
``predictions`` show images of the data set, so what they write stays in the run folder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dermseg.figures import PALETTE, Picture, outline
from dermseg.imaging import make_folder, write_bytes
from dermseg.metrics import Confusion
from dermseg.training.journal import History, Row, read
from dermseg.wording import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Masks = NDArray[np.bool_]
"""One image's masks by class, (K, H, W)."""

DASHES = ("-", "--", ":", "-.")
GREY = "#555555"
DPI, PICTURE_DPI = 110, 90
FEW = 30

TITLES = {
    "loss": "Loss",
    "jaccard": "Jaccard index",
    "thresholded_jaccard": "Jaccard index, 0 below 0.65",
    "micro_jaccard": "Jaccard index, pooled over images",
    "dice": "Dice coefficient",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "threshold": "Threshold chosen on tune",
}
UNBOUNDED = ("Loss", "Loss terms on train")


def metrics_history(history: History, path: Path, *, monitor: str = "jaccard") -> None:
    """Draw the losses, and Jaccard and Dice on ``tune``, over the epochs; mark the best epoch.

    Args:
        history: The run's journal.
        path: The PNG file to write.
        monitor: The score on tune that decides the best epoch.
    """
    figure, (losses, scores) = _grid(1, 2, (10, 4))
    for name, label in (("train/loss", "train"), ("tune/loss", "tune")):
        _line(losses, history.epochs, name, label)
    for name, label in (("tune/jaccard", "Jaccard"), ("tune/dice", "Dice")):
        _line(scores, history.epochs, name, label)
    best = max((row for row in history.epochs if _number(row, f"tune/{monitor}")), key=_score(monitor), default=None)
    if best is not None:
        value = f"{TITLES.get(monitor, monitor)} {best[f'tune/{monitor}']:.3f}"
        losses.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1)
        scores.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1)
        figure.suptitle(f"Best epoch: {best['epoch']} ({value})", fontsize=11)
    _finish(losses, "Loss", "epoch", "loss")
    _finish(scores, "Scores on tune", "epoch", "score, 0 to 1")
    _save(figure, path)


def detailed_metrics(history: History, path: Path, *, classes: Sequence[str] = ()) -> None:
    """Draw every metric of the epochs, a panel for each score and for its parts by class or data set.

    Args:
        history: The run's journal.
        path: The PNG file to write.
        classes: Names of the classes; what else has a score of its own is a data set.
    """
    panels: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(name for row in history.epochs for name in row if name.startswith(("train/", "tune/"))):
        title, label = _place(name, classes)
        panels.setdefault(title, {})[name] = label
    order = sorted(panels, key=lambda title: (title != "Loss", "threshold" in title, title.endswith("data set")))
    columns = min(3, max(1, len(order)))
    rows = -(-max(1, len(order)) // columns)
    figure, axes = _grid(rows, columns, (4.2 * columns, 3.1 * rows))
    for place, title in zip(axes, order, strict=False):
        for name, label in panels[title].items():
            _line(place, history.epochs, name, label)
        _finish(place, title, "epoch", title.split()[0].lower() if title in UNBOUNDED else "0 to 1")
    for place in axes[len(order) :]:
        place.set_axis_off()
    _save(figure, path)


def learning_rate(history: History, path: Path) -> None:
    """Draw the learning rate of each step; a line for each part of the network that has its own.

    Args:
        history: The run's journal.
        path: The PNG file to write.
    """
    figure, (place,) = _grid(1, 1, (7, 3.6))
    names = dict.fromkeys(name for row in history.batches for name in row if name.startswith("learning_rate"))
    parts = [name for name in names if name != "learning_rate"] or ["learning_rate"]
    for name in parts:
        _line(place, history.batches, name, name.removeprefix("learning_rate").lstrip("_") or "all weights", at="step")
    place.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    _finish(place, "Learning rate", "optimizer step", "learning rate")
    place.set_ylim(bottom=0)
    _save(figure, path)


def learning_curves(
    run_folders: Sequence[Path] | Mapping[str, Path], output: Path, scores: Sequence[str] = ("jaccard", "dice")
) -> None:
    """Draw scores on ``tune`` of several runs against the images they had seen.

    Args:
        run_folders: The runs, by the names to show, or shown by their folders' names.
        output: The PNG file to write.
        scores: Their names, without ``tune/``; ``micro_jaccard`` is that of several classes.
    """
    runs = dict(run_folders) if isinstance(run_folders, Mapping) else {Path(run).name: run for run in run_folders}
    figure, axes = _grid(1, len(scores), (5 * len(scores), 4.2))
    for index, (name, folder) in enumerate(runs.items()):
        epochs = read(Path(folder)).epochs
        for place, score in zip(axes, scores, strict=True):
            _line(place, epochs, f"tune/{score}", name, at="images", index=index)
    for place, score in zip(axes, scores, strict=True):
        place.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
        _finish(place, f"{TITLES[score]} on tune", "training images seen, thousands", "score, 0 to 1", legend=False)
    lines, names = axes[0].get_legend_handles_labels()
    if names:
        figure.legend(lines, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    _save(figure, output)


def dataset_samples(
    images: Sequence[Picture],
    masks: Sequence[Masks],
    path: Path,
    *,
    classes: Sequence[str],
    columns: int = 4,
    title: str = "Training images after augmentation, masks outlined",
) -> None:
    """Draw training images as the network gets them, with the outlines of their masks.

    Args:
        images: RGB, uint8 (H, W, 3) each.
        masks: Of each image, bool (K, H, W).
        path: The PNG file to write.
        classes: Names of the K classes.
        columns: Images in a row, at most.
        title: Stands above all.
    """
    columns = min(columns, max(1, len(images)))
    rows = -(-max(1, len(images)) // columns)
    figure, axes = _grid(rows, columns, (2.2 * columns, 2.2 * rows + 0.5), PICTURE_DPI)
    for place, image, mask in zip(axes, images, masks, strict=False):
        place.imshow(_outlined(image, mask))
    for place in axes:
        place.set_axis_off()
    figure.suptitle(title, fontsize=11)
    _name_classes(figure, classes)
    _save(figure, path)


def predictions(
    images: Sequence[Picture],
    truths: Sequence[Masks],
    probabilities: Sequence[NDArray[np.float32]],
    path: Path,
    *,
    thresholds: Mapping[str, float],
    title: str = "",
) -> None:
    """Draw images in rows: the input, the truth, the probability, and the mask with the truth's outline.

    Args:
        images: RGB, uint8 (H, W, 3) each.
        truths: Of each image, bool (K, H, W).
        probabilities: Of each image, float (K, H, W) in [0, 1]; of several classes the highest is shown.
        path: The PNG file to write.
        thresholds: Of the K classes, by name and in their order.
        title: Stands above all.
    """
    figure, axes = _grid(len(images), 4, (9.4, 2.2 * len(images) + 0.9), PICTURE_DPI)
    one = len(thresholds) == 1
    level = f"p > {next(iter(thresholds.values())):.2f}" if one else "p > threshold"
    limits = np.array(list(thresholds.values()), np.float32)[:, None, None]
    colours = None
    for row, (image, truth, probability) in enumerate(zip(images, truths, probabilities, strict=True)):
        given, true, likely, cut = axes[4 * row : 4 * row + 4]
        mask = probability > limits
        given.imshow(image)
        true.imshow(_white(truth[0]) if one else _coloured(image, truth))
        colours = likely.imshow(probability.max(axis=0), cmap="viridis", vmin=0, vmax=1)
        cut.imshow(_white(mask[0]) if one else _coloured(image, mask))
        if one and truth.any() and not truth.all():
            cut.contour(truth[0], levels=[0.5], colors=[_shade(1)], linewidths=1.4)
        if one:
            cut.set_xlabel(f"Jaccard {Confusion.of(mask[0], truth[0]).jaccard:.2f}", fontsize=9)
        for place in (given, true, likely, cut):
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
    heads = (
        "input",
        "truth",
        "probability" if one else "highest probability",
        f"mask ({level})" + ", truth orange" * one,
    )
    for place, head in zip(axes, heads, strict=False):
        place.set_title(head, fontsize=10)
    if colours is not None:
        figure.colorbar(
            colours,
            ax=list(axes),
            shrink=min(1.0, 1.6 / len(images)),
            aspect=18,
            label="probability",
            ticks=[0, 0.25, 0.5, 0.75, 1],
        )
    if title:
        figure.suptitle(title, fontsize=11)
    _name_classes(figure, tuple(thresholds))
    _save(figure, path)


def _place(name: str, classes: Sequence[str]) -> tuple[str, str]:
    """The panel a metric belongs in, and its name there."""
    side, _, score = name.partition("/")
    if side == "train" or score == "loss":
        return (UNBOUNDED[0], side) if score == "loss" else (UNBOUNDED[1], score.removeprefix("loss_"))
    for base, title in TITLES.items():
        if score == base:
            return title, ""
        if score.startswith(f"{base}_"):
            part = score.removeprefix(f"{base}_")
            return (f"{title}, by class", plain(part)) if part in classes else (f"{title}, by data set", part)
    return score, ""


def _grid(rows: int, columns: int, size: tuple[float, float], dpi: int = DPI) -> tuple[Figure, list[Axes]]:
    # Not by pyplot, which keeps figures for the whole process and may want a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    axes: NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def _line(
    place: Axes, rows: Sequence[Row], name: str, label: str, *, at: str = "epoch", index: int | None = None
) -> None:
    """Draw a metric; rows without it leave a gap. Beyond seven lines the colours come again, dashed."""
    index = len(place.get_lines()) if index is None else index
    values = [row[name] if _number(row, name) else np.nan for row in rows]
    place.plot(
        [row[at] for row in rows],
        values,
        color=_shade(index),
        linestyle=DASHES[index // len(PALETTE) % len(DASHES)],
        linewidth=1.6,
        marker="o" if len(rows) <= FEW else None,  # a line of one point is not seen
        markersize=3.5,
        label=label,
    )


def _finish(place: Axes, title: str, x: str, y: str, *, legend: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    place.set_title(title, fontsize=11)
    place.set_xlabel(x)
    place.set_ylabel(y)
    if x != "training images seen, thousands":
        place.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    place.grid(alpha=0.3, linewidth=0.6)
    place.spines[["top", "right"]].set_visible(False)
    names = place.get_legend_handles_labels()[1]
    if legend and len(names) > 2:
        place.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, columnspacing=1, fontsize=8, frameon=False
        )
    elif legend and any(names):
        place.legend(fontsize=8, edgecolor="none", framealpha=0.8)


def _name_classes(figure: Figure, classes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    if len(classes) > 1:
        patches = [Patch(color=_shade(index), label=plain(name)) for index, name in enumerate(classes)]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(5, len(patches)), frameon=False)


def _shade(index: int) -> tuple[float, float, float]:
    red, green, blue = PALETTE[index % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def _outlined(image: Picture, masks: Masks) -> Picture:
    for index, mask in enumerate(masks):
        colour = PALETTE[index % len(PALETTE)]
        image = outline(image, mask, colour, 1) if len(masks) > 1 else outline(image, mask)
    return image


def _coloured(image: Picture, masks: Masks) -> Picture:
    """The image, dark and grey, under each class's colour; smaller regions on top."""
    drawn = np.repeat(image.mean(axis=2, keepdims=True) * 0.6, 3, axis=2)
    for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
        drawn[masks[index]] = 0.35 * drawn[masks[index]] + 0.65 * np.array(PALETTE[index % len(PALETTE)])
    return drawn.astype(np.uint8)


def _white(mask: NDArray[np.bool_]) -> Picture:
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)


def _number(row: Row, name: str) -> bool:
    return row.get(name) is not None


def _score(monitor: str) -> Callable[[Row], float]:
    return lambda row: float(row[f"tune/{monitor}"])


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    make_folder(path.parent)
    write_bytes(path, content.getvalue())
