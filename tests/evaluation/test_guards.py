"""Every guard is silent on sound data and names each planted fault."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.finding import Finding
from recsys.base.ragged import Ragged
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.guards import (
    embeddings_collapsed,
    filters_drop_relevant,
    index_faults,
    miscalibrated,
    summarised,
    summary,
    worse_than_popularity,
)
from recsys.evaluation.leaks import (
    counts_from_future,
    leak_suspects,
    overlapping_time,
    statistics_from_outside,
    time_travel,
)
from recsys.evaluation.metrics.lists import UserMetrics

CONFIG = EvaluationConfig(draws=200)


def names(findings: list[Finding]) -> list[str]:
    return [finding.about for finding in findings]


def per_user(values: np.ndarray) -> UserMetrics:
    return UserMetrics(np.arange(len(values)), {"ndcg@10": values}, 0)


def test_worse_than_popularity() -> None:
    rng = np.random.default_rng(0)
    popular = rng.random(500)
    better, barely = popular + 0.1, popular + rng.normal(0.001, 0.5, 500)
    assert worse_than_popularity(per_user(better), per_user(popular), "ndcg@10", CONFIG) == []
    found = worse_than_popularity(per_user(popular - 0.1), per_user(popular), "ndcg@10", CONFIG)
    assert names(found) == ["worse_than_popularity"]
    assert found[0].level == "problem"
    barely += 0.005 - (barely - popular).mean()
    found = worse_than_popularity(per_user(barely), per_user(popular), "ndcg@10", CONFIG)
    assert names(found) == ["not_surely_better_than_popularity"]
    assert "500 users" in found[0].sentence


def test_collapsed_embeddings() -> None:
    rng = np.random.default_rng(0)
    healthy = rng.normal(size=(300, 16))
    assert embeddings_collapsed(healthy) == []
    found = embeddings_collapsed(healthy * 0.05 + 1.0, "query vectors")
    assert names(found) == ["embeddings_collapsed"]
    assert "query vectors" in found[0].sentence
    unit = (healthy * 0.05 + 1.0) / np.linalg.norm(healthy * 0.05 + 1.0, axis=1, keepdims=True)
    cosine = ((unit @ unit.T).sum() - 300) / (300 * 299)
    assert f"{cosine:.2f}" in found[0].sentence
    assert names(embeddings_collapsed(np.zeros((5, 3)))) == ["embeddings_collapsed"]
    healthy[4] = 0
    assert names(embeddings_collapsed(healthy)) == ["zero_vectors"]


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(400, 8)).astype(np.float32)


def search(query: np.ndarray, item: np.ndarray, metric: str, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    if metric == "l2":
        scores = -np.square(query[:, None] - item[None]).sum(-1)
    elif metric == "cosine":
        scores = (query @ item.T) / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(item, axis=1)
    else:
        scores = query @ item.T
    rows = np.argsort(-scores, axis=1)[:, :k]
    best = np.take_along_axis(scores, rows, 1)
    return rows, -best if metric == "l2" else best


@pytest.mark.parametrize("trained", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("built", ["ip", "cosine", "l2"])
def test_the_metric_of_the_index(vectors: tuple[np.ndarray, np.ndarray], trained: str, built: str) -> None:
    found = index_faults(*vectors, *search(*vectors, built), metric=trained)
    assert names(found) == ([] if trained == built else ["wrong_metric"])
    if found:
        assert {"ip": "inner product", "cosine": "cosine", "l2": "Euclidean"}[built] in found[0].sentence


def test_negated_distances_are_still_distances(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    rows, scores = search(*vectors, "l2")
    assert "Euclidean" in index_faults(*vectors, rows, -scores)[0].sentence


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_shuffled_ids_and_stale_vectors(vectors: tuple[np.ndarray, np.ndarray], metric: str) -> None:
    query, item = vectors
    rows, scores = search(query, item, metric)
    shuffle = np.random.default_rng(1).permutation(400)
    assert names(index_faults(query, item, shuffle[rows], scores, metric)) == ["shuffled_ids"]
    other = np.random.default_rng(2).normal(size=item.shape).astype(np.float32)
    assert names(index_faults(query, item, *search(query, other, metric), metric)) == ["stale_vectors"]
    assert names(index_faults(query, item, np.full_like(rows, -1), scores, metric)) == ["empty_index"]
    rows[:, -2:] = -1  # an approximate index may return fewer
    assert index_faults(query, item, rows, scores, metric) == []


def test_filters_that_drop_relevant_items() -> None:
    stages = [
        {"stage": "retrieval", "recall": 0.5},
        {"stage": "ann", "recall": 0.48},
        {"stage": "filters", "recall": 0.47},
    ]
    assert filters_drop_relevant(stages) == []
    stages[2]["recall"] = 0.24
    found = filters_drop_relevant(stages)
    assert names(found) == ["filters_drop_relevant"]
    assert "50%" in found[0].sentence
    assert filters_drop_relevant(stages[:2]) == []


def test_miscalibrated_tasks() -> None:
    rng = np.random.default_rng(0)
    p, users = rng.beta(1, 20, 40_000), rng.integers(0, 2000, 40_000)
    labels = (rng.random(40_000) < p).astype(float)
    assert miscalibrated("click", labels, p, users, config=CONFIG) == []
    assert names(miscalibrated("click", labels, np.minimum(p * 1.5, 1), users, config=CONFIG)) == ["miscalibrated"]
    flat = np.full(40_000, labels.mean())
    assert miscalibrated("click", labels, flat, users, config=CONFIG) == []
    mean = p.mean()
    sharp = np.clip(mean + 2.5 * (p - mean), 0.001, 1)  # right on the whole, wrong in the bins
    found = miscalibrated("click", labels, sharp * labels.sum() / sharp.sum(), users, config=CONFIG)
    assert names(found) == ["miscalibrated"]
    assert "'click'" in found[0].sentence
    assert "fit a calibrator on the validation part" in found[0].sentence
    again = miscalibrated("click", labels, sharp * labels.sum() / sharp.sum(), users, config=CONFIG, calibrated=True)
    assert "its calibrator was fitted on the validation part" in again[0].sentence
    assert "fit a calibrator on" not in again[0].sentence


def test_a_leaking_column_is_named() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(3000) < 0.2).astype(float)
    columns = {
        "honest": rng.normal(size=3000) + label,
        "city": rng.integers(0, 900, 3000).astype(str),  # rare categories must not remember rows
        "user": np.arange(3000),
        "watch_time": np.where(label == 1, 30 + rng.random(3000), rng.random(3000)),
        "order_id": np.where(label == 1, rng.random(3000), np.nan),  # known only after an order
        "status": np.where(label == 1, rng.choice(["a", "c"], 3000), "b"),
        "reason": np.where(label == 1, np.array("late", dtype=object), np.array(None, dtype=object)),
    }
    found = leak_suspects(columns, {"click": label})
    assert [one.level for one in found] == ["problem"] * 4
    assert [one.sentence.split("'")[1] for one in found] == ["watch_time", "order_id", "status", "reason"]
    assert "'click'" in found[0].sentence
    half = np.where(rng.random(3000) < 0.5, np.nan, label)
    assert len(leak_suspects({"watch_time": -columns["watch_time"]}, {"click": half})) == 1
    noisy = np.where(rng.random(3000) < 0.03, 1 - label, label)
    assert leak_suspects({"late": noisy}, {"click": label})[0].level == "warning"


def test_counts_that_know_the_future() -> None:
    rng = np.random.default_rng(0)
    keys, times = rng.integers(0, 20, 400), rng.integers(0, 60, 400)
    past = np.array([((keys == keys[r]) & (times < times[r])).sum() for r in range(400)])
    assert counts_from_future("item_count", past, keys, times) == []
    assert counts_from_future("item_count", past + 3, keys, times, np.full(20, 3)) == []
    total = np.bincount(keys, minlength=20)[keys]
    found = counts_from_future("item_total", total, keys, times)
    assert names(found) == ["knows_the_future"]
    assert "'item_total'" in found[0].sentence
    twins = counts_from_future("item_count", np.array([0, 1]), np.zeros(2, int), np.array([7, 7]))
    assert names(twins) == ["knows_the_future"]  # neither of two rows of one moment is earlier than the other
    same_moment = past + np.array([((keys == keys[r]) & (times == times[r])).sum() for r in range(400)])
    assert names(counts_from_future("item_count", same_moment, keys, times)) == ["knows_the_future"]
    assert counts_from_future("none", np.empty(0), np.empty(0, int), np.empty(0)) == []


def test_statistics_fitted_on_test_rows() -> None:
    train = np.array([5, 0, 7])
    assert statistics_from_outside("the item counts", train, train) == []
    found = statistics_from_outside("the item counts", np.array([5, 2, 7]), train)
    assert names(found) == ["fitted_on_test"]
    assert "The item counts" in found[0].sentence.capitalize()
    assert "2 rows" in found[0].sentence


def test_time_travel_in_histories() -> None:
    histories = Ragged.from_lists([[1, 2], [], [3]])
    assert time_travel(histories, np.array([10, 20, 5]), np.array([30, 1, 6])) == []
    found = time_travel(histories, np.array([10, 30, 5]), np.array([30, 1, 5]))
    assert names(found) == ["time_travel"]
    assert found[0].sentence.startswith("2 events in the histories of 2 rows")
    assert "row 0 of time 30 holds an event of time 30" in found[0].sentence


def test_overlapping_parts() -> None:
    assert overlapping_time(np.array([1, 2]), np.array([3, 4])) == []
    assert names(overlapping_time(np.array([1, 3, 9]), np.array([3, 4]))) == ["parts_overlap"]
    assert overlapping_time(np.empty(0), np.array([3])) == []


def test_the_summary_puts_errors_first() -> None:
    warning = embeddings_collapsed(np.vstack([np.eye(3), np.zeros((1, 3))]))
    error = embeddings_collapsed(np.ones((4, 2)))
    assert [one["severity"] for one in summary([*warning, *error])] == ["error", "warning"]
    assert set(summary(error)[0]) == {"severity", "name", "sentence"}
    assert summarised(summary([*warning, *error])) == [*error, *warning]


def test_a_model_that_only_equals_popularity_is_no_better() -> None:
    popular = np.random.default_rng(0).random(50)
    found = worse_than_popularity(per_user(popular), per_user(popular), "ndcg@10", CONFIG)
    assert [(one.about, one.level) for one in found] == [("worse_than_popularity", "problem")]
    nobody = UserMetrics(np.arange(100, 110), {"ndcg@10": np.ones(10)}, 0)
    assert worse_than_popularity(nobody, per_user(popular), "ndcg@10", CONFIG) == []


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_predictions_off_by_any_factor_are_miscalibrated_though_each_bin_is_small(factor: float) -> None:
    """Twice too many or half too few: the ratio tells it, on either side of 1, and a limit above it stays silent."""
    rng = np.random.default_rng(0)
    p, users = rng.beta(2, 20, 20_000), rng.integers(0, 2000, 20_000)
    labels = (rng.random(20_000) < p).astype(float)
    off = np.minimum(p * factor, 1)
    assert names(miscalibrated("click", labels, off, users, config=CONFIG)) == ["miscalibrated"]
    assert miscalibrated("click", labels, off, users, limit=1.5, config=CONFIG) == []


def test_without_positives_nothing_is_said_of_calibration() -> None:
    assert miscalibrated("click", np.zeros(50), np.full(50, 0.1), np.arange(50), config=CONFIG) == []
