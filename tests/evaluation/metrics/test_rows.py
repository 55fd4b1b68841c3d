"""AUC, GAUC, log-loss and calibration three ways: by hand, by a slow twin, and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from recsys.base.errors import ConfigError, DataError
from recsys.evaluation.metrics.calibration import (
    assign_bins,
    ece,
    predicted_to_observed,
    reliability_curve,
    wilson_interval,
)
from recsys.evaluation.metrics.rows import auc, gauc, logloss, user_auc


def slow_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    weights = np.ones(len(labels)) if weights is None else weights
    wins = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            weight = weights[i] * weights[j]
            total += weight
            wins += weight * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return wins / total if total else None


def random_rows(seed: int, rows: int = 300, users: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities with many ties, users of uneven size, some with one class."""
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.random(rows), 1)
    return (rng.random(rows) < 0.2 + 0.5 * probabilities).astype(float), probabilities, rng.integers(0, users, rows)


def test_auc_by_hand() -> None:
    # pairs (positive, negative): .8>.5, .8>.2, .5=.5, .5>.2 -> 3.5 of 4
    assert auc(np.array([1, 1, 0, 0]), np.array([0.8, 0.5, 0.5, 0.2])) == 3.5 / 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=25))
def test_auc_equals_all_pairs_with_ties_and_weights(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    for weight in (None, weights):
        want = slow_auc(labels, scores, weight)
        found = auc(labels, scores, weight)
        assert (found is None) == (want is None)
        assert found == pytest.approx(want, abs=1e-12)


def test_auc_equals_mann_whitney() -> None:
    labels, scores, _ = random_rows(0, 5000)
    positive, negative = scores[labels == 1], scores[labels == 0]
    statistic = mannwhitneyu(positive, negative).statistic
    assert auc(labels, scores) == pytest.approx(statistic / (len(positive) * len(negative)), abs=1e-12)


def test_auc_does_not_care_for_monotone_maps_and_mirrors() -> None:
    labels, scores, _ = random_rows(1)
    assert auc(labels, np.exp(3 * scores) - 7) == auc(labels, scores)
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores))
    assert auc(1 - labels, scores) == pytest.approx(1 - auc(labels, scores))


def test_one_class_has_no_auc() -> None:
    for labels in (np.ones(3), np.zeros(3), np.empty(0)):
        assert auc(labels, np.linspace(0, 1, len(labels))) is None
        assert gauc(labels, np.linspace(0, 1, len(labels)), np.zeros(len(labels), int)) is None


def test_gauc_by_hand_and_by_twin() -> None:
    labels = np.array([1, 0, 1, 0, 0, 1, 1])
    scores = np.array([0.9, 0.1, 0.2, 0.4, 0.2, 0.5, 0.6])
    users = np.array([7, 7, 3, 3, 3, 5, 5])  # user 7: AUC 1 of 2 rows; 3: 0.25 of 3 rows; 5: one class
    found = user_auc(labels, scores, users)
    assert found.users.tolist() == [3, 7]
    assert found.values.tolist() == [0.25, 1.0]
    assert found.rows.tolist() == [3.0, 2.0]
    assert found.skipped == 1
    assert gauc(labels, scores, users) == pytest.approx((3 * 0.25 + 2 * 1.0) / 5)
    labels, scores, users = random_rows(2, 2000, 300)
    values = [(slow_auc(labels[users == u], scores[users == u]), (users == u).sum()) for u in np.unique(users)]
    kept = [(value, rows) for value, rows in values if value is not None]
    assert len(kept) < len(values)
    want = sum(value * rows for value, rows in kept) / sum(rows for _, rows in kept)
    assert gauc(labels, scores, users) == pytest.approx(want, abs=1e-12)
    assert gauc(labels, scores, users * 1000 - 77) == pytest.approx(want, abs=1e-12)


def test_gauc_does_not_care_for_a_shift_per_user_and_auc_does() -> None:
    labels, scores, users = random_rows(3, 4000, 50)
    shifted = scores + users * 10.0
    assert gauc(labels, shifted, users) == pytest.approx(gauc(labels, scores, users))
    assert abs(auc(labels, shifted) - auc(labels, scores)) > 0.05


def test_logloss_by_hand_and_at_the_edges() -> None:
    found = logloss(np.array([1, 0]), np.array([0.8, 0.4]))
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert logloss(np.array([1.0]), np.array([0.0])) == pytest.approx(-math.log(1e-7))
    assert logloss(np.empty(0), np.empty(0)) is None


def test_ece_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    probabilities = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7])
    # two bins of three rows: |0.6 - 1| and |2.4 - 2| over 6
    assert ece(labels, probabilities, 2) == pytest.approx((0.4 + 0.4) / 6)
    # bins [0, .5) and [.5, 1] hold the same rows here
    assert ece(labels, probabilities, 2, "width") == pytest.approx((0.4 + 0.4) / 6)
    assert ece(labels, probabilities, 1) == pytest.approx(abs(probabilities.sum() - labels.sum()) / 6)


def test_bins_hold_equal_mass_and_never_split_ties() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.random(1500)
    assert set(np.bincount(assign_bins(smooth, 15))) == {100}
    tied = np.round(smooth, 1)
    assert all(len(set(assign_bins(tied, 7)[tied == value])) == 1 for value in np.unique(tied))
    assert assign_bins(np.array([0.0, 0.49, 0.5, 1.0]), 2, "width").tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_ece_and_curve_equal_the_twin(binning: str) -> None:
    labels, probabilities, _ = random_rows(4, 3000)
    bins = assign_bins(probabilities, 10, binning)
    want, points = 0.0, []
    for one in range(10):
        inside = bins == one
        if inside.any():
            points.append((probabilities[inside].mean(), labels[inside].mean(), inside.sum()))
            want += abs(points[-1][0] - points[-1][1]) * inside.mean()
    assert ece(labels, probabilities, 10, binning) == pytest.approx(want)
    curve = reliability_curve(labels, probabilities, 10, binning)
    np.testing.assert_allclose(np.array([curve["predicted"], curve["observed"], curve["rows"]]).T, points)
    assert all(low <= at <= high for low, at, high in zip(curve["low"], curve["observed"], curve["high"], strict=True))


def test_true_probabilities_are_calibrated_and_distorted_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.beta(1, 30, 200_000)  # a rare label
    labels = (rng.random(200_000) < probabilities).astype(float)
    assert ece(labels, probabilities) < 0.0015
    assert ece(labels, probabilities / 2) == pytest.approx(probabilities.mean() / 2, rel=0.05)
    assert predicted_to_observed(labels, probabilities / 2) == pytest.approx(0.5, rel=0.03)
    assert auc(labels, probabilities) == auc(labels, probabilities / 2)


def test_wilson_interval_by_hand() -> None:
    low, high = wilson_interval(np.array([0.0, 0.5]), np.array([10.0, 100.0]))
    assert low[0] == 0
    assert high[0] == pytest.approx(0.2775, abs=1e-4)
    assert (low[1], high[1]) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_bad_rows_are_named() -> None:
    with pytest.raises(DataError, match=r"label 2.* in row 1"):
        auc(np.array([0.0, 2.0]), np.array([0.1, 0.2]))
    with pytest.raises(DataError, match=r"score nan in row 0"):
        auc(np.array([0.0, 1.0]), np.array([np.nan, 0.2]))
    with pytest.raises(DataError, match=r"probability 1.5 in row 1.*sigmoid"):
        logloss(np.array([0.0, 1.0]), np.array([0.1, 1.5]))
    with pytest.raises(DataError, match="one entry per row"):
        gauc(np.zeros(2), np.zeros(2), np.zeros(3, int))
    with pytest.raises(ConfigError, match="1 or more bins"):
        ece(np.zeros(2), np.zeros(2), 0)


def test_rounding_takes_no_auc_out_of_its_range() -> None:
    rng = np.random.default_rng(0)
    labels, users = np.tile([0.0, 0.0, 1.0, 1.0, 1.0], 400), np.repeat(np.arange(400), 5)
    weights = rng.random(2000)
    perfect = user_auc(labels, labels, users, weights).values
    worst = user_auc(labels, -labels, users, weights).values
    assert perfect.max() <= 1.0
    assert worst.min() >= 0.0
    np.testing.assert_allclose(perfect, 1.0)
    np.testing.assert_allclose(worst, 0.0, atol=1e-9)
