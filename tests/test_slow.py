"""What needs minutes: training on real images, and a long stream."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from dermseg import Segmenter, train
from dermseg.data import catalog, splits
from dermseg.evaluation import evaluate
from dermseg.predictors import Model
from dermseg.segmenter import Prediction
from dermseg.synthetic import draw
from dermseg.training.recipes import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA does not name the real data")
@pytest.mark.skipif("DERMSEG_PRETRAINED" not in os.environ, reason="DERMSEG_PRETRAINED does not name the weights")
def test_a_few_minutes_of_training_find_unseen_lesions(tmp_path: Path) -> None:
    samples = catalog.with_masks(catalog.read(os.environ["DERMSEG_DATA"], ["isic2017"]), ["lesion"])
    chosen = [sample for side in ("train", "tune") for sample in splits.select(samples, side)[:480]]
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for sample in chosen:
        (tmp_path / "data" / "images" / sample.image.name).symlink_to(sample.image)
        mask = sample.masks["lesion"]
        (tmp_path / "data" / "masks" / mask.name).symlink_to(mask)
    settings = [
        "data.sources=[plain]",
        "input_size=128",
        "epochs=6",
        "batch_size=16",
        "ema=0.9",
        f"model.arguments.pretrained={os.environ['DERMSEG_PRETRAINED']}",
    ]
    bundle = train(
        load_recipe("lesion", settings), tmp_path / "data", tmp_path / "run", cache_folder=tmp_path / "cache"
    )
    test = splits.select(samples, "test")
    result = evaluate(Model(Segmenter(bundle)), test, data="isic2017", split="test")
    assert result.summaries["official"]["isic2017"]["jaccard"].mean > 0.6


def test_a_long_stream_keeps_its_memory() -> None:
    image = draw(size=(384, 512)).pixels
    segmenter = Segmenter()

    def peak_after(count: int) -> int:
        assert all(isinstance(result, Prediction) for result in segmenter.stream(image for _ in range(count)))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    early = peak_after(200)
    assert peak_after(2000) - early < 30_000
