"""How well inverted masks are told from upright ones, and how fast and in how much memory a data set is checked.

    python benchmarks/quality.py --data "$DERMSEG_DATA"

Inverts a seeded half of the lesion masks of each data set. The detector's weights were fitted on ISIC 2017; ISIC 2018
shares most of its images, HAM10000 none. ``--fit`` fits the weights on each data set in turn, and measures on all.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from dermseg.data import catalog, mask_checks, quality
from dermseg.data.catalog import LESION, Sample
from dermseg.imaging import open_image, read_mask
from dermseg.parallel import in_order

SOURCES = ("isic2017", "isic2018", "ham10000")
SUBSETS = ("all", "over half of the image", "at the frame", "hardly darker")
Floats = NDArray[np.float64]


def look(sample: Sample) -> tuple[Floats | None, tuple[bool, ...]]:
    """The features of a pair, None where one side is empty, and which of ``SUBSETS`` it is in."""
    pixels, mask = open_image(sample.image).pixels(), read_mask(sample.masks[LESION])
    found = mask_checks.sides(pixels, mask)
    features = None if found is None else np.array(found)
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()
    hardly = features is not None and features[1] > -0.5
    return features, (True, bool(mask.mean() > 0.5), bool(edge), hardly)


def fit(features: Floats) -> Floats:
    """Weights of a logistic regression without intercept, for (N, 3) features of upright masks."""

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0, features @ weights).mean() + 1e-3 * np.square(weights).sum())

    weights: Floats = minimize(loss, np.zeros(features.shape[1])).x
    return weights


def score(features: Floats, weights: Floats, seed: int) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives and pairs, half of the masks inverted."""
    inverted = np.random.default_rng(seed).permutation(len(features)) < len(features) // 2
    found = np.where(inverted, -1, 1) * (features @ weights) > 0
    return int((found & inverted).sum()), int((found & ~inverted).sum()), int((~found & inverted).sum()), len(features)


def report(name: str, result: tuple[int, int, int, int]) -> None:
    hits, false, missed, count = result
    precision, recall = hits / max(1, hits + false), hits / max(1, hits + missed)
    print(f"| {name} | {count} | {precision:.4f} ({false} wrong) | {recall:.4f} ({missed} missed) |")


def inversion(samples: Sequence[Sample], seed: int, refit: bool) -> None:
    features: dict[str, Floats] = {}
    members: dict[str, NDArray[np.bool_]] = {}
    for source in SOURCES:
        found = list(in_order(look, [s for s in samples if s.source == source and LESION in s.masks]))
        features[source] = np.array([np.zeros(3) if row is None else row for row, _ in found])
        members[source] = np.array([member for _, member in found])
    weights = np.array([mask_checks.RIM_WEIGHT, mask_checks.LIGHTNESS_WEIGHT, mask_checks.CENTRE_WEIGHT])
    print(f"weights {weights}\n\n| masks | pairs | precision | recall |\n|---|---|---|---|")
    for source in SOURCES:
        for column, subset in enumerate(SUBSETS):
            report(f"{source}, {subset}", score(features[source][members[source][:, column]], weights, seed))
    for source in SOURCES if refit else ():
        weights = fit(features[source])
        print(f"\nfitted on {source}: {weights.round(2)}\n\n| masks | pairs | precision | recall |\n|---|---|---|---|")
        for other in SOURCES:
            report(other, score(features[other], weights, seed))


def speed(samples: Sequence[Sample], root: Path) -> None:
    masks = sum(len(sample.masks) for sample in samples)
    wall, cpu = time.perf_counter(), time.process_time()
    findings = quality.check(samples, root, workers=1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\ncheck of {len(samples)} images with {masks} masks on one thread: {len(samples) / wall:.1f} images/s by the "
        f"clock, {len(samples) / cpu:.1f} a second of the processor; peak {peak:.0f} MB\n\n{quality.summary(findings)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DERMSEG_DATA"), required="DERMSEG_DATA" not in os.environ
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="fit the weights on each data set too")
    parser.add_argument("--count", type=int, help="check this many images only, spread over all")
    options = parser.parse_args()
    samples = catalog.read(options.data)
    step = 1 if options.count is None else max(1, len(samples) // options.count)
    speed(samples[::step], options.data)  # first, so that the peak is its own
    inversion(samples, options.seed, options.fit)


if __name__ == "__main__":
    main()
