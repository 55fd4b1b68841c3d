"""What lists look like: coverage, Gini, novelty, popularity, diversity, by hand and by twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.evaluation.metrics.coverage import (
    average_popularity,
    category_diversity,
    coverage,
    coverage_interval,
    diversity,
    gini,
    item_exposure,
    novelty,
)
from recsys.tests.support.nonempty import nonempty

LISTS = np.array([[0, 1, 2], [0, 3, -1], [-1, -1, -1]])


def test_coverage_and_exposure_by_hand() -> None:
    assert item_exposure(LISTS, 8, 2).tolist() == [2, 1, 0, 1, 0, 0, 0, 0]
    assert coverage(LISTS, 8, 2) == 3 / 8
    assert coverage(LISTS, 8, 3) == 4 / 8
    with pytest.raises(DataError, match="item row 3"):
        coverage(LISTS, 3, 3)


def test_coverage_interval_holds_the_coverage_and_shrinks_with_users() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for users in (200, 3200):
        lists = np.stack([rng.choice(4000, 5, replace=False) for _ in range(users)])
        low, high = coverage_interval(lists, 4000, 5)
        assert low < coverage(lists, 4000, 5) < high
        # leaving one user out, done slowly
        if users == 200:
            left_out = [coverage(np.delete(lists, user, 0), 4000, 5) for user in range(users)]
            error = math.sqrt((users - 1) / users * np.square(left_out - np.mean(left_out)).sum())
            assert high - low == pytest.approx(2 * 1.959964 * error, rel=1e-5)
        widths.append((high - low) / coverage(lists, 4000, 5))
    assert widths[1] < widths[0]


def test_gini_by_hand() -> None:
    assert gini(np.array([5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    values = np.array([1, 2, 7])
    pairs = sum(abs(a - b) for a, b in itertools.product(values, values))
    assert gini(values) == pytest.approx(pairs / (2 * 3 * values.sum()))
    assert gini(np.zeros(3)) is None


def test_novelty_by_hand() -> None:
    popularity = np.array([4, 2, 0, 1, 0])  # share of item i: (count + 1) / 12
    found = novelty(LISTS, popularity, 2)
    assert found[0] == pytest.approx((-math.log2(5 / 12) - math.log2(3 / 12)) / 2)
    assert found[1] == pytest.approx((-math.log2(5 / 12) - math.log2(2 / 12)) / 2)
    assert math.isnan(found[2])


def test_average_popularity_is_a_percentile_with_ties() -> None:
    popularity = np.array([9, 5, 5, 1, 0])
    found = average_popularity(np.array([[0], [1], [2], [4]]), popularity, 1)
    assert found.tolist() == [1.0, 0.625, 0.625, 0.0]


def test_diversity_equals_all_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 4))
    vectors[7] = 0
    lists = np.stack([rng.choice(20, 6, replace=False) for _ in range(9)])
    lists[3, 2:] = -1
    lists[4, 1:] = -1
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = diversity(lists, vectors, 5)
    for row, chosen in nonempty(zip(found, lists[:, :5], strict=True)):
        pairs = [1 - unit[a] @ unit[b] for a, b in itertools.combinations(chosen[chosen >= 0], 2)]
        assert (math.isnan(row) and not pairs) or row == pytest.approx(np.mean(pairs))


def test_category_diversity_equals_one_hot_diversity() -> None:
    rng = np.random.default_rng(1)
    categories = rng.integers(0, 3, 30)
    lists = np.stack([rng.choice(30, 6, replace=False) for _ in range(9)])
    lists[2, 3:] = -1
    lists[5, 1:] = -1
    np.testing.assert_allclose(
        category_diversity(lists, categories, 5), diversity(lists, np.eye(3)[categories], 5), atol=1e-12
    )


@pytest.mark.parametrize("users", [2, 3, 7])
def test_the_coverage_interval_is_the_jackknife_of_its_definition(users: int) -> None:
    ranked = np.stack(
        [np.random.default_rng(u).permutation(40)[: 2 + u % 3].tolist() + [-1] * (2 - u % 3) for u in range(users)]
    )
    left_out = np.array([coverage(np.delete(ranked, u, axis=0), 40, 4) for u in range(users)])
    error = np.sqrt((users - 1) / users * np.square(left_out - left_out.mean()).sum())
    covered = coverage(ranked, 40, 4)
    low, high = coverage_interval(ranked, 40, 4)
    assert error > 0
    assert low == pytest.approx(max(covered - 1.959964 * error, 0))
    assert high == pytest.approx(min(covered + 1.959964 * error, 1))
    assert coverage_interval(ranked[:1], 40, 4) == (coverage(ranked[:1], 40, 4),) * 2
