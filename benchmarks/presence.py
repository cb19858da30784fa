"""How well a bundle tells that an image shows a class at all, and whether its probabilities mean what they say.

    python benchmarks/presence.py --data DATA --bundle attributes --split test

For each class: the images that show it, the area under the ROC curve of its presence, the mean presence, the Brier
score beside that of always saying the share of images that show it, and the expected calibration error in five bins of
equally many images. Brackets are 95 % bootstrap intervals over groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dermseg.data import catalog, splits
from dermseg.data.catalog import Sample
from dermseg.evaluation import read_truths
from dermseg.parallel import in_order
from dermseg.segmenter import Segmenter
from dermseg.wording import align, plain

BINS, DRAWS = 5, 2000

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


def calibration_error(told: Values, shown: Flags) -> float:
    """The mean over bins of equally many images of how far presence and share lie apart."""
    parts = np.array_split(np.argsort(told), BINS)
    return float(sum(len(part) * abs(told[part].mean() - shown[part].mean()) for part in parts) / len(told))


def interval(score: Callable[[Values, Flags], float], told: Values, shown: Flags, groups: list[str]) -> str:
    """A score with its interval; draws without both kinds of images are left out."""
    _, place = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(place == number) for number in range(place.max() + 1)]
    rng = np.random.default_rng(0)
    values = []
    for _ in range(DRAWS):
        chosen = np.concatenate([members[number] for number in rng.integers(0, len(members), len(members))])
        if 0 < shown[chosen].sum() < len(chosen):
            values.append(score(told[chosen], shown[chosen]))
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{score(told, shown):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="attributes")
    parser.add_argument("--split", default="test", choices=("tune", "test"))
    arguments = parser.parse_args()
    segmenter = Segmenter(arguments.bundle, threads=1)
    model = segmenter.bundle.manifest.presence
    if model is None:
        parser.error(f"{arguments.bundle} tells no presence; dermseg calibrate fits it")
    classes = tuple(model.curves)
    samples = catalog.with_masks(catalog.read(arguments.data), classes)
    samples = splits.select(samples, arguments.split, splits.table_for(classes))

    def look(sample: Sample) -> tuple[list[float], list[bool]]:
        prediction = segmenter(sample.image)
        assert prediction.presence is not None  # where there is a model
        truths = read_truths(sample, classes, prediction.size)
        return [prediction.presence[name] for name in classes], [bool(truths[name].any()) for name in classes]

    told, shown = (np.array(rows) for rows in zip(*in_order(look, samples), strict=True))
    groups = [sample.group for sample in samples]
    rows = [["class", "shown by", "area under ROC", "mean presence", "Brier (of the share)", "calibration error"]]
    for place, name in enumerate(classes):
        presence, is_shown = told[:, place].astype(np.float64), shown[:, place]
        share = is_shown.mean()
        rows.append(
            [
                plain(name),
                f"{is_shown.sum()} of {len(is_shown)} ({share:.3f})",
                interval(lambda p, y: float(roc_auc_score(y, p)), presence, is_shown, groups),
                f"{presence.mean():.3f}",
                f"{np.mean((presence - is_shown) ** 2):.3f} ({share * (1 - share):.3f})",
                interval(calibration_error, presence, is_shown, groups),
            ]
        )
    print("\n".join(align(rows)))


if __name__ == "__main__":
    main()
