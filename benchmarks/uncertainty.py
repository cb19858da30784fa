"""What the estimate of a mask's quality, calibration and sampling are worth, on images that none of it was fitted on.

Each image of ``test`` is segmented once, in one plain prediction, and compared with its truth by the official Task 1
metric; an image that two data sets share counts once. Then pictures that are no dermoscopy: kinds that the project
draws and did not fit on, and whatever photographs scikit-learn and scikit-image bring, where these are installed. Last
the cost of each way of predicting, relative to a plain prediction.

    python benchmarks/uncertainty.py --data DATA --output runs/uncertainty
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from dermseg import foreign
from dermseg.bundle import Bundle
from dermseg.data import catalog, quarantine, splits, tables
from dermseg.data.catalog import LESION
from dermseg.errors import DermsegError
from dermseg.evaluation import evaluate
from dermseg.imaging import IMAGE_SUFFIXES, make_folder, open_image, read_mask
from dermseg.manifest import Calibration
from dermseg.metrics import JACCARD_THRESHOLD, Confusion, bootstrap_interval
from dermseg.parallel import in_order
from dermseg.predictors import Model
from dermseg.segmenter import Segmenter
from dermseg.synthetic import example

PICTURES = 100  # of each kind
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
WAYS = {
    "plain": (False, 0),
    "Monte Carlo dropout, 10 samples": (False, 10),
    "test-time augmentation, 10 views": (True, 0),
}


def photographs() -> dict[str, NDArray[np.uint8]]:
    """Those that scikit-learn and scikit-image bring in their packages, by name."""
    found = {}
    for package, folder in (("sklearn", "datasets/images"), ("skimage", "data")):
        spec = find_spec(package)
        place = Path(spec.origin).parent / folder if spec and spec.origin else Path()
        for path in sorted(place.iterdir()) if spec else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                try:
                    found[path.name] = open_image(path).pixels()
                except DermsegError:  # one with several pages
                    continue
    return found


def verdicts_of(segmenter: Segmenter, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[str]:
    for prediction in segmenter.stream(pictures):
        if isinstance(prediction, DermsegError):
            raise prediction
        assert prediction.quality is not None
        yield prediction.quality.verdict


def area(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve."""
    statistic = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    return float(statistic / (positive.sum() * (~positive).sum()))


def calibration_error(bundle: Bundle, samples: list[catalog.Sample]) -> str:
    result = evaluate(Model(Segmenter(bundle, threads=1)), samples, data="", split="test", protocols=("ranking",))
    return "; ".join(f"{name} {summary['calibration_error']}" for name, summary in result.summaries["ranking"].items())


def median(function: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="lesion")
    parser.add_argument("--quarantine", type=Path, action="append", default=[], help="a list of images to leave out")
    parser.add_argument("--output", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    make_folder(arguments.output)
    bundle = Bundle.load(arguments.bundle)
    segmenter = Segmenter(bundle, threads=1)
    kept_samples = quarantine.keep(catalog.read(arguments.data), arguments.quarantine)
    every = splits.select(catalog.with_masks(kept_samples, [LESION]), "test")
    samples = list({sample.id: sample for sample in reversed(every)}.values())[::-1]

    def look(sample: catalog.Sample) -> tuple[float, float, float, str]:
        prediction = segmenter(sample.image)
        quality = prediction.quality
        assert quality is not None
        truth = read_mask(sample.masks[LESION])
        return Confusion.of(prediction.mask, truth).jaccard, quality.jaccard, quality.foreign, quality.verdict

    rows = list(in_order(look, samples))
    jaccard, estimate = (np.array([row[place] for row in rows]) for place in (0, 1))
    verdicts = np.array([row[3] for row in rows])
    failed = jaccard < JACCARD_THRESHOLD
    print(f"{len(rows)} images of test, mean Jaccard {jaccard.mean():.3f}, {failed.sum()} failures (below 0.65)")
    for source in ("all", *dict.fromkeys(sample.source for sample in samples)):
        chosen = np.array([source in ("all", sample.source) for sample in samples])
        rank = stats.spearmanr(estimate[chosen], jaccard[chosen]).statistic
        counts = Counter(verdicts[chosen])
        accepted = chosen & (verdicts == "accept")
        print(
            f"{source}: Spearman {rank:.3f}, AUROC of failures {area(-estimate[chosen], failed[chosen]):.3f}; "
            + ", ".join(f"{name} {counts[name] / chosen.sum():.1%}" for name in ("accept", "review", "reject"))
            + f"; of accepted masks {(~failed[accepted]).mean():.1%} reach 0.65"
        )
    order = np.argsort(-estimate, kind="stable")
    print("coverage, mean Jaccard of the best estimated, failures among them:")
    for coverage in COVERAGES:
        kept = order[: round(coverage * len(order))]
        groups = [samples[place].group for place in kept]
        print(f"  {coverage:.0%}: {bootstrap_interval(jaccard[kept], groups)}, {failed[kept].mean():.1%}")
    risk = 1 - np.cumsum(jaccard[order]) / np.arange(1, len(order) + 1)
    best = 1 - np.cumsum(np.sort(jaccard)[::-1]) / np.arange(1, len(order) + 1)
    coverage_axis = np.arange(1, len(order) + 1) / len(order)
    tables.write(arguments.output / "risk_coverage.csv", ["coverage", "risk"], zip(coverage_axis, risk, strict=True))
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    place = figure.add_subplot()
    place.plot(coverage_axis, risk, label="by estimated quality")
    place.plot(coverage_axis, best, "--", label="by true Jaccard (the best there could be)")
    place.axhline(1 - jaccard.mean(), color="grey", linewidth=0.8, label="in any order")
    place.set(xlabel="coverage: share of images kept", ylabel="risk: 1 - mean Jaccard", xlim=(0, 1), ylim=(0, None))
    place.legend(frameon=False, loc="lower right")
    figure.savefig(arguments.output / "risk_coverage.png", dpi=160)

    for kind in foreign.REPORTING:
        pictures = [foreign.draw(kind, seed) for seed in range(PICTURES)]
        found = Counter(verdicts_of(segmenter, pictures))
        print(f"{kind}: {found['reject'] / PICTURES:.0%} of {PICTURES} rejected")
    photos = photographs()
    taken = [
        name
        for name, verdict in zip(photos, verdicts_of(segmenter, photos.values()), strict=True)
        if verdict != "reject"
    ]
    print(f"photographs: {len(photos) - len(taken)} of {len(photos)} rejected; not {', '.join(taken) or 'any other'}")

    manifest = bundle.manifest
    before = replace(bundle, manifest=manifest.model_copy(update={"calibration": Calibration()}))
    print(f"calibration error before: {calibration_error(before, samples)}")
    print(f"calibration error after: {calibration_error(bundle, samples)}")

    image = example().pixels
    ready = {name: Segmenter(bundle, threads=1, tta=tta, mc_dropout=count) for name, (tta, count) in WAYS.items()}
    took = {name: median(partial(way, image), arguments.runs) for name, way in ready.items()}
    for name, seconds in took.items():
        print(f"{name}: {1000 * seconds:.1f} ms, {seconds / took['plain']:.1f} plain predictions")


if __name__ == "__main__":
    main()
