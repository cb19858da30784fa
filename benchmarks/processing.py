"""What each processing step does to the Jaccard index on ``tune``: the light network with and without it.

    python benchmarks/processing.py --data DATA --pretrained mobilenet_v2_1.0_224 --output runs/processing

Trains the light network at 128 px for each step and seed, all else alike, and scores it on ``tune`` by the official
Task 1 protocol. A run that is there already is not made again. Prints, for each step, the mean over seeds and the mean
difference to the runs without it, image by image, with a 95 % bootstrap interval over lesions.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermseg import evaluation
from dermseg.data import catalog, splits
from dermseg.predictors import Model
from dermseg.processing import STEPS
from dermseg.segmenter import Segmenter
from dermseg.training.recipes import load_recipe
from dermseg.training.run import train

SIZE, BATCH = 128, 16
NONE = "none"


def run(data: Path, pretrained: str, folder: Path, step: str, seed: int, images: int) -> None:
    recipe = load_recipe(
        "lesion",
        [
            f"model.arguments.pretrained={pretrained}",
            f"input_size={SIZE}",
            f"batch_size={BATCH}",
            f"data.images_per_epoch={images}",
            "epochs=1",
            "schedule.warmup=0.05",
            "augmentation=standard",
            "freeze=[]",
            "precision=32-true",
            f"seed={seed}",
            f"processing={[] if step == NONE else [step]}",
        ],
    )
    bundle = train(recipe, data, folder, device="cpu", tracking="off")
    samples = catalog.with_masks(catalog.read(data, recipe.data.sources), recipe.classes)
    tune = splits.select(samples, "tune")
    tune = list({sample.id: sample for sample in reversed(tune)}.values())[::-1]
    result = evaluation.evaluate(Model(Segmenter(bundle, threads=1)), tune, data=str(data), split="tune")
    result.write_csv(folder / "tune.csv")


def jaccards(file: Path) -> tuple[NDArray[np.float64], list[str]]:
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    return np.array([float(row["jaccard"]) for row in rows]), [row["group"] for row in rows]


def interval(difference: NDArray[np.float64], groups: list[str]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over groups (N,)."""
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, difference), np.bincount(index)
    drawn = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pretrained", required=True, help="folder of MobileNetV2's ImageNet weights")
    parser.add_argument("--output", type=Path, default=Path("runs/processing"))
    parser.add_argument("--images", type=int, default=60_000, help="images seen in a run")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in (NONE, *STEPS)}
    groups: list[str] = []
    for seed in range(arguments.seeds):
        for step in found:
            folder = arguments.output / f"{step}_{seed}"
            if not (folder / "tune.csv").is_file():
                run(arguments.data, arguments.pretrained, folder, step, seed, arguments.images)
            scores, groups = jaccards(folder / "tune.csv")
            found[step].append(scores)
            print(f"{step}, seed {seed}: Jaccard {scores.mean():.4f}", flush=True)
    plain = np.mean(found[NONE], axis=0)
    for step, runs in found.items():
        means = " ".join(f"{scores.mean():.4f}" for scores in runs)
        difference = np.mean(runs, axis=0) - plain
        low, high = interval(difference, groups)
        print(f"{step:18} {np.mean(runs):.4f} ({means})  {difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
