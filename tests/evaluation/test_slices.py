"""Slices: each equals the metric of its part, the worst come first, buckets say what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.calibration import ece
from recsys.evaluation.metrics.lists import list_metrics
from recsys.evaluation.metrics.rows import auc, gauc, logloss
from recsys.evaluation.slices import (
    NONE,
    OTHER,
    Several,
    activity_buckets,
    buckets,
    history_buckets,
    pause_buckets,
    popularity_buckets,
    quarters,
    row_slices,
    taken,
    target_slices,
    user_slices,
    value_slices,
    worst_slices,
)
from recsys.tests.support.nonempty import nonempty

CONFIG = EvaluationConfig(draws=80)


def lists(seed: int = 0, users: int = 200, items: int = 50) -> tuple[np.ndarray, Ragged]:
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(items)[:10] for _ in range(users)])
    return ranked, Ragged.from_lists([rng.choice(items, rng.integers(0, 4), replace=False) for _ in range(users)])


def test_user_slices_equal_the_metric_of_those_users_and_weigh_back_to_the_whole() -> None:
    ranked, truth = lists()
    country = np.array(["de", "fr", "jp"])[np.random.default_rng(1).integers(0, 3, 200)]
    metrics = list_metrics(ranked, truth, [10])
    found = [one for one in user_slices(metrics, {"country": country}, CONFIG) if one.metric == "recall@10"]
    assert [one.value for one in found] == ["de", "fr", "jp"]
    for one in found:
        chosen = country[metrics.users] == one.value
        assert one.estimate == pytest.approx(metrics.values["recall@10"][chosen].mean())
        assert one.low < one.estimate < one.high
        assert one.size == chosen.sum()
    whole = metrics.means()["recall@10"]
    assert sum(one.share * one.estimate for one in found) == pytest.approx(whole)
    assert sum(one.cost for one in found) == pytest.approx(0, abs=1e-12)


def test_pauses_are_parted_at_the_second_and_the_hour_and_weigh_back_to_the_whole() -> None:
    seconds = np.array([0.0, 1.0, 2.0, 3600.0, 3601.0, 1e9, np.nan, np.inf])
    names = ["same second"] * 2 + ["within an hour"] * 2 + ["later than an hour"] * 2 + ["no event before"] * 2
    assert pause_buckets(seconds).tolist() == names
    ranked, truth = lists(3)
    pauses = pause_buckets(np.random.default_rng(4).choice(seconds, len(truth.items)))
    found = {one.value: one for one in target_slices(ranked, truth, {"pause": pauses}, 10, CONFIG)}
    hit = np.array([item in ranked[user] for user, item in zip(truth.users, truth.items, strict=True)])
    assert {value: one.estimate for value, one in found.items()} == {
        value: pytest.approx(hit[pauses == value].mean()) for value in set(names)
    }
    assert sum(one.share * (one.estimate or 0.0) for one in found.values()) == pytest.approx(hit.mean())
    with pytest.raises(DataError, match="relevant items"):
        target_slices(ranked, truth, {"pause": pauses[1:]}, 10, CONFIG)


def test_slices_by_item_are_recall_of_those_items() -> None:
    ranked, truth = lists(1)
    counts = np.random.default_rng(0).integers(0, 60, 50)
    found = {
        one.value: one
        for one in target_slices(ranked, truth, {"popularity": popularity_buckets(counts)[truth.items]}, 10, CONFIG)
    }
    kind = popularity_buckets(counts)
    for value, one in nonempty(found.items()):
        hits = [item in ranked[u] for u, item in zip(truth.users, truth.items, strict=True) if kind[item] == value]
        assert one.estimate == pytest.approx(np.mean(hits))
        assert one.size == len(hits)


def test_row_slices_equal_the_metrics_of_those_rows() -> None:
    rng = np.random.default_rng(0)
    users, tab, p = rng.integers(0, 60, 2000), rng.integers(0, 3, 2000), np.round(rng.random(2000), 2)
    labels = (rng.random(2000) < p).astype(float)
    found = row_slices(labels, p, users + 1000, {"tab": tab}, CONFIG)
    for one in found:
        y, q, u = (column[tab == int(one.value)] for column in (labels, p, users))
        want = {"auc": auc(y, q), "gauc": gauc(y, q, u), "logloss": logloss(y, q), "ece": ece(y, q)}
        want["predicted_to_observed"] = q.sum() / y.sum()
        assert one.estimate == pytest.approx(want[one.metric])
    assert {one.metric for one in found} == set(want)


def test_the_slice_that_was_spoilt_comes_first() -> None:
    rng = np.random.default_rng(0)
    users, hour, p = rng.integers(0, 300, 6000), rng.integers(0, 6, 6000), rng.random(6000)
    labels = (rng.random(6000) < p).astype(float)
    spoilt = np.where(hour == 4, rng.random(6000), p)
    found = row_slices(labels, spoilt, users, {"hour": hour}, CONFIG)
    for metric in ("auc", "logloss", "ece"):
        first = worst_slices(found, metric)[0]
        assert (first.column, first.value) == ("hour", "4"), metric
        assert first.gap > 0
    tilted = row_slices(labels, np.where(hour == 2, p * 0.4, p), users, {"hour": hour}, CONFIG)
    assert worst_slices(tilted, "predicted_to_observed")[0].value == "2"


def test_rare_values_share_one_slice() -> None:
    ranked, truth = lists(2)
    city = np.array([f"c{i}" for i in np.random.default_rng(0).zipf(1.6, 200).clip(max=60)])
    metrics = list_metrics(ranked, truth, [10])
    found = user_slices(metrics, {"city": city}, EvaluationConfig(draws=0, max_slices=4))
    names = [one.value for one in found if one.metric == "hit@10"]
    assert len(names) == 4
    assert names[-1] == OTHER
    assert sum(one.size for one in found if one.metric == "hit@10") == len(metrics.users)
    assert found[0].low is None


def test_buckets() -> None:
    assert buckets(np.array([0, 1, 4.9, 5, np.nan]), (1, 5)).tolist() == [
        "< 1",
        "1 to < 5",
        "1 to < 5",
        ">= 5",
        "missing",
    ]
    assert history_buckets(np.array([0, 1, 19, 20, 500])).tolist() == [
        "0 events (new)",
        "1 to 4",
        "5 to 19",
        "20 to 49",
        "200 or more",
    ]
    # 100 events: 40 + 30 begin below a half; the next begin at 70 and 85; the last at 95
    assert popularity_buckets(np.array([30, 5, 40, 0, 15, 10])).tolist() == [
        "head",
        "tail",
        "head",
        "never seen",
        "middle",
        "middle",
    ]
    with pytest.raises(ConfigError, match="must rise"):
        buckets(np.zeros(2), (5, 1))


def test_columns_of_the_wrong_length_are_refused() -> None:
    ranked, truth = lists()
    with pytest.raises(DataError, match="column 'c' has 3 values"):
        user_slices(list_metrics(ranked, truth, [10]), {"c": np.zeros(3)}, CONFIG)
    with pytest.raises(DataError, match="for 2 rows"):
        row_slices(np.array([0.0, 1.0]), np.array([0.1, 0.2]), np.arange(2), {"c": np.zeros(3)}, CONFIG)


def test_an_entry_of_several_values_is_in_the_slice_of_each() -> None:
    ranked, truth = lists(2)
    genres = Ragged.from_lists([[0, 1] if item % 2 else [] if item % 3 else [2] for item in range(50)])
    column = Several(("comedy", "drama", "noir"), genres)
    found = {one.value: one for one in target_slices(ranked, truth, {"genres": taken(column, truth.items)}, 10, CONFIG)}
    assert found.keys() == {"comedy", "drama", "noir", NONE}
    of_value = {"comedy": 0, "drama": 1, "noir": 2}
    for value, one in nonempty(found.items()):
        chosen = [
            item in ranked[user]
            for user, item in zip(truth.users, truth.items, strict=True)
            if (of_value[value] in genres[item] if value in of_value else len(genres[item]) == 0)
        ]
        assert one.estimate == pytest.approx(np.mean(chosen))
        assert one.size == len(chosen)
        assert one.share == pytest.approx(len(chosen) / len(truth.items))
    few = EvaluationConfig(draws=20, max_slices=2)
    both = Several(
        ("comedy", "drama", "noir"), Ragged.from_lists([[0, 1, 2] if item < 40 else [2] for item in range(50)])
    )
    rare = {one.value: one for one in target_slices(ranked, truth, {"genres": taken(both, truth.items)}, 10, few)}
    assert rare["noir"].size == len(truth.items)
    assert rare[OTHER].size == (truth.items < 40).sum()  # an item with two rare values is in it once


def test_users_are_new_light_or_heavy_about_the_median_history() -> None:
    assert activity_buckets(np.array([0, 1, 3, 7, 90, 0])).tolist() == [
        "new (no history)",
        "light (1 to 5)",
        "light (1 to 5)",
        "heavy (more than 5)",
        "heavy (more than 5)",
        "new (no history)",
    ]
    assert activity_buckets(np.zeros(2, dtype=np.int64)).tolist() == ["new (no history)"] * 2


def test_numbers_are_their_own_values_or_quarters() -> None:
    assert quarters(np.array([2.0, 1.5, np.nan])).tolist() == ["2", "1.5", "missing"]
    ranges, counts = np.unique(quarters(np.arange(100.0)), return_counts=True)
    assert len(ranges) == 4
    assert counts.min() >= 24


def test_a_column_needs_a_value_for_the_last_user() -> None:
    ranked, truth = lists()
    metrics = list_metrics(ranked, truth, [10])
    last = int(metrics.users.max())
    with pytest.raises(DataError, match=f"has {last} values, user row {last} has none"):
        user_slices(metrics, {"c": np.zeros(last)}, CONFIG)
    assert user_slices(metrics, {"c": np.zeros(last + 1)}, CONFIG)


def test_nobody_and_nothing_have_no_slices() -> None:
    ranked, empty = lists(users=3)[0], Ragged.from_lists([[], [], []])
    assert target_slices(ranked, empty, {"c": np.zeros(0)}, 10, CONFIG) == []
    assert user_slices(list_metrics(ranked, empty, [10]), {"c": np.zeros(3)}, CONFIG) == []
    assert row_slices(np.empty(0), np.empty(0), np.empty(0), {"c": np.empty(0)}, CONFIG) == []


def test_value_slices_equal_the_metrics_of_those_rows_and_their_intervals_hold_them() -> None:
    rng = np.random.default_rng(4)
    users, tab = rng.integers(0, 60, 2000), rng.integers(0, 3, 2000)
    labels = 100 + rng.normal(0, 5, 2000)
    values = labels + rng.normal(0, 1 + tab, 2000)
    found = value_slices(labels, values, users + 1000, {"tab": tab}, CONFIG, task="price")
    whole = np.sqrt(np.mean((values - labels) ** 2))
    for one in nonempty(found):
        y, q = labels[tab == int(one.value)], values[tab == int(one.value)]
        error = q - y
        rmse = float(np.sqrt(np.mean(error**2)))
        want = {
            "price rmse": rmse,
            "price mae": float(np.abs(error).mean()),
            "price r2": 1 - float((error**2).sum() / ((y - y.mean()) ** 2).sum()),
            "price predicted_to_observed": float(q.sum() / y.sum()),
        }
        assert one.estimate == pytest.approx(want[one.metric], abs=1e-9)
        assert one.low < one.estimate < one.high
        if one.metric == "price rmse":
            assert one.gap == pytest.approx(rmse - whole, abs=1e-9)
    assert {one.metric for one in found} == set(want)
    assert [one.value for one in worst_slices(found, "price rmse")] == ["2"]


def test_a_row_of_several_values_counts_in_each_slice_of_a_regression() -> None:
    labels, values = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    genre = Several(("a", "b"), Ragged.from_lists([[0], [0, 1], [1]]))
    found = {
        one.value: one for one in value_slices(labels, values, np.arange(3), {"genre": genre}) if one.metric == "mae"
    }
    assert {value: one.estimate for value, one in found.items()} == {"a": 0.5, "b": 1.5}
