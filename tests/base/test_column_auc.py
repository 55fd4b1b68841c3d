"""What one column alone says of a label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from recsys.base.column_auc import beyond_chance, coded, column_auc


def test_of_a_number_it_is_the_rank_auc() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(3_000) < 0.3).astype(float)
    value = np.round(rng.normal(label, 1.0), 1)
    ranks, positives = rankdata(value), label.sum()
    auc = (ranks[label == 1].sum() - positives * (positives + 1) / 2) / positives / (3_000 - positives)
    for shown in (value, -value):
        assert column_auc(*coded(shown), label) == pytest.approx(auc, abs=1e-9)
    label[:1000] = np.nan
    assert column_auc(*coded(value), label) == pytest.approx(auc, abs=0.03)


def test_a_value_that_stands_in_one_row_tells_nothing() -> None:
    label = (np.random.default_rng(0).random(2_000) < 0.3).astype(float)
    unique = np.random.default_rng(1).permutation(2_000).astype(str)
    assert column_auc(*coded(unique), label) == 0.5


def test_missing_is_a_value() -> None:
    label = (np.random.default_rng(0).random(2_000) < 0.3).astype(float)
    number = np.where(label == 1, np.random.default_rng(1).random(2_000), np.nan)
    assert column_auc(*coded(number), label) > 0.999
    assert column_auc(*coded(np.array([None if one else "x" for one in label], dtype=object)), label) > 0.999


def test_a_perfect_column_of_a_few_rows_may_be_chance_and_of_many_is_none() -> None:
    """Three rows of a class order perfectly in a tenth of all shuffles, thirty in none that anybody will see."""
    for size, certain in ((3, False), (8, False), (30, True)):
        label = np.repeat([0.0, 1.0], size)
        assert beyond_chance(1.0, label) is certain
        assert beyond_chance(0.0, np.append(label, [np.nan] * 50)) is certain
    rng = np.random.default_rng(0)
    label = np.repeat([0.0, 1.0], 30)
    shuffled = [column_auc(np.arange(1, 61), np.arange(60.0), rng.permutation(label)) for _ in range(300)]
    assert not any(beyond_chance(auc, label) for auc in shuffled)
    assert not beyond_chance(1.0, np.zeros(100))
