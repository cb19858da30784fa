"""How fast mask files are scored, beside the challenge's own scorer, and whether memory stays flat.

Masks of 256 px are drawn, and the predictions are shifted copies. `isic-challenge-scoring` reads the same files.
The peak of memory is this process's before and after scoring four times as many.

    python benchmarks/scoring.py --images 1000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from isic_challenge_scoring import SegmentationScore

from dermseg.data.catalog import CC0, LESION, Sample
from dermseg.evaluation import EvaluationResult, evaluate
from dermseg.imaging import encode_mask
from dermseg.parallel import cores
from dermseg.predictors import MaskFolder
from dermseg.protocols import ProtocolName

SIDE = 256
OVERLAP: tuple[ProtocolName, ...] = ("official", "pooled")


def draw(folder: Path, count: int) -> list[Sample]:
    """Blobs as truths, the same moved and scaled as predictions, and empty photographs: their size alone is read."""
    rng = np.random.default_rng(0)
    for name in ("truth", "prediction", "image"):
        (folder / name).mkdir()
    samples = []
    for number in range(count):
        id = f"ISIC_{number:07d}"
        noise = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), 12)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        distance = np.hypot(rows - rng.uniform(90, 166), columns - rng.uniform(90, 166)) / rng.uniform(20, 90)
        truth = distance + 8 * noise < 1
        prediction = np.roll(distance + 8 * noise < rng.uniform(0.8, 1.2), rng.integers(-6, 7), axis=1)
        for name, mask in (("truth", truth), ("prediction", prediction)):
            (folder / name / f"{id}_segmentation.png").write_bytes(encode_mask(np.asarray(mask, np.bool_)))
        image = folder / "image" / f"{id}.png"
        image.write_bytes(encode_mask(np.zeros((SIDE, SIDE), np.bool_)))
        samples.append(Sample(id, image, {LESION: folder / "truth" / f"{id}_segmentation.png"}, id, "isic2018", CC0))
    return samples


def timed(function: Callable[[], object], runs: int) -> float:
    """The median of some runs, in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = draw(folder, arguments.images)

        def ours(protocols: tuple[ProtocolName, ...], workers: int, times: int = 1) -> EvaluationResult:
            predictor = MaskFolder(folder / "prediction", samples, (LESION,))
            chosen = samples * times
            return evaluate(predictor, chosen, data="drawn", split="all", protocols=protocols, workers=workers)

        def theirs() -> SegmentationScore:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return SegmentationScore.from_dir(folder / "truth", folder / "prediction")

        assert (
            abs(ours(("official",), 1).summaries["official"]["all"]["jaccard"].mean - theirs().macro_average["jaccard"])
            < 1e-9
        )
        peer = timed(theirs, arguments.runs)
        print(
            f"{arguments.images} pairs of masks, {SIDE} px; "
            f"isic-challenge-scoring: {arguments.images / peer:.0f} images/s"
        )
        for workers in sorted({1, cores()}):
            for title, protocols in (("overlap", OVERLAP), ("overlap and distances", (*OVERLAP, "boundary"))):
                taken = timed(partial(ours, protocols, workers), arguments.runs)
                print(
                    f"{title}, {workers} cores: {arguments.images / taken:.0f} images/s, "
                    f"peer / dermseg {peer / taken:.2f}"
                )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours((*OVERLAP, "boundary"), cores(), times=4)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak memory: {before / 1024:.0f} MiB; after four times as many images: {after / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
