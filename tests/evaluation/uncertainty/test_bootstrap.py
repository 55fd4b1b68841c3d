"""Intervals and tests: they equal slow resampling, cover the truth, and see what is there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test as scipy_permutation_test

from recsys.base.errors import ConfigError, DataError
from recsys.evaluation.metrics.calibration import ece
from recsys.evaluation.metrics.rows import auc, gauc, logloss
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap, auc_samples
from recsys.evaluation.uncertainty.row_samples import row_metric_samples
from recsys.evaluation.uncertainty.significance import (
    bootstrap_p_value,
    holm,
    paired_standard_error,
    permutation_test,
    smallest_visible_difference,
)
from recsys.tests.support.nonempty import nonempty


def drawn(boot: UserBootstrap) -> np.ndarray:
    return np.concatenate([block.T for block in boot.weights()]).astype(int)


def rows(seed: int, users: int = 60, count: int = 900) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    user = np.r_[np.arange(users), rng.integers(0, users, count - users)]
    probability = np.round(rng.beta(2, 3, count), 2)
    label = (rng.random(count) < probability).astype(float)
    return label, probability, user, rng.integers(0, 4, count)


def test_draws_are_multinomial_seeded_and_begin_with_the_sample() -> None:
    boot = UserBootstrap(300, draws=200, seed=3)
    weights = drawn(boot)
    assert weights.shape == (201, 300)
    assert (weights[0] == 1).all()
    assert (weights.sum(1) == 300).all()
    assert weights[1:].var() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(weights, drawn(boot))  # from the cache
    np.testing.assert_array_equal(weights, drawn(UserBootstrap(300, draws=200, seed=3)))
    assert (weights[1:] != drawn(UserBootstrap(300, draws=200, seed=4))[1:]).any()


def test_means_equal_resampled_means_and_skip_nan() -> None:
    boot = UserBootstrap(50, draws=30)
    values = np.random.default_rng(0).random((50, 3))
    values[::7, 1] = np.nan
    found = boot.means(values)
    for draw, weights in nonempty(enumerate(drawn(boot))):
        np.testing.assert_allclose(found[draw], np.nanmean(np.repeat(values, weights, axis=0), axis=0), atol=1e-12)


def test_row_metrics_of_each_draw_equal_the_metric_of_the_resampled_rows() -> None:
    label, probability, user, group = rows(1)
    boot = UserBootstrap(60, draws=12, seed=5)
    found = row_metric_samples(boot, label, probability, user, groups=group, num_groups=5)
    for draw, weights in nonempty(enumerate(drawn(boot))):
        for one in range(4):
            # each copy of a drawn user is a user of its own
            index = np.concatenate(
                [np.flatnonzero((user == u) & (group == one)) for u in np.repeat(range(60), weights)]
            )
            copies = np.concatenate(
                [np.full(((user == u) & (group == one)).sum(), c) for c, u in enumerate(np.repeat(range(60), weights))]
            )
            y, p = label[index], probability[index]
            assert found["auc"][draw, one] == pytest.approx(auc(y, p))
            assert found["gauc"][draw, one] == pytest.approx(gauc(y, p, copies))
            assert found["logloss"][draw, one] == pytest.approx(logloss(y, p))
            assert found["predicted_to_observed"][draw, one] == pytest.approx(p.sum() / y.sum())
            if draw == 0:
                assert found["ece"][0, one] == pytest.approx(ece(y, p))
        assert np.isnan(found["auc"][draw, 4])  # an empty group


def test_auc_samples_of_many_ties_runs_and_one_class() -> None:
    rng = np.random.default_rng(2)
    user = rng.integers(0, 20, 700)
    for score in (np.zeros(700), np.arange(700.0), rng.integers(0, 3, 700).astype(float)):
        label = (np.arange(700) > 300).astype(float)
        boot = UserBootstrap(20, draws=5)
        found = auc_samples(boot, label, score, user)[:, 0]
        for draw, weights in enumerate(drawn(boot)):
            assert found[draw] == pytest.approx(auc(label, score, weights[user].astype(float)))
    assert np.isnan(auc_samples(boot, np.ones(700), score, user)).all()
    assert auc_samples(boot, np.empty(0), np.empty(0), np.empty(0, int)).shape == (6, 1)


def test_neighbouring_groups_are_not_mixed() -> None:
    """Group 0 ends with the class that group 1 begins with."""
    label, score = np.array([0, 1, 1, 1, 0, 1.0]), np.array([1, 2, 3, 1, 2, 3.0])
    boot = UserBootstrap(6, draws=3)
    found = auc_samples(boot, label, score, np.arange(6), groups=np.array([0, 0, 0, 1, 1, 1]), num_groups=2)
    assert found[0].tolist() == [1.0, 0.5]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for trial in range(200):
        values = rng.exponential(1.0, (150, 1))
        low, high = UserBootstrap(150, draws=300, seed=trial).interval(
            UserBootstrap(150, draws=300, seed=trial).means(values)
        )[0]
        covered += low <= 1.0 <= high
        widths.append(high - low)
    assert 178 <= covered <= 198
    assert np.mean(widths) == pytest.approx(2 * 1.96 / np.sqrt(150), rel=0.08)


def test_rows_of_one_user_are_not_independent() -> None:
    """Duplicating every row must not make the interval narrower."""
    label, probability, user, _ = rows(3)
    boot = UserBootstrap(60, draws=200)
    once = boot.interval(row_metric_samples(boot, label, probability, user)["auc"])[0]
    twice = boot.interval(row_metric_samples(boot, *(np.tile(x, 2) for x in (label, probability, user)))["auc"])[0]
    np.testing.assert_allclose(once, twice, atol=1e-12)


def test_calibration_interval_is_not_all_above_the_estimate() -> None:
    label, probability, user, _ = rows(4, users=300, count=3000)
    boot = UserBootstrap(300, draws=300)
    samples = row_metric_samples(boot, label, probability, user)["ece"]
    plain, reflected = boot.interval(samples)[0], boot.interval(samples, pivotal=True)[0]
    assert samples[1:].mean() > samples[0, 0]  # what reflection is for
    assert reflected[0] <= samples[0, 0] <= reflected[1]
    assert reflected[1] < plain[1]
    assert reflected[0] >= 0


def test_no_draws_or_undefined_numbers_have_no_interval() -> None:
    boot = UserBootstrap(5, draws=0)
    assert boot.interval(boot.means(np.ones((5, 1)))) == [None]
    boot = UserBootstrap(5, draws=50)
    lonely = np.where(np.arange(5) == 2, 0.4, np.nan)[:, None]  # one user tells nothing of the spread
    assert boot.interval(boot.means(lonely)) == [None]
    assert boot.interval(np.full((51, 1), np.nan)) == [None]
    with pytest.raises(ConfigError, match="bootstrap of 0 users"):
        UserBootstrap(0)
    with pytest.raises(DataError, match="3 rows of values for 5 users"):
        boot.sums(np.ones((3, 1)))


def test_permutation_test_is_exact_for_few_users() -> None:
    difference = np.array([0.5, 0.3, -0.1, 0.4, 0.2, 0.6])
    theirs = scipy_permutation_test(
        (difference, np.zeros(6)), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=10**9
    )
    assert permutation_test(difference[:, None])[0] == pytest.approx(theirs.pvalue)


def test_permutation_test_finds_differences_and_is_fair_without() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 200))
    p = permutation_test(noise, 2000)
    assert 0.01 < (p < 0.05).mean() < 0.10
    assert abs(p.mean() - 0.5) < 0.06
    assert permutation_test(noise[:, :1] + 0.4, 2000)[0] == pytest.approx(1 / 2001)
    assert permutation_test(np.zeros((400, 1)))[0] == 1.0
    mirrored = permutation_test(-noise, 2000)
    np.testing.assert_allclose(p, mirrored)


def test_bootstrap_p_value() -> None:
    draws = np.r_[0.3, np.full(98, 0.2), -0.1, -0.2][:, None]
    assert bootstrap_p_value(draws)[0] == pytest.approx(2 * 3 / 101)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.6])), [1.0, 1.0])
    assert holm(np.empty(0)).shape == (0,)


def test_the_smallest_visible_difference_is_seen_eighty_times_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    visible = smallest_visible_difference(np.array([1 / np.sqrt(250)]))[0]
    seen = permutation_test(rng.normal(visible, 1.0, (250, 300)), 1000) < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.07)
    assert paired_standard_error(rng.normal(0, 1, (4000, 1)))[0] == pytest.approx(1 / np.sqrt(4000), rel=0.05)


def test_every_user_can_be_drawn_and_none_other() -> None:
    boot = UserBootstrap(4, draws=300, seed=1)
    drawn = np.concatenate([block.T for block in boot.weights()])
    assert (drawn.sum(1) == 4).all()
    np.testing.assert_allclose(drawn[1:].mean(0), 1.0, atol=0.15)  # about 3 standard errors


@pytest.mark.parametrize("side", [-1, 1])
def test_a_reflected_interval_holds_its_estimate_and_no_number_below_0(side: int) -> None:
    boot = UserBootstrap(50, draws=200)
    samples = np.full((201, 1), 1.0)
    samples[1:, 0] += side * np.linspace(0.3, 0.6, 200)  # every draw lies to one side
    [(low, high)] = boot.interval(samples, pivotal=True)  # type: ignore[misc]
    assert low <= 1.0 <= high
    if side > 0:
        assert (low, high) == (pytest.approx(2 - 1 - 0.6 + 0.0075, abs=1e-3), 1.0)
    else:
        assert (low, high) == (1.0, pytest.approx(1 + 0.6 - 0.0075, abs=1e-3))
    far = samples * 0.01
    far[1:] += 5.0
    assert boot.interval(far, pivotal=True)[0] == pytest.approx((0.0, 0.01))
