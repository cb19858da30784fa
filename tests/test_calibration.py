"""Calibration: temperatures that are known are found, masks stay, and what is fitted is what it is said to be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg import Bundle, Segmenter, calibration, quality
from dermseg.bundle import CARD, MANIFEST, Calibration, Manifest, Metric, Score
from dermseg.calibration import Report, Seen, calibrate, fit_quality, fit_temperature, histogram, moved
from dermseg.data import catalog
from dermseg.data.catalog import Sample
from dermseg.errors import DataError, InputError
from dermseg.imaging import encode_image, encode_mask
from tests.conftest import Cli

TEMPERATURE = 2.0


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, 200_000)
    truth = rng.random(len(logits)) < sigmoid(logits / temperature)
    assert fit_temperature(histogram(logits, truth)) == pytest.approx(temperature, rel=0.03)


def test_a_temperature_that_cannot_be_told_is_one() -> None:
    levels = np.linspace(-5, 5, 100)
    assert fit_temperature(histogram(levels, np.zeros(100, np.bool_))) == 1
    assert fit_temperature(histogram(levels, np.ones(100, np.bool_))) == 1


def test_a_histogram_by_hand() -> None:
    counts = histogram(np.array([[-99.0, 0.0], [0.0, 64.0]]), np.array([[False, False], [True, True]]))
    middle = len(calibration.LEVELS) // 2
    assert [counts[0, 0], counts[0, middle], counts[1, middle], counts[1, -1]] == [1, 1, 1, 1]
    assert counts.sum() == 4


@given(st.floats(0.01, 0.99), st.floats(0.125, 8), st.floats(-12, 12))
def test_a_moved_threshold_keeps_each_pixel(threshold: float, temperature: float, logit: float) -> None:
    apart = logit - np.log(threshold / (1 - threshold))
    if abs(apart) > 1e-6:
        cooled = sigmoid(np.array(logit / temperature))
        assert (cooled > moved(threshold, temperature)) == (apart > 0)


def test_a_threshold_of_one_half_stays() -> None:
    assert moved(0.5, 3) == 0.5
    assert moved(0.6, 1) == pytest.approx(0.6)


def test_temperatures_by_class() -> None:
    each = Calibration(temperature=2, temperatures={"b": 4})
    assert each.of(("a", "b")).tolist() == [[[2]], [[4]]]
    assert Calibration.model_validate({"temperature": 1.5}).of(("a",)).item() == 1.5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey noise in which a pixel of grey x (-1 to 1) is lesion with the probability sigmoid(-8 x / TEMPERATURE)."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(5)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(12):
        grey = rng.integers(0, 256, (64, 64), np.uint8)
        truth = rng.random(grey.shape) < sigmoid(-(grey / 127.5 - 1) * 8 / TEMPERATURE)
        (folder / "images" / f"{number}.png").write_bytes(encode_image(grey))
        (folder / "masks" / f"{number}.png").write_bytes(encode_mask(truth))
    return folder


@pytest.fixture(scope="module")
def samples(data: Path) -> list[Sample]:
    return catalog.with_masks(catalog.read(data), ["lesion"])


@pytest.fixture(scope="module")
def confident(dark_bundle: Bundle) -> Bundle:
    """Of which darkness is lesion, its logits twice as large and its threshold beside the middle."""
    scores = tuple(
        Score(data="drawn", split="test", protocol=name, images=1, metrics={"dice": Metric(mean=1, low=1, high=1)})
        for name in ("official Task 1", "pooled: all pixels", "soft: ...", "ranking: ...", "boundary: ...")
    )
    changes = {"calibration": Calibration(temperature=0.5), "thresholds": {"lesion": 0.7}, "scores": scores}
    return replace(dark_bundle, manifest=dark_bundle.manifest.model_copy(update=changes))


@pytest.fixture(scope="module")
def calibrated(
    confident: Bundle, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Report]:
    folder = tmp_path_factory.mktemp("calibrated") / "new"
    return calibrate(confident, [*samples, *samples[:3]], folder, quality=False, workers=2)


def test_calibration_error_falls(calibrated: tuple[Bundle, Report]) -> None:
    bundle, report = calibrated
    assert report.images == 12  # each once
    assert report.temperatures["lesion"] == pytest.approx(TEMPERATURE, rel=0.05)
    assert report.before["lesion"] > 0.1
    assert report.after["lesion"] < 0.02
    assert bundle.manifest.calibration.temperatures == report.temperatures
    assert f"{report.before['lesion']:.4f} before" in str(report)


def test_masks_stay(confident: Bundle, calibrated: tuple[Bundle, Report], samples: list[Sample]) -> None:
    old, new = Segmenter(confident, threads=1), Segmenter(calibrated[0], threads=1)
    for sample in samples:
        before, after = old(sample.image), new(sample.image)
        assert np.abs(before.probabilities - after.probabilities).max() > 0.01
        for mask in (before, after):
            assert mask.probabilities.any()
        masks = [found.probabilities[0] > np.float32(found.thresholds[0]) for found in (before, after)]
        assert (masks[0] == masks[1]).all()


def test_a_calibrated_bundle_is_a_copy(confident: Bundle, calibrated: tuple[Bundle, Report]) -> None:
    bundle, _ = calibrated
    Bundle.load(bundle.path).verify()
    assert bundle.manifest.hashes == confident.manifest.hashes
    assert [score.protocol for score in bundle.manifest.scores] == ["pooled: all pixels"]
    assert bundle.manifest.quality is None
    assert "logits are divided by" in (bundle.path / CARD).read_text()
    same = {"calibration", "thresholds", "scores"}
    assert bundle.manifest.model_dump(exclude=same) == confident.manifest.model_dump(exclude=same)


def test_calibrating_again_changes_nothing(
    calibrated: tuple[Bundle, Report], samples: list[Sample], tmp_path: Path
) -> None:
    again, report = calibrate(calibrated[0], samples, tmp_path / "again", quality=False, workers=2)
    assert report.temperatures["lesion"] == pytest.approx(calibrated[1].temperatures["lesion"], rel=0.001)
    assert again.manifest.thresholds["lesion"] == pytest.approx(calibrated[0].manifest.thresholds["lesion"], abs=0.01)


def test_what_cannot_be_calibrated(confident: Bundle, samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the bundle itself"):
        calibrate(confident, samples, confident.path)
    with pytest.raises(DataError, match="nothing to calibrate"):
        calibrate(confident, [], tmp_path / "new")
    manifest = Manifest.model_validate(
        {**confident.manifest.model_dump(), "classes": ["a", "b"], "thresholds": {"a": 0.5, "b": 0.5}}
    )
    with pytest.raises(InputError, match="--no-quality"):
        calibrate(replace(confident, manifest=manifest), samples, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def images(count: int, seed: int, *, embedded: bool = True) -> tuple[Seen, np.ndarray]:
    """Whose Jaccard index depends on their first feature, and whose embeddings lie in a plane."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (count, len(quality.FEATURES)))
    plane = np.random.default_rng(0).normal(0, 1, (2, 24))
    embeddings = rng.normal(0, 1, (count, 2)) @ plane + rng.normal(0, 0.05, (count, 24))
    jaccard = np.clip(sigmoid(2.2 - 1.2 * features[:, 0]) + rng.normal(0, 0.04, count), 0, 1)
    return Seen(features, embeddings if embedded else None), jaccard


def strange_pictures(*, embedded: bool = True) -> Seen:
    rng = np.random.default_rng(9)
    features = rng.normal(0, 1, (60, len(quality.FEATURES)))
    features[:, quality.FEATURES.index("flat")] += 5
    return Seen(features, rng.normal(0, 3, (60, 24)) if embedded else None)


@pytest.mark.parametrize("embedded", [True, False])
def test_a_quality_model_of_known_data(embedded: bool) -> None:
    seen, jaccard = images(400, 1, embedded=embedded)
    sources = ["small"] * 40 + ["large"] * 360
    strange = strange_pictures(embedded=embedded)
    model = fit_quality(seen, jaccard, groups=[f"{i}" for i in range(400)], sources=sources, strange=strange)
    assert (model.familiar is not None) == embedded
    assert (model.images, model.fitted_on) == (400, "small 40, large 360")
    new, truth = images(2000, 2, embedded=embedded)
    z = model.standardise(*new)
    assert np.corrcoef(model.jaccard(z), truth)[0, 1] > 0.9
    assert (model.foreign(model.standardise(*strange)) > model.foreign_limit).mean() > 0.97
    rated = [model.rate(each) for each in z]
    verdicts = np.array([each.verdict for each in rated])
    assert (verdicts == "reject").mean() < 0.08
    assert 0.2 < (verdicts == "accept").mean() < 1
    assert (truth[verdicts == "accept"] >= 0.65).mean() > 0.95
    assert model.accepted == pytest.approx((verdicts == "accept").mean(), abs=0.1)


def test_a_fit_is_the_same_each_time() -> None:
    seen, jaccard = images(120, 4)
    groups, sources = [f"{i // 2}" for i in range(120)], ["drawn"] * 120
    first, second = (
        fit_quality(seen, jaccard, groups=groups, sources=sources, strange=strange_pictures()) for _ in range(2)
    )
    assert first == second


def test_too_few_images_are_refused() -> None:
    seen, jaccard = images(120, 4)
    for count, groups in ((20, [f"{i}" for i in range(20)]), (120, ["one"] * 120)):
        with pytest.raises(DataError, match="--no-quality"):
            fit_quality(
                seen.part(np.arange(count)),
                jaccard[:count],
                groups=groups,
                sources=["drawn"] * count,
                strange=strange_pictures(),
            )


def test_quality_from_end_to_end(
    confident: Bundle, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small numbers, so that it takes no time."""
    monkeypatch.setattr(calibration, "LEAST_IMAGES", 12)
    monkeypatch.setattr(calibration, "FOREIGN_PICTURES", 2)
    done: list[tuple[str, int, int]] = []
    _, report = calibrate(confident, samples, tmp_path / "new", workers=2, progress=lambda *step: done.append(step))
    assert report.quality is not None
    assert done[0] == ("temperature", 1, 12)
    assert done[-1] == ("foreign pictures", 10, 10)
    read = Bundle.load(tmp_path / "new")
    assert read.manifest.quality == report.quality
    assert Segmenter(read, threads=1)(samples[0].image).quality is not None
    assert report.quality.meaning["accept"] in (read.path / CARD).read_text()


def test_the_command(cli: Cli, dark_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    before = hashlib.sha256((dark_bundle.path / MANIFEST).read_bytes()).hexdigest()
    done = cli("calibrate", dark_bundle.path, "--data", data, "--split", "all", "--no-quality", "-o", "calibrated")
    assert done.returncode == 0, done.stderr
    assert "lesion: temperature" in done.stdout
    assert Bundle.load(tmp_path / "calibrated").manifest.calibration.temperatures["lesion"] > 0
    assert hashlib.sha256((dark_bundle.path / MANIFEST).read_bytes()).hexdigest() == before
