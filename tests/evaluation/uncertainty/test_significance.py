"""P-values at their edges: exact counts, one user, none, and what cannot exceed 1."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from recsys.evaluation.uncertainty.significance import (
    bootstrap_p_value,
    holm,
    paired_standard_error,
    permutation_test,
    smallest_visible_difference,
)


@pytest.mark.parametrize("users", [1, 2, 5, 9])
def test_exact_p_values_do_not_hang_on_rounding(users: int) -> None:
    """Tenths do not add up the same in every order; the share of flips as extreme is that of whole numbers."""
    whole = np.random.default_rng(users).integers(-7, 8, (users, 6))  # many flips add up to the same
    flips = np.array(list(itertools.product((-1, 1), repeat=users)))
    expected = (np.abs(flips @ whole) >= np.abs(whole.sum(0))).mean(0)
    for scale in (1.0, 0.1, 1e-6, 1 / 3):
        np.testing.assert_array_equal(permutation_test(whole * scale), expected)


@pytest.mark.parametrize("users", [16, 17])
def test_enumeration_and_random_flips_agree(users: int) -> None:
    values = np.random.default_rng(0).normal(0.2, 1.0, (users, 3))
    codes = np.arange(2**users)[:, None] >> np.arange(users) & 1
    exact = (np.abs((1.0 - 2.0 * codes) @ values) >= np.abs(values.sum(0)) * (1 - 1e-12)).mean(0)
    found = permutation_test(values, 20_000)
    np.testing.assert_allclose(found, exact, atol=0 if users <= 16 else 0.015)


def test_users_without_a_difference_change_no_p_value() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, (12, 2))
    padded = np.concatenate([values, np.zeros((500, 2))])
    np.testing.assert_array_equal(permutation_test(padded), permutation_test(values))
    assert permutation_test(np.zeros((3, 2))).tolist() == [1.0, 1.0]


def test_random_flips_are_counted_with_the_observed_arrangement_and_seeded() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, (40, 5))
    found = permutation_test(values, 99, seed=4)
    np.testing.assert_allclose(found * 100, np.round(found * 100))
    assert found.min() > 0
    np.testing.assert_array_equal(found, permutation_test(values, 99, seed=4))
    assert (found != permutation_test(values, 99, seed=5)).any()


def test_a_bootstrap_p_value_lies_between_0_and_1_and_does_not_mind_the_sign() -> None:
    draws = np.random.default_rng(0).normal(0.1, 1.0, (200, 4))
    p = bootstrap_p_value(draws)
    assert ((p > 0) & (p <= 1)).all()
    np.testing.assert_allclose(bootstrap_p_value(-draws), p)
    assert bootstrap_p_value(np.zeros((51, 1))).tolist() == [1.0]
    clear = np.r_[1.0, np.ones(99)][:, None]
    assert bootstrap_p_value(clear)[0] == pytest.approx(2 / 100)


def test_undefined_draws_are_left_out() -> None:
    draws = np.r_[0.3, np.full(60, 0.2), np.full(4, -0.1)][:, None]
    with_gaps = np.r_[draws, np.full((30, 1), np.nan)]
    np.testing.assert_allclose(bootstrap_p_value(with_gaps), bootstrap_p_value(draws))
    assert bootstrap_p_value(np.full((9, 1), np.nan)).tolist() == [1.0]


def test_holm_keeps_the_order_and_never_exceeds_one() -> None:
    p = np.array([0.3, 0.001, 0.02, 0.9, 0.02])
    found = holm(p)
    assert (np.argsort(found, kind="stable") == np.argsort(p, kind="stable")).all()
    assert (found >= p).all()
    assert found.max() <= 1
    assert holm(np.array([0.03])).tolist() == [0.03]


@pytest.mark.parametrize("users", [2, 3, 50])
def test_the_standard_error_of_a_mean(users: int) -> None:
    values = np.random.default_rng(users).normal(size=(users, 2))
    expected = np.sqrt(np.square(values - values.mean(0)).sum(0) / (users - 1)) / math.sqrt(users)
    np.testing.assert_allclose(paired_standard_error(values), expected)
    assert np.isnan(paired_standard_error(values[:1])).all()
    assert paired_standard_error(values[:1]).shape == (2,)


def test_more_power_and_a_stricter_level_need_a_larger_difference() -> None:
    error = np.array([0.01, 0.02])
    usual = smallest_visible_difference(error)
    np.testing.assert_allclose(usual, error * (1.959964 + 0.841621), rtol=1e-6)
    assert (smallest_visible_difference(error, level=0.99) > usual).all()
    assert (smallest_visible_difference(error, power=0.9) > usual).all()
    np.testing.assert_allclose(smallest_visible_difference(error, power=0.5), error * 1.959964, rtol=1e-6)
