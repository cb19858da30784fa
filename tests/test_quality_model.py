"""What a prediction is worth: its features, the model's sums by hand, its verdicts; and pictures that are foreign."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from dermseg import Bundle, Segmenter, foreign
from dermseg.bundle import MANIFEST, write
from dermseg.errors import InputError
from dermseg.geometry import Geometry
from dermseg.imaging import open_image
from dermseg.quality import FAMILIARITY, FEATURES, Logistic, Quality, QualityModel, Subspace, features_of, judge
from dermseg.segmenter import Prediction
from dermseg.synthetic import SyntheticImage

SIDE = 32


def prediction(probability: NDArray[np.float32], pixels: NDArray[np.uint8] | None = None, **other: Any) -> Prediction:
    """Of a square image whose pixels are the network's."""
    size = len(probability)
    shown = np.full((size, size, 3), 128, np.uint8) if pixels is None else pixels
    return Prediction(
        photograph=open_image(shown),
        pixels=shown,
        classes=("lesion",),
        probabilities=probability[None].astype(np.float32),
        geometry=Geometry.fit(size, size, size),
        thresholds=(0.5,),
        bundle="none",
        **other,
    )


def square(inside: float = 1.0, outside: float = 0.0) -> NDArray[np.float32]:
    """16 x 16 pixels in the middle of 32 x 32."""
    probability = np.full((SIDE, SIDE), outside, np.float32)
    probability[8:24, 8:24] = inside
    return probability


def model(familiar: Subspace | None = None, **changes: Any) -> QualityModel:
    """Whose estimate is sigmoid(2 x agreement - 1), whose foreign score sigmoid(lightness - 90)."""
    names = FEATURES + FAMILIARITY * (familiar is not None)

    def of(name: str, weight: float, bias: float) -> Logistic:
        return Logistic(
            bias=bias, weights=tuple(weight * (each == name) for each in names), squares=(0.0,) * len(names)
        )

    values: dict[str, Any] = {
        "features": names,
        "centre": tuple(90.0 * (name == "lightness") for name in names),
        "scale": (1.0,) * len(names),
        "familiar": familiar,
        "jaccard": of("agreement", 2, -1),
        "foreign": of("lightness", 1, 0),
        "accept": 0.7,
        "reject": 0.5,
        "foreign_limit": 0.9,
        "good": 0.65,
        "images": 100,
        "fitted_on": "drawn 100",
        "accepted": 0.8,
        "accepted_good": 0.95,
        "rejected": 0.03,
    }
    return QualityModel(**{**values, **changes})


def judged(found: Prediction, by: QualityModel) -> Quality:
    quality = replace(found, quality_model=by).quality
    assert quality is not None
    return quality


def named(found: Prediction) -> dict[str, float]:
    return dict(zip(FEATURES, found.features.tolist(), strict=True))


def test_features_of_a_sharp_square() -> None:
    values = named(prediction(square()))
    assert values["entropy"] < 1e-5
    assert values["inside"] == values["highest"] == values["agreement"] == values["stability"] == values["largest"] == 1
    assert values["outside"] == values["components"] == values["border"] == values["uncertain_of_area"] == 0
    assert values["area"] == 0.5  # a quarter of the image
    # An outline through the middles of 60 pixels.
    assert values["compactness"] == pytest.approx(4 * math.pi * 256 / 60**2)


def test_features_of_an_unsure_square() -> None:
    values = named(prediction(square(0.6, 0.25)))
    of_bits = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (0.6, 0.25)]
    assert values["entropy"] == pytest.approx(0.25 * of_bits[0] + 0.75 * of_bits[1], abs=1e-6)
    assert values["uncertain_of_area"] == pytest.approx(math.log1p(1024 / 257))
    assert values["agreement"] == pytest.approx(256 * 0.6 / (256 + 768 * 0.25), abs=1e-6)
    assert values["stability"] == 0  # at 0.7 nothing of it is left


def test_features_of_two_parts_at_the_border() -> None:
    probability = np.zeros((SIDE, SIDE), np.float32)
    probability[0:4, 0:8], probability[20:28, 20:28] = 1, 1
    values = named(prediction(probability))
    assert values["components"] == pytest.approx(math.log(2))
    assert values["largest"] == pytest.approx(64 / 96)
    assert values["border"] == pytest.approx((8 + 4) / (4 * SIDE))


def test_features_of_a_photograph() -> None:
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pixels[8:24, 8:24] = 0
    values = named(prediction(square(), pixels))
    assert values["lightness"] == pytest.approx(75, abs=0.1)
    assert values["lightness_spread"] == pytest.approx(100 * math.sqrt(0.25 * 0.75), abs=0.1)
    assert (values["white"], values["black"]) == (0.75, 0.25)
    assert values["darker"] == pytest.approx(100, abs=0.1)
    assert values["colourfulness"] == values["vignette"] == 0


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 2, 33])
def test_features_are_finite_whatever_is_found(level: float, size: int) -> None:
    values = prediction(np.full((size, size), level, np.float32)).features
    assert values.shape == (len(FEATURES),)
    assert np.isfinite(values).all()


def test_features_depend_little_on_the_photographs_size(example: SyntheticImage, dark_bundle: Bundle) -> None:
    segment = Segmenter(dark_bundle, threads=1)
    large = cv2.resize(example.pixels, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    small, big = (named(segment(pixels)) for pixels in (example.pixels, large))
    for name in ("area", "lightness", "red", "yellow", "darker", "inside"):
        assert small[name] == pytest.approx(big[name], rel=0.03, abs=0.01), name


def test_a_regression_by_hand() -> None:
    score = Logistic(bias=0.5, weights=(1.0, -2.0), squares=(0.0, 0.25))
    assert score(np.array([1.0, 3.0])) == pytest.approx(1 / (1 + math.exp(-(0.5 + 1 - 6 + 0.25 * 8))))


def test_places_in_a_subspace_by_hand() -> None:
    # The first axis has deviation 2, the other two directions are what it leaves over.
    space = Subspace(mean=(1, 1, 1), axes=((0.5, 0, 0),), scales=(2,), residual=5)
    distance, residual = space.place(np.array([5.0, 4.0, 5.0]))
    assert distance == pytest.approx(math.log(4 / 2), abs=1e-3)
    assert residual == pytest.approx(math.log(5 / 5), abs=2e-3)


def test_verdicts() -> None:
    black, white = (np.full((SIDE, SIDE, 3), level, np.uint8) for level in (0, 255))
    good = judged(prediction(square(), black), model())
    assert good.verdict == "accept"
    assert good.jaccard == pytest.approx(1 / (1 + math.exp(-1)))
    assert "95%" in good.reason
    unsure = judged(prediction(square(0.6, 0.02), black), model())
    agreement = 256 * 0.6 / (256 + 768 * 0.02)
    assert unsure.jaccard == pytest.approx(1 / (1 + math.exp(1 - 2 * agreement)), abs=1e-5)
    assert unsure.verdict == "review"
    bad = judged(prediction(square(0.6, 0.45), black), model())
    assert (bad.verdict, bad.jaccard < 0.5) == ("reject", True)
    assert "probably wrong" in bad.reason
    strange = judged(prediction(square(), white), model())
    assert strange.reason.startswith("the photograph may be no dermoscopy: its score")
    nothing = judged(prediction(np.zeros((SIDE, SIDE), np.float32), white), model())
    assert nothing.reason.startswith("no lesion found; the photograph may be no dermoscopy")


def test_what_is_not_finite_is_not_accepted() -> None:
    z = np.full(len(model().features), np.nan)
    assert model().rate(z).verdict == "reject"
    assert json.dumps(model().rate(z).to_dict(), allow_nan=False)
    with pytest.raises(ValidationError, match="finite"):
        QualityModel.model_validate({**model().model_dump(), "accept": math.nan})


def test_an_empty_mask_is_rejected() -> None:
    found = judged(prediction(np.zeros((SIDE, SIDE), np.float32)), model())
    assert (found.verdict, found.jaccard, found.reason) == ("reject", 0.0, "no lesion found")
    assert json.dumps(found.to_dict())


def test_the_meaning_tells_the_numbers() -> None:
    meaning = model().meaning
    assert "0.70 or more, as of 80% of 100 images of tune (drawn 100" in meaning["accept"]
    assert "between 0.50 and 0.70" in meaning["review"]
    assert "3.0% of those images" in meaning["reject"]


def test_a_model_is_plain_json() -> None:
    space = Subspace(mean=(0.1, 0.2), axes=((1.0, 0.0),), scales=(1.0,), residual=0.3)
    for one in (model(), model(space)):
        assert QualityModel.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ("area",)},
        {"centre": (0.0,)},
        {"scale": (0.0,) * len(FEATURES)},
        {"features": FEATURES, "familiar": Subspace(mean=(0.0,), axes=((1.0,),), scales=(1.0,), residual=1.0)},
    ],
)
def test_a_model_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


def test_a_subspace_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError):
        model(Subspace(mean=(0.0, 0.0), axes=((1.0,),), scales=(1.0,), residual=1.0))


def test_an_embedding_is_asked_for() -> None:
    space = Subspace(mean=(0.0, 0.0), axes=((1.0, 0.0),), scales=(1.0,), residual=1.0)
    pixels, probability = np.zeros((SIDE, SIDE, 3), np.uint8), square()
    with pytest.raises(InputError, match="from the network's embedding, which the image was segmented without; calib"):
        judge(model(space), pixels, probability, 0.5)
    known = prediction(square(), embedding=np.ones(2, np.float32))
    assert judged(known, model(space)).verdict == "accept"


def test_a_bundle_judges_its_predictions(dark_bundle: Bundle, example: SyntheticImage, tmp_path: Path) -> None:
    manifest = dark_bundle.manifest.model_copy(update={"quality": model()})
    files = {name: dark_bundle.read(name) for name in dark_bundle.manifest.hashes}
    write(tmp_path / "judging", manifest, files)
    read = Bundle.load(tmp_path / "judging")
    assert read.manifest.quality == model()
    assert "[0.0, 0.0" in (tmp_path / "judging" / MANIFEST).read_text(), "a list of numbers stands in one line"
    found = Segmenter(read, threads=1)(example.pixels)
    inside = found.probabilities[0][found.geometry.content]
    assert found.quality == judge(model(), found.pixels, inside, found.thresholds[0])
    values = features_of(found.pixels, inside, found.thresholds[0])
    assert found.features.tolist() == values.tolist()
    assert Segmenter(dark_bundle, threads=1)(example.pixels).quality is None


@pytest.mark.parametrize("kind", foreign.KINDS)
def test_foreign_pictures_follow_from_their_seed(kind: str) -> None:
    drawn = [foreign.draw(kind, seed) for seed in range(4)]
    assert (foreign.draw(kind, 3) == drawn[3]).all()
    assert len({picture.tobytes() for picture in drawn}) == 4
    assert all(picture.dtype == np.uint8 and picture.shape[:2] in foreign.SIZES for picture in drawn)
    assert len({picture.shape for picture in drawn}) > 1


def test_kinds_look_as_they_are_called() -> None:
    def flat(kind: str) -> float:
        """Share of pixels that are as their neighbours to the right, nearly."""
        shares = [np.abs(np.diff(foreign.draw(kind, s).astype(int), axis=1)).max(axis=2) < 12 for s in range(2)]
        return float(np.mean([share.mean() for share in shares]))

    assert all(foreign.draw("dark", seed).mean() < 90 for seed in range(4))
    assert flat("noise") < 0.6 < 0.8 < min(flat(kind) for kind in ("gradient", "shapes", "cat"))
    # Half of the limb's pixels are a skin's: red above green above blue.
    for seed in range(2):
        middle = foreign.draw("clinical", seed)[100:-100, 100:-100].reshape(-1, 3).astype(int)
        assert ((middle[:, 0] > middle[:, 1]) & (middle[:, 1] > middle[:, 2])).mean() > 0.3


def test_kinds_for_fitting_and_for_reporting_differ() -> None:
    assert len(foreign.FITTING) == len(foreign.REPORTING) == 5
    assert not set(foreign.FITTING) & set(foreign.REPORTING)


def test_foreign_pictures_that_cannot_be_drawn() -> None:
    with pytest.raises(InputError, match="did you mean 'cat'"):
        foreign.draw("cta")
    with pytest.raises(InputError, match="-1"):
        foreign.draw("cat", -1)


def test_the_shipped_bundle_rejects_foreign_pictures() -> None:
    bundle = Bundle.load("lesion")
    if bundle.manifest.quality is None:
        pytest.skip("the shipped bundle has no quality model yet: dermseg calibrate")
    segment = Segmenter(bundle, threads=1)
    for kind in foreign.REPORTING:
        quality = segment(foreign.draw(kind, 1000)).quality
        assert quality is not None
        assert quality.verdict == "reject", kind
