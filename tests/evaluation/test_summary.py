"""The JSON of metrics: names, intervals beside rates, and sampled numbers kept apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.rows import auc, gauc, logloss
from recsys.evaluation.summary import combine, ranking_metrics, retrieval_metrics, with_intervals
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap

CONFIG = EvaluationConfig(ks=(2, 5, 50), draws=60)


def lists(seed: int = 0, users: int = 40, items: int = 30) -> tuple[np.ndarray, Ragged]:
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(items)[:5] for _ in range(users)])
    return ranked, Ragged.from_lists([rng.choice(items, rng.integers(0, 4), replace=False) for _ in range(users)])


def test_every_rate_has_its_interval_and_all_is_json() -> None:
    ranked, truth = lists()
    rng = np.random.default_rng(1)
    found = retrieval_metrics(
        ranked,
        truth,
        num_items=30,
        config=CONFIG,
        popularity=rng.integers(0, 9, 30),
        item_vectors=rng.normal(size=(30, 3)),
    )
    json.dumps(found, allow_nan=False)
    rates = [name for name, value in found.items() if isinstance(value, float) and not name.startswith("gini")]
    assert len(rates) == 2 * (6 + 4)
    for name in rates:
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high, name
    assert found["users"] + found["users_without_truth"] == 40
    assert not any("@50" in name for name in found)


def test_no_draws_leave_the_intervals_out() -> None:
    ranked, truth = lists()
    found = retrieval_metrics(ranked, truth, num_items=30, config=EvaluationConfig(ks=(5,), draws=0))
    assert not any(name.endswith("_ci") for name in found)
    with pytest.raises(ConfigError, match="exceed the lists of 5"):
        retrieval_metrics(ranked, truth, num_items=30, config=EvaluationConfig(ks=(50,)))


def test_ranking_metrics_use_only_observed_rows() -> None:
    rng = np.random.default_rng(0)
    users, p = rng.integers(0, 30, 500) * 17, rng.random(500)
    labels = (rng.random(500) < p).astype(float)
    mask = rng.random(500) < 0.6
    hidden = np.where(mask, labels, np.nan)
    found = ranking_metrics(hidden, p, users, mask, config=CONFIG)
    assert found["rows"] == mask.sum()
    assert found["positives"] == labels[mask].sum()
    assert found["auc"] == pytest.approx(auc(labels[mask], p[mask]))
    assert found["gauc"] == pytest.approx(gauc(labels[mask], p[mask], users[mask]))
    assert found["logloss"] == pytest.approx(logloss(labels[mask], p[mask]))
    assert found["auc_ci"][0] < found["auc"] < found["auc_ci"][1]
    assert found["gauc_users"] + found["users_of_one_class"] == len(np.unique(users[mask]))
    json.dumps(found, allow_nan=False)
    with pytest.raises(DataError, match=r"label nan.*mask the unobserved"):
        ranking_metrics(hidden, p, users)
    with pytest.raises(DataError, match="a mask of shape"):
        ranking_metrics(hidden, p, users, mask[:3])


def test_one_class_and_no_rows_are_none() -> None:
    found = ranking_metrics(np.zeros(4), np.full(4, 0.1), np.arange(4), config=CONFIG)
    assert found["auc"] is None
    assert found["gauc"] is None
    assert found["predicted_to_observed"] is None
    assert found["ece"] == pytest.approx(0.1)
    json.dumps(found, allow_nan=False)
    empty = ranking_metrics(np.zeros(4), np.zeros(4), np.arange(4), np.zeros(4, bool))
    assert empty["rows"] == 0
    assert empty["auc"] is None


def test_sampled_metrics_say_so_and_are_not_tabled_beside_full_ones() -> None:
    ranked, truth = lists()
    full = retrieval_metrics(ranked, truth, num_items=30, config=CONFIG)
    sampled = retrieval_metrics(ranked, truth, num_items=30, config=CONFIG, sampled=100)
    assert sampled["ndcg@5_sampled@100"] == full["ndcg@5"]
    assert sampled["ndcg@5_sampled@100_ci"] == full["ndcg@5_ci"]
    assert not any("@" in name and "_sampled@100" not in name for name in sampled)
    assert set(combine({"a": full, "b": full})) == {"a", "b"}
    assert set(combine({"a": sampled, "b": sampled})) == {"a", "b"}
    other = retrieval_metrics(ranked, truth, num_items=30, config=CONFIG, sampled=999)
    for wrong in (full, other):
        with pytest.raises(ConfigError, match=r"100 sampled negatives.*not comparable"):
            combine({"ours": sampled, "theirs": wrong})


def test_errors_of_calibration_have_reflected_intervals_and_all_others_plain_ones() -> None:
    rng = np.random.default_rng(0)
    boot = UserBootstrap(50, draws=200)
    samples = np.abs(rng.normal(0.3, 0.1, (201, 2)))
    samples[0] = 0.2  # noise raises the draws above the estimate
    found = with_intervals(["ece", "auc"], samples, boot)
    assert found["ece_ci"] == list(boot.interval(samples, pivotal=True)[0])
    assert found["auc_ci"] == list(boot.interval(samples)[1])
    assert found["ece_ci"][1] < found["auc_ci"][1]
