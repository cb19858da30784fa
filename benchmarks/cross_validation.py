"""Grouped cross-validation of a recipe on the training images of ISIC 2017.

    python benchmarks/cross_validation.py --data DATA --recipe lesion-open --set epochs=4 --output runs/folds

Each fold's images are scored by the official Task 1 metrics with a network that saw none of them, nor any copy of them:
it is trained on the other folds, of which a tenth chooses checkpoint and threshold. What the shipped table puts on
``test`` takes no part. A fold that is there already is not trained again. Prints each fold's scores, and those of all
images with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from dermseg import evaluation
from dermseg.data import catalog, splits, splitting, tables
from dermseg.data.catalog import LESION
from dermseg.imaging import make_folder
from dermseg.metrics import bootstrap_interval
from dermseg.predictors import Model
from dermseg.segmenter import Segmenter
from dermseg.training.recipes import load_recipe
from dermseg.training.run import train

METRICS = ("jaccard", "thresholded_jaccard", "dice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="lesion-open")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs/folds"))
    arguments = parser.parse_args()
    make_folder(arguments.output)
    found = catalog.with_masks(catalog.read(arguments.data, ["isic2017"]), [LESION])
    table = splits.read()
    used = [sample for sample in found if splits.split_of(sample, table) != "test"]
    copies = [(row["one"], row["other"]) for row in tables.read(splits.COPIES, ("one", "other"), "list of copies")]
    areas, _ = splitting.read_areas(used)
    folds = splitting.split(used, "k-fold", areas=areas, pairs=copies).tables
    ids = {sample.id for sample in used}
    rest = [splitting.Row(sample.id, sample.group, "test") for sample in found if sample.id not in ids]
    rows: list[dict[str, str]] = []
    for name, drawn in folds.items():
        folder = arguments.output / name
        if not (folder / "test.csv").is_file():
            sides = arguments.output / f"{name}.csv"
            tables.write(sides, splitting.Row._fields, [*drawn, *rest])
            recipe = load_recipe(arguments.recipe, [*arguments.settings, f"data.splits={sides}"])
            model = Model(Segmenter(train(recipe, arguments.data, folder, device="cpu", tracking="off"), threads=1))
            tested = {row.id for row in drawn if row.split == "test"}
            samples = [sample for sample in used if sample.id in tested]
            evaluation.evaluate(model, samples, data="isic2017", split=name).write_csv(folder / "test.csv")
        with (folder / "test.csv").open(newline="") as file:
            own = list(csv.DictReader(file))
        rows += own
        print(name, len(own), *(f"{metric} {np.mean([float(row[metric]) for row in own]):.3f}" for metric in METRICS))
    for metric in METRICS:
        print(metric, bootstrap_interval(np.array([float(row[metric]) for row in rows])))


if __name__ == "__main__":
    main()
