"""Figures over folds are means and spreads; systems are compared by users, each fold counting the same."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.folds import compare_over_folds, figures_over_folds, slices_over_folds, worst_of

CONFIG = EvaluationConfig(draws=200, permutations=500)


def test_every_number_has_its_mean_spread_and_interval() -> None:
    folds = [
        {"ease": {"ndcg@10": value, "ndcg@10_ci": [0, 1], "users": users, "name": "x"}}
        for value, users in ((0.1, 10), (0.2, 20), (0.6, 40))
    ]
    found = figures_over_folds(folds)["ease"]
    assert found.keys() == {"ndcg@10", "ndcg@10_ci", "ndcg@10_sd", "ndcg@10_folds", "users", "users_folds"}
    assert found["ndcg@10"] == pytest.approx(0.3)
    assert found["ndcg@10_sd"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    half = 4.302653 * found["ndcg@10_sd"] / np.sqrt(3)  # the 97.5 % point of t with 2 degrees of freedom
    assert found["ndcg@10_ci"] == pytest.approx([0.3 - half, 0.3 + half], abs=1e-6)
    assert (found["users"], found["users_folds"]) == (23, [10, 20, 40])


def test_a_figure_that_a_fold_lacks_is_the_mean_of_the_others() -> None:
    found = figures_over_folds([{"auc": 0.5}, {"auc": None}, {"auc": 0.7}])
    assert found["auc"] == pytest.approx(0.6)
    assert found["auc_folds"] == [0.5, None, 0.7]


def fold(rng: np.random.Generator, users: int, lead: float) -> dict[str, np.ndarray]:
    base = rng.random(users)
    return {
        "users": rng.choice(400, users, replace=False),
        "funnel/ndcg@10": base,
        "ease/ndcg@10": base - lead + rng.normal(0, 0.1, users),
        "popularity/ndcg@10": base + rng.normal(0, 0.1, users),
    }


def test_systems_are_compared_over_users_and_each_fold_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    folds = [fold(rng, 300, 0.10), fold(rng, 30, 0.30), fold(rng, 200, 0.05)]
    rows = {row["system"]: row for row in compare_over_folds(folds, "funnel", CONFIG)}
    assert rows.keys() == {"ease", "popularity"}
    ease = rows["ease"]
    by_fold = [float((one["ease/ndcg@10"] - one["funnel/ndcg@10"]).mean()) for one in folds]
    assert ease["difference_folds"] == pytest.approx(by_fold)
    assert ease["difference"] == pytest.approx(np.mean(by_fold))
    assert ease["b"] - ease["a"] == pytest.approx(ease["difference"])
    assert ease["low"] < ease["difference"] < ease["high"] < 0
    assert ease["significant"]
    assert ease["folds_ahead"] == 0
    assert rows["popularity"]["low"] < 0 < rows["popularity"]["high"]
    assert not rows["popularity"]["significant"]
    assert ease["users"] == len(np.unique(np.concatenate([one["users"] for one in folds])))


def test_without_a_metric_in_common_there_is_nothing_to_compare() -> None:
    lone = [{"users": np.arange(3), "two_tower/ndcg@10": np.ones(3)}] * 2
    with pytest.raises(DataError, match="no system has a metric in common"):
        compare_over_folds(lone, "two_tower", CONFIG)


def _slice(column: str, value: str, estimate: float | None, gap: float | None, share: float = 0.5) -> dict[str, object]:
    cost = 0.0 if gap is None else share * gap
    ends = {"low": 0.0, "high": 1.0, "size": 10, "share": share}
    return {"column": column, "value": value, "metric": "auc", "estimate": estimate, "gap": gap, "cost": cost, **ends}


def test_slices_are_averaged_over_the_folds_that_have_them() -> None:
    """Edges in brackets differ between folds where the column says so, and nowhere else."""
    folds = [
        [_slice("activity", "light (1 to 3)", 0.6, 0.1), _slice("title", "Kong (1933)", 0.5, 0.2)],
        [_slice("activity", "light (1 to 5)", 0.8, -0.2), _slice("title", "Kong (1976)", 0.9, 0.0)],
        [_slice("activity", "light (1 to 6)", None, None), _slice("title", "Kong (1976)", 0.7, 0.4)],
    ]
    found = {(one["column"], one["value"]): one for one in slices_over_folds(folds, moving={"activity"})}
    assert found.keys() == {("activity", "light"), ("title", "Kong (1976)")}
    light, kong = found["activity", "light"], found["title", "Kong (1976)"]
    assert light["folds"] == [0.6, 0.8, None]
    assert light["estimate"] == pytest.approx(0.7)
    assert light["gap"] == pytest.approx(-0.05)
    half = 12.706205 * np.std([0.6, 0.8], ddof=1) / np.sqrt(2)
    assert [light["low"], light["high"]] == pytest.approx([0.7 - half, 0.7 + half], abs=1e-5)
    assert kong["cost"] == pytest.approx(0.1)
    assert [one["value"] for one in worst_of(list(found.values()), ["auc"])] == ["Kong (1976)"]
