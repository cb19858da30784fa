"""What a bundle loses where photographs are turned, worse, or framed otherwise.

    python benchmarks/robustness.py --data DATA --bundle lesion --split tune

Each image of the split is segmented as it is and after each change of ``dermseg/robustness.toml``, its truth changed
alike, and compared by the official Task 1 Jaccard index. An image that two data sets share counts once. Prints, for
each change, how many images it can be made of, their Jaccard index before and after, and the mean difference with a
95 % bootstrap interval over lesions. What is random is drawn from the image's id, so every bundle sees the same.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np

from dermseg.data import catalog, splits
from dermseg.data.catalog import LESION, Sample
from dermseg.imaging import open_image, read_mask, write_bytes
from dermseg.metrics import Confusion, bootstrap_interval
from dermseg.parallel import in_order
from dermseg.robustness import PARAMETERS, changed, changes
from dermseg.segmenter import Segmenter


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
    table = splits.read(arguments.splits) if arguments.splits else None
    every = splits.select(
        catalog.with_masks(catalog.read(arguments.data, arguments.source), [LESION]), arguments.split, table
    )
    samples = list({sample.id: sample for sample in reversed(every)}.values())[::-1][: arguments.images]

    def look(sample: Sample) -> list[float]:
        image, mask = open_image(sample.image).pixels(), read_mask(sample.masks[LESION])
        pairs = [changed(image, mask, steps, zlib.crc32(sample.id.encode())) for steps in rows.values()]
        return [Confusion.of(segmenter(p[0]).mask, p[1]).jaccard if p else np.nan for p in pairs]

    scores = np.array(list(in_order(look, samples)))
    if arguments.output:
        lines = [["id", "source", *rows], *([s.id, s.source, *r] for s, r in zip(samples, scores, strict=True))]
        text = "\n".join(",".join(str(value) for value in line) for line in lines)
        write_bytes(arguments.output, (text + "\n").encode())
    groups = np.array([sample.group for sample in samples])
    print("| change | images | Jaccard before | after | difference |\n|---|---|---|---|---|")
    for name, after in zip(rows, scores.T, strict=True):
        made = ~np.isnan(after)
        before, after = scores[made, 0], after[made]
        loss = bootstrap_interval(after - before, list(groups[made]))
        shown = f"{loss.mean:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]"
        print(f"| {name} | {made.sum()} | {before.mean():.3f} | {after.mean():.3f} | {shown} |")


if __name__ == "__main__":
    main()
