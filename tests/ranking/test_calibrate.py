"""Calibrators: they find planted distortions, stay monotone, survive hopeless data, and save whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.base.errors import ConfigError
from recsys.ranking.calibrate import CalibrationConfig, Calibrator, fit_calibrator, sigmoid, weight_ratio

FITTED = ["platt", "temperature", "isotonic"]


def world(rows: int = 20_000, seed: int = 0) -> tuple[Any, Any]:
    """True logits and labels."""
    generator = np.random.default_rng(seed)
    z = generator.normal(-1.0, 1.5, rows)
    return z, (generator.random(rows) < sigmoid(z)).astype(np.float64)


def fit(kind: str, logits: Any, labels: Any, weights: Any = None, **keys: Any) -> Calibrator:
    return fit_calibrator(CalibrationConfig(kind=kind, **keys), logits, labels, weights)  # type: ignore[arg-type]


def test_platt_undoes_scale_and_shift_and_temperature_the_scale() -> None:
    z, y = world()
    platt = fit("platt", 3 * z + 2, y)
    assert platt.slope == pytest.approx(1 / 3, rel=0.05)
    assert platt.shift == pytest.approx(-2 / 3, abs=0.05)
    temperature = fit("temperature", 3 * z, y)
    assert temperature.slope == pytest.approx(1 / 3, rel=0.05)
    assert temperature.shift == 0.0


def test_isotonic_undoes_a_distortion_that_is_no_line() -> None:
    z, y = world()
    bent = z**3
    fresh, _ = world(seed=1)
    found = fit("isotonic", bent, y)(fresh**3)
    assert np.abs(found - sigmoid(fresh)).mean() < 0.02
    assert np.abs(fit("platt", bent, y)(fresh**3) - sigmoid(fresh)).mean() > 0.03


@pytest.mark.parametrize("kind", FITTED)
def test_the_mean_probability_is_the_rate_and_the_order_stays(kind: str) -> None:
    z, y = world()
    calibrator = fit(kind, 2 * z, y)
    if kind != "temperature":
        assert float(calibrator(2 * z).mean()) == pytest.approx(float(y.mean()), rel=0.01)
    grid = np.linspace(-30, 30, 1001)
    found = calibrator(grid)
    assert (np.diff(found) >= 0).all()
    assert ((found > 0) & (found < 1)).all() or kind != "isotonic"
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_without_both_classes_it_is_the_sigmoid(kind: str, label: float) -> None:
    z = np.linspace(-3, 3, 50)
    np.testing.assert_allclose(fit(kind, z, np.full(50, label))(z), sigmoid(z))


@pytest.mark.parametrize("kind", FITTED)
def test_labels_against_the_logits_never_turn_the_order(kind: str) -> None:
    z, y = world(2000)
    assert (np.diff(fit(kind, -z, y)(np.linspace(-5, 5, 100))) >= 0).all()


@pytest.mark.parametrize("kind", FITTED)
def test_separable_rows_and_constant_logits_stay_finite(kind: str) -> None:
    z = np.linspace(-2, 2, 40)
    assert np.isfinite(fit(kind, z, (z > 0).astype(float))(z)).all()
    constant = fit(kind, np.zeros(40), np.arange(40) % 4 == 0)(np.zeros(40))
    assert np.isfinite(constant).all()
    if kind != "temperature":
        np.testing.assert_allclose(constant, 0.25, atol=0.03)


@pytest.mark.parametrize("kind", FITTED)
def test_integer_weights_are_repetitions(kind: str) -> None:
    z, y = world(300)
    times = np.random.default_rng(1).integers(0, 4, 300)
    weighted, repeated = fit(kind, z, y, times.astype(float)), fit(kind, np.repeat(z, times), np.repeat(y, times))
    np.testing.assert_allclose(weighted(z), repeated(z), atol=5e-3 if kind == "isotonic" else 1e-4)


def test_rows_in_another_order_give_the_same_isotonic_fit() -> None:
    z, y = world(500)
    z = np.round(z, 1)  # ties
    order = np.random.default_rng(2).permutation(500)
    np.testing.assert_allclose(fit("isotonic", z, y)(z), fit("isotonic", z[order], y[order])(z))


def test_the_closed_forms_undo_thinning_and_weighting() -> None:
    p = np.array([0.01, 0.3, 0.9])
    thinned = p / (p + 0.1 * (1 - p))  # a tenth of the negatives kept
    np.testing.assert_allclose(
        fit("downsampling", np.zeros(0), np.zeros(0), keep=0.1)(np.log(thinned / (1 - thinned))), p
    )
    heavy = 3 * p / (3 * p + 1 - p)
    np.testing.assert_allclose(by_weight(3.0)(np.log(heavy / (1 - heavy))), p)


def by_weight(ratio: float) -> Calibrator:
    return fit_calibrator(CalibrationConfig(kind="reweighting"), np.zeros(0), np.zeros(0), ratio=ratio)


def test_the_ratio_is_that_of_the_weights_used_and_weights_within_a_class_are_refused() -> None:
    labels, weights = np.array([1.0, 0.0, 1.0, 0.0, 1.0]), np.array([6.0, 2.0, 6.0, 2.0, 0.0])
    assert weight_ratio("like", labels, weights) == pytest.approx(3.0)
    assert weight_ratio("like", labels, weights, positive=10.0) == pytest.approx(30.0)
    assert weight_ratio("like", np.zeros(5), weights) == 1.0
    weights[1] = 5.0
    with pytest.raises(ConfigError, match=r'"like": the training weights of its negative rows run from 2 to 5'):
        weight_ratio("like", labels, weights)


@pytest.mark.parametrize("kind", ["none", *FITTED])
def test_the_state_as_arrays_is_the_whole_calibrator(kind: str) -> None:
    z, y = world(500)
    calibrator = fit(kind, z, y)
    again = Calibrator.from_arrays(calibrator.to_arrays())
    np.testing.assert_array_equal(again(z), calibrator(z))
    assert again(z.astype(np.float32)).dtype == np.float32
    assert again(z.reshape(50, 10)).shape == (50, 10)


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="equally many"):
        fit("platt", np.zeros(3), np.zeros(4))


def test_huge_logits_do_not_overflow() -> None:
    with np.errstate(over="raise"):
        np.testing.assert_allclose(Calibrator()(np.array([-800.0, 0.0, 800.0])), [0.0, 0.5, 1.0])


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (3, 5), (20, 2)])
def test_platts_targets_keep_one_row_of_each_class_away_from_certainty(positives: int, negatives: int) -> None:
    """Of rows that all look alike the fit is the mean of the targets, (P + 1) / (P + 2) and 1 / (N + 2)."""
    labels = np.r_[np.ones(positives), np.zeros(negatives)]
    found = fit("platt", np.zeros(len(labels)), labels)(np.zeros(1))[0]
    targets = positives * (positives + 1) / (positives + 2) + negatives / (negatives + 2)
    assert found == pytest.approx(targets / (positives + negatives), abs=1e-6)
