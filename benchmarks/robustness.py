"""What a bundle loses where photographs are turned, worse, or framed otherwise.

    python benchmarks/robustness.py --data DATA --bundle lesion --split tune

Each image of the split is segmented as it is and after each change of ``dermseg/robustness.toml``, its truth changed
alike, and compared by the official Task 1 Jaccard index; a bundle of several classes by the micro Jaccard index of Task
2, and without the changes that are framed by a lesion. An image that two data sets share counts once. Prints, for each
change, how many images it can be made of, their Jaccard index before and after, and the difference with a 95 %
bootstrap interval over lesions. What is random is drawn from the image's id, so every bundle sees the same.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermseg.data import catalog, splits
from dermseg.data.catalog import Sample
from dermseg.imaging import open_image, read_mask, write_bytes
from dermseg.metrics import Confusion, bootstrap
from dermseg.parallel import in_order
from dermseg.robustness import PARAMETERS, changed, changes
from dermseg.segmenter import Prediction, Segmenter

FRAMING = {"zoom_in", "surround", "cut"}
"""Steps that go by where the mask lies, and so would frame each class in its own way."""

Statistic = NDArray[np.float64]


def compare(prediction: Prediction, truths: Mapping[str, NDArray[np.bool_]]) -> Statistic:
    """What an image adds to a score, (2,), which is a sum of the first over a sum of the second.

    Of one class its Jaccard index and 1; of several the areas of intersections and of unions.
    """
    if len(truths) == 1:
        return np.array([Confusion.of(prediction.mask, *truths.values()).jaccard, 1])
    pairs = [(prediction.mask_of(name), truth) for name, truth in truths.items()]
    areas: Statistic = np.sum([[(mask & truth).mean(), (mask | truth).mean()] for mask, truth in pairs], axis=0)
    return areas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="lesion")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--source", action="append", help="a data set, if not all that are found; may be repeated")
    parser.add_argument("--splits", type=Path, help="a table of splits [the shipped one]")
    parser.add_argument("--parameters", type=Path, default=PARAMETERS, help="another robustness.toml")
    parser.add_argument("--images", type=int, help="the first so many of the split [all]")
    parser.add_argument("--output", type=Path, help="a CSV of each image's Jaccard index")
    arguments = parser.parse_args()
    rows = {"unchanged": {}, **changes(arguments.parameters)}
    segmenter = Segmenter(arguments.bundle, threads=1)
    classes = segmenter.bundle.manifest.classes
    if len(classes) > 1:
        rows = {name: steps for name, steps in rows.items() if not FRAMING & set(steps)}
    table = splits.read(arguments.splits or splits.default_for(classes))
    every = splits.select(
        catalog.with_masks(catalog.read(arguments.data, arguments.source), classes), arguments.split, table
    )
    samples = list({sample.id: sample for sample in reversed(every)}.values())[::-1][: arguments.images]

    def look(sample: Sample) -> list[Statistic]:
        image, seed = open_image(sample.image).pixels(), zlib.crc32(sample.id.encode())
        masks = {name: read_mask(sample.masks[name]) for name in classes}
        found = []
        for steps in rows.values():
            # Equal seeds change the image alike for each class.
            pairs = {name: pair for name in classes if (pair := changed(image, masks[name], steps, seed))}
            truths = {name: truth for name, (_, truth) in pairs.items()}
            found.append(compare(segmenter(pairs[classes[0]][0]), truths) if truths else np.full(2, np.nan))
        return found

    statistics = np.array(list(in_order(look, samples)))
    if arguments.output:
        scores = statistics[..., 0] / statistics[..., 1]
        lines = [["id", "source", *rows], *([s.id, s.source, *r] for s, r in zip(samples, scores, strict=True))]
        text = "\n".join(",".join(str(value) for value in line) for line in lines)
        write_bytes(arguments.output, (text + "\n").encode())
    groups = np.array([sample.group for sample in samples])
    print("| change | images | Jaccard before | after | difference |\n|---|---|---|---|---|")
    for place, name in enumerate(rows):
        both = statistics[:, [0, place]]
        made = ~np.isnan(both).any(axis=(1, 2))
        found = bootstrap(both[made], differ, list(groups[made]))
        loss = found["loss"]
        shown = f"{loss.mean:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]"
        print(f"| {name} | {made.sum()} | {found['before'].mean:.3f} | {found['after'].mean:.3f} | {shown} |")


def differ(sums: Statistic) -> dict[str, NDArray[np.float64]]:
    """The scores before and after a change, and their difference, (r,), of (r, 2, 2)."""
    before, after = (sums[..., 0] / sums[..., 1]).T
    return {"before": before, "after": after, "loss": after - before}


if __name__ == "__main__":
    main()
