"""Comparing two runs: real differences are found, chance is not, small ones are said to be invisible."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.lists import UserMetrics
from recsys.evaluation.metrics.rows import auc
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap, auc_samples
from recsys.evaluation.uncertainty.compare import TaskRows, compare
from recsys.evaluation.uncertainty.significance import holm

CONFIG = EvaluationConfig(draws=300, permutations=1000)


def metrics(values: np.ndarray, users: np.ndarray | None = None) -> UserMetrics:
    return UserMetrics(np.arange(len(values)) if users is None else users, {"ndcg@10": values, "hit@10": values}, 0)


def test_a_real_difference_is_found_where_the_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(600)
    b = a + rng.normal(0.01, 0.05, 600)  # spread between users 0.29, of the difference 0.05
    row = compare((metrics(a), metrics(b)), config=CONFIG)[0]
    assert row.significant
    assert row.difference == pytest.approx((b - a).mean())
    assert row.low < row.difference < row.high
    assert row.low > 0
    assert row.users == 600
    assert row.smallest_visible == pytest.approx(2.8 * (b - a).std() / np.sqrt(600), rel=0.01)
    json.dumps(row.to_json(), allow_nan=False)


def test_chance_is_not_called_a_difference() -> None:
    rng = np.random.default_rng(1)
    found = [
        compare((metrics(rng.random(200)), metrics(rng.random(200))), config=CONFIG)[0].significant for _ in range(40)
    ]
    assert sum(found) <= 5
    same = compare((metrics(np.ones(30)), metrics(np.ones(30))), config=CONFIG)[0]
    assert (same.p, same.difference, same.significant) == (1.0, 0.0, False)


def test_only_common_users_are_paired_by_their_rows() -> None:
    a = metrics(np.array([0.1, 0.2, 0.3]), np.array([4, 7, 9]))
    b = metrics(np.array([0.9, 0.5, 0.2]), np.array([9, 2, 7]))
    row = compare((a, b), config=CONFIG)[0]
    assert row.users == 2
    assert row.difference == pytest.approx(((0.2 - 0.2) + (0.9 - 0.3)) / 2)
    with pytest.raises(DataError, match="0 evaluated users"):
        compare((a, metrics(np.ones(1), np.array([1]))), config=CONFIG)


def test_tasks_are_compared_and_holm_runs_over_everything() -> None:
    rng = np.random.default_rng(2)
    users, p = rng.integers(0, 400, 6000), rng.beta(2, 2, 6000)
    labels = (rng.random(6000) < p).astype(float)
    noisy = np.clip(p + rng.normal(0, 0.25, 6000), 0.01, 0.99)
    values = rng.random(400)
    found = compare((metrics(values), metrics(values)), {"click": TaskRows(labels, noisy, p, users)}, CONFIG)
    by_name = {row.metric: row for row in found}
    assert list(by_name)[:2] == ["ndcg@10", "hit@10"]
    better = by_name["click auc"]
    assert better.difference == pytest.approx(auc(labels, p) - auc(labels, noisy))
    assert better.significant
    np.testing.assert_allclose([row.p_holm for row in found], holm(np.array([row.p for row in found])))
    assert better.p_holm > better.p
    assert by_name["click logloss"].difference < 0
    swapped = compare(None, {"click": TaskRows(labels, p, noisy, users)}, CONFIG)
    assert swapped[0].difference == pytest.approx(-better.difference)
    assert swapped[0].high == pytest.approx(-better.low)


def test_what_could_be_seen_of_a_task_comes_from_the_spread_of_the_draws_alone() -> None:
    """The estimate is no draw: with few draws it would shift the standard error."""
    rng = np.random.default_rng(3)
    users, p = rng.integers(0, 30, 300), rng.beta(2, 2, 300)
    labels = (rng.random(300) < p).astype(float)
    noisy = np.clip(p + rng.normal(0, 0.3, 300), 0.01, 0.99)
    config = EvaluationConfig(draws=5)
    row = compare(None, {"click": TaskRows(labels, noisy, p, users)}, config)[0]
    boot = UserBootstrap(30, draws=5, seed=config.seed)
    first, second = (auc_samples(boot, labels, side, users)[:, 0] for side in (noisy, p))
    assert row.metric == "click auc"
    assert row.smallest_visible == pytest.approx(2.801585 * np.std((second - first)[1:]), rel=1e-5)
    assert row.users == 30


def test_a_task_that_is_undefined_in_either_run_is_left_out() -> None:
    rows = TaskRows(np.zeros(20), np.full(20, 0.2), np.full(20, 0.3), np.arange(20))
    assert {row.metric for row in compare(None, {"click": rows}, CONFIG)} == {"click logloss", "click ece"}
