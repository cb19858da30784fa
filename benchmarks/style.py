"""How loosely the outlines of each data set, and of parts of one, are drawn, against one network's own outlines.

    python benchmarks/style.py --data DATA --bundle lesion

For each image of ``tune`` it measures how far the true outline lies outside the predicted one (the mean signed distance
from its pixels, positive where the truth is the looser one, in hundredths of the diameter of a disc of the truth's
area), the share of images it lies outside in, and precision and sensitivity. One network judges all, so differences
between sets are those of their outlines, or of how the network fits them. Beside it: the same between the two truths of
the images that ISIC 2017 and ISIC 2018 share, which is what people differ by; and the Jaccard index at the best
threshold of each part alone, which is the most that a threshold for each part could win.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.appearance import ruler_mask
from dermseg.data import catalog, splits
from dermseg.data.catalog import LESION, Sample
from dermseg.imaging import read_mask
from dermseg.metrics import Confusion, bootstrap_interval
from dermseg.parallel import in_order
from dermseg.segmenter import Segmenter

Mask = NDArray[np.bool_]
THRESHOLDS = np.arange(0.2, 0.9, 0.05)


def looseness(outer: Mask, inner: Mask) -> float:
    """Mean distance of ``outer``'s outline beyond ``inner``'s, in hundredths of the diameter of ``outer``'s area."""
    outer, inner = np.pad(outer, 1), np.pad(inner, 1)  # an outline that fills the picture ends at its border
    beyond = cv2.distanceTransform((~inner).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    within = cv2.distanceTransform(inner.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outline = outer & ~cv2.erode(outer.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    # Distances are from pixel to pixel, and a mask ends half a pixel beyond its last one.
    signed = np.where(inner, 1 - within, beyond)[outline]
    return float(100 * signed.mean() / (2 * np.sqrt(outer.sum() / np.pi)))


def line(name: str, truths: Sequence[Mask], others: Sequence[Mask]) -> str:
    """A row of the table: the truth against another outline of the same images, of those that both show."""
    both = [(one, other) for one, other in zip(truths, others, strict=True) if one.any() and other.any()]
    offsets = np.array([looseness(one, other) for one, other in both])
    counts = [Confusion.of(other, one) for one, other in both]
    precision, sensitivity, jaccard = (
        np.mean([getattr(count, metric) for count in counts]) for metric in ("precision", "sensitivity", "jaccard")
    )
    return (
        f"| {name} | {len(both)} | {bootstrap_interval(offsets)} | {(offsets > 0).mean():.2f} | {precision:.3f} "
        f"| {sensitivity:.3f} | {jaccard:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="lesion")
    arguments = parser.parse_args()
    segmenter = Segmenter(arguments.bundle, threads=1)
    every = catalog.with_masks(catalog.read(arguments.data), [LESION])

    def look(sample: Sample) -> tuple[NDArray[np.float32], Mask, bool]:
        prediction = segmenter(sample.image)
        return prediction.probability(), read_mask(sample.masks[LESION]), bool(ruler_mask(prediction.pixels).any())

    samples = list({sample.id: sample for sample in reversed(splits.select(every, "tune"))}.values())[::-1]
    looks = list(in_order(look, samples))
    parts = {source: [s.source == source for s in samples] for source in dict.fromkeys(s.source for s in samples)}
    first = [s.source == samples[0].source for s in samples]
    for words, wanted in (("with a ruler", True), ("without", False)):
        here = [own and seen == wanted for own, (_, _, seen) in zip(first, looks, strict=True)]
        parts[f"{samples[0].source} {words}"] = here
    print(
        "| outlines | images | looser by | looser in | precision | sensitivity | Jaccard |", "|---" * 7 + "|", sep="\n"
    )
    best: dict[str, str] = {}
    for name, chosen in parts.items():
        own = [(probability, truth) for keep, (probability, truth, _) in zip(chosen, looks, strict=True) if keep]
        truths = [truth for _, truth in own]
        print(line(name, truths, [probability > segmenter.thresholds[0] for probability, _ in own]))
        curve = [np.mean([Confusion.of(p > level, t).jaccard for p, t in own]) for level in THRESHOLDS]
        best[name] = f"{max(curve):.4f} at {THRESHOLDS[int(np.argmax(curve))]:.2f}"
    by_id = {(sample.id, sample.source): sample for sample in every}
    shared = sorted({s.id for s in every if s.source == "isic2017"} & {s.id for s in every if s.source == "isic2018"})
    pairs = [[read_mask(by_id[id, name].masks[LESION]) for name in ("isic2017", "isic2018")] for id in shared]
    print(line("isic2017 against isic2018", [one for one, _ in pairs], [other for _, other in pairs]))
    print("best threshold of each part alone:", "; ".join(f"{name} {score}" for name, score in best.items()))


if __name__ == "__main__":
    main()
