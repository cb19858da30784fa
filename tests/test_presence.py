"""Presence: evidence by hand, curves against an independent fit, and probabilities that mean what they say."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.linear_model import LogisticRegression

from dermseg.errors import MissingExtraError
from dermseg.presence import Curve, evidence, fit


def test_evidence_is_the_logit_of_the_strongest_hundredth() -> None:
    values = np.full(300, 0.1, np.float32)
    values[[3, 77, 200]] = 0.9, 0.8, 0.4
    assert evidence(values.reshape(10, 30)) == pytest.approx(np.log(0.7 / 0.3), abs=1e-5)


def test_evidence_of_a_few_pixels_is_that_of_the_strongest() -> None:
    assert evidence(np.array([[0.2, 0.75]])) == pytest.approx(np.log(3))


def test_evidence_of_certainty_is_finite() -> None:
    assert evidence(np.ones((4, 4), np.float32)) == pytest.approx(-evidence(np.zeros((4, 4), np.float32)))
    assert 13 < evidence(np.ones((4, 4), np.float32)) < 14


@given(arrays.arrays(np.float32, (9, 13), elements=st.floats(0, 1, width=32)), st.integers(0, 8), st.integers(0, 12))
def test_more_probability_is_no_less_evidence(probability: np.ndarray, y: int, x: int) -> None:
    more = probability.copy()
    more[y, x] = 1
    assert evidence(more) >= evidence(probability)


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence, and whether the class is shown: with the probability of a curve of slope 0.7 and bias -1.2."""
    rng = np.random.default_rng(2)
    evidences = rng.normal(0.5, 2, count)
    return evidences, rng.random(count) < 1 / (1 + np.exp(-(0.7 * evidences - 1.2)))


def test_a_known_curve_is_found() -> None:
    curve = fit(*drawn(100_000))
    assert (curve.slope, curve.bias) == pytest.approx((0.7, -1.2), rel=0.03)


def test_a_curve_is_that_of_logistic_regression() -> None:
    evidences, shown = drawn(5000)
    other = LogisticRegression(C=np.inf).fit(evidences[:, None], shown)
    curve = fit(evidences, shown)
    np.testing.assert_allclose(curve(evidences), other.predict_proba(evidences[:, None])[:, 1], atol=0.005)


def test_a_fitted_probability_is_on_average_the_share_that_is_shown() -> None:
    evidences, shown = drawn(400)
    assert fit(evidences, shown)(evidences).mean() == pytest.approx(shown.mean(), abs=0.005)


def test_evidence_that_speaks_against_a_class_tells_nothing() -> None:
    evidences, shown = drawn(400)
    curve = fit(-evidences, shown)
    assert curve.slope == 0
    assert float(curve(np.array(9.0))) == pytest.approx(shown.mean(), abs=0.005)


def test_classes_that_are_told_without_error_have_a_finite_curve() -> None:
    curve = fit(np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True]))
    assert np.isfinite([curve.slope, curve.bias]).all()
    # Platt's targets of two and two images are 1/4 and 3/4.
    assert curve(np.array([-1.0, 1.0])) == pytest.approx([0.25, 0.75], abs=0.1)


def test_a_curve_of_extreme_evidence_is_a_probability() -> None:
    with np.errstate(all="raise"):
        assert Curve(slope=9, bias=0)(np.array([-1e6, 1e6])) == pytest.approx([0, 1])


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match=r"fitting the presence of a class needs .*evaluate"):
        fit(*drawn(10))
