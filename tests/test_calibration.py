"""Calibration: temperatures that are known are found, masks stay, and what is fitted is what it is said to be."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg import Bundle, Segmenter, calibration, quality
from dermseg.bundle import CARD, MANIFEST
from dermseg.calibration import Report, Seen, calibrate, fit_quality, fit_temperature, histogram, moved
from dermseg.data import catalog
from dermseg.data.catalog import Sample
from dermseg.errors import BundleIntegrityError, DataError, InputError, MissingExtraError
from dermseg.imaging import encode_image, encode_mask
from dermseg.manifest import WEIGHTS, Calibration, Manifest, Metric, Score
from tests.conftest import Cli
from tests.service import two_classes

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
    with pytest.raises(DataError, match="nothing to calibrate"):
        calibrate(confident, [], tmp_path / "new")
    manifest = Manifest.model_validate(
        {**confident.manifest.model_dump(), "classes": ["a", "b"], "thresholds": {"a": 0.5, "b": 0.5}}
    )
    with pytest.raises(InputError, match="--no-quality"):
        calibrate(replace(confident, manifest=manifest), samples, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The passes over images that were begun; none is run."""
    begun: list[object] = []

    def refuse(*arguments: object) -> None:
        begun.append(arguments)
        raise AssertionError("a pass was begun")

    monkeypatch.setattr(calibration, "in_order", refuse)
    return begun


def test_an_output_that_would_harm_something_is_refused_before_the_passes(
    confident: Bundle, samples: list[Sample], tmp_path: Path, passes: list[object]
) -> None:
    folder = tmp_path / "outer" / "own"
    own = replace(confident, path=shutil.copytree(confident.path, folder))
    (tmp_path / "zips").mkdir()
    zipped = Bundle.load(own.pack(tmp_path / "zips" / "own.zip"))
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    for bundle, output, reason in (
        (own, folder, "is the bundle itself"),
        (own, tmp_path / "link", "is the bundle itself"),
        (own, folder / "new", "lies in the bundle itself"),
        (own, folder.parent, "holds the bundle itself"),
        (zipped, zipped.path, "is the bundle itself"),
        (zipped, zipped.path.parent, "holds the bundle itself"),
        (zipped, zipped.path / "new", "lies in the bundle itself"),
        (own, tmp_path / "mine", "holds other things than a bundle"),
        (own, zipped.path, "is a file"),
        (own, tmp_path / "nul\0", "not a valid path"),
    ):
        with pytest.raises(InputError, match=reason):
            calibrate(bundle, samples, output, quality=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert passes == []


def test_too_few_images_are_noticed_before_the_passes(
    confident: Bundle, samples: list[Sample], tmp_path: Path, passes: list[object]
) -> None:
    with pytest.raises(DataError, match="12 images in 12 groups"):
        calibrate(confident, [*samples, *samples], tmp_path / "new")
    many = [replace(samples[0], id=f"{number}", group="one") for number in range(calibration.LEAST_IMAGES)]
    with pytest.raises(DataError, match="50 images in 1 groups"):
        calibrate(confident, many, tmp_path / "new")
    assert passes == []


def test_a_missing_scipy_is_noticed_before_the_passes(
    confident: Bundle, samples: list[Sample], tmp_path: Path, passes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match="evaluate"):
        calibrate(confident, samples, tmp_path / "new", quality=False)
    assert passes == []


def test_a_spoilt_bundle_is_noticed_before_the_passes(
    confident: Bundle, samples: list[Sample], tmp_path: Path, passes: list[object]
) -> None:
    spoilt = replace(confident, path=shutil.copytree(confident.path, tmp_path / "spoilt"))
    (spoilt.path / WEIGHTS).write_bytes(b"other")
    with pytest.raises(BundleIntegrityError):
        calibrate(spoilt, samples, tmp_path / "new", quality=False)
    assert passes == []


def test_what_it_was_fitted_on_is_recorded(calibrated: tuple[Bundle, Report]) -> None:
    found = Bundle.load(calibrated[0].path).manifest.calibration
    assert (found.split, found.images) == (None, 12)  # each once; nobody named the split
    assert "fitted on 12 images\n" in (calibrated[0].path / CARD).read_text()


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


def table(path: Path, sides: str) -> Path:
    """A table that puts the images of the noise on sides: `t` is test, all else tune."""
    rows = [f"{number},{number},{'test' if side == 't' else 'tune'}" for number, side in enumerate(sides)]
    path.write_text("\n".join(["id,group,split", *rows]) + "\n")
    return path


def test_the_command(cli: Cli, dark_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    before = hashlib.sha256((dark_bundle.path / MANIFEST).read_bytes()).hexdigest()
    splits = table(tmp_path / "own.csv", "u" * 12)
    options = ("--data", data, "--splits", splits, "--split", "all", "--no-quality", "-o", "calibrated")
    done = cli("calibrate", dark_bundle.path, *options)
    assert done.returncode == 0, done.stderr
    assert "lesion: temperature" in done.stdout
    found = Bundle.load(tmp_path / "calibrated").manifest.calibration
    assert found.temperatures["lesion"] > 0
    assert (found.split, found.images) == ("all", 12)
    assert "fitted on 12 images of `all`" in (tmp_path / "calibrated" / CARD).read_text()
    assert hashlib.sha256((dark_bundle.path / MANIFEST).read_bytes()).hexdigest() == before


@pytest.fixture
def structures(tmp_path: Path, dark_bundle: Bundle) -> tuple[Bundle, Path]:
    """A bundle of what is dark and what is bright; of 24 grey images the first six show the one, the next the other."""
    folder = tmp_path / "grey"
    levels = {"lesion": range(6), "bright": range(6, 12)}
    for number in range(24):
        grey = np.full((64, 64), 128, np.uint8)
        shown = [name for name, numbers in levels.items() if number in numbers]
        grey[:32] = {"lesion": 0, "bright": 255, "": 128}["".join(shown)]
        for name in ("lesion", "bright"):
            path = folder / "masks" / f"{number:02d}_{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_mask((grey != 128) & (name in shown)))
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{number:02d}.png").write_bytes(encode_image(grey))
    scores = (Score(data="drawn", split="test", protocol="official", images=1, metrics={}),)
    two = two_classes(dark_bundle, tmp_path)
    thresholds = {"lesion": 0.11, "bright": 0.45}  # which a change of the temperature by 1 would round
    return replace(two, manifest=two.manifest.model_copy(update={"scores": scores, "thresholds": thresholds})), folder


def sampled(folder: Path) -> list[Sample]:
    return [
        Sample(
            id=f"{number:02d}",
            source="own",
            group=f"{number:02d}",
            licence="CC0-1.0",
            image=folder / "images" / f"{number:02d}.png",
            masks={name: folder / "masks" / f"{number:02d}_{name}.png" for name in ("lesion", "bright")},
        )
        for number in range(24)
    ]


def test_of_several_classes_their_presence_is_fitted(structures: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, folder = structures
    new, report = calibrate(bundle, sampled(folder), tmp_path / "new", split="tune", temperature=False, quality=False)
    for name in ("calibration", "thresholds", "scores"):
        assert getattr(new.manifest, name) == getattr(bundle.manifest, name)
    assert new.manifest.scores
    model = new.manifest.presence
    assert model is not None
    assert (set(model.curves), model.split, model.images) == ({"lesion", "bright"}, "tune", 24)
    segmenter = Segmenter(new)
    told = [segmenter(sample.image).to_dict()["classes"] for sample in sampled(folder)]
    for place, name in enumerate(("lesion", "bright")):
        found = np.array([entries[place]["presence"] for entries in told])
        shown = np.arange(24) // 6 == place
        assert (found[shown] > 0.8).all()
        assert (found[~shown] < 0.2).all()
        assert report.presence[name] == pytest.approx((found[shown].mean(), found[~shown].mean()))
    assert "bright: presence 0." in str(report)
    card = (new.path / CARD).read_text()
    assert "- **Presence**: the probability that an image shows lesion, bright is fitted on 24 images of `tune`" in card


def test_a_class_that_every_image_shows_has_no_presence(structures: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, folder = structures
    new, report = calibrate(bundle, sampled(folder)[:6], tmp_path / "new", quality=False)
    assert new.manifest.presence is None
    assert not report.presence
    assert Segmenter(new)(folder / "images" / "00.png").to_dict()["classes"][0]["presence"] is None


def test_nothing_to_fit_is_refused(confident: Bundle, samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to fit: dark has one class"):
        calibrate(confident, samples, tmp_path / "new", temperature=False, quality=False)
    assert not (tmp_path / "new").exists()


def test_one_class_has_no_presence(calibrated: tuple[Bundle, Report]) -> None:
    assert calibrated[0].manifest.presence is None
    assert calibrated[1].presence == {}


@pytest.mark.parametrize(
    ("split", "sides", "reason"),
    [
        ("test", "u" * 12, "--split test is what is reported of"),
        ("all", "uutuuuuuuutu", "--split all takes 2 images of the split test"),
        ("all", None, "--split all takes 12 images of the split test"),
    ],
    ids=["test", "all of a table", "all of a folder of that name"],
)
def test_nothing_is_fitted_on_test(
    cli: Cli, dark_bundle: Bundle, data: Path, tmp_path: Path, split: str, sides: str | None, reason: str
) -> None:
    own: list[str | Path] = ["--splits", table(tmp_path / "own.csv", sides)] if sides else []
    folder = data if sides else shutil.copytree(data, tmp_path / "test")
    options = ("--data", folder, *own, "--split", split, "--no-quality", "-o", "calibrated")
    done = cli("calibrate", dark_bundle.path, *options)
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "calibrated").exists()
