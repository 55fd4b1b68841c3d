"""Training weights: a column, conditions on columns, and what both together give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.base.errors import DataError
from recsys.data import store
from recsys.data.dataset import Dataset
from recsys.data.schema import WeightRule
from recsys.tests.support.shop import Shop

RULES: list[dict[str, Any]] = [
    {"column": "tab", "equals": ["home", "feed"], "weight": 3.0},
    {"column": "hour", "at_least": 10, "below": 20, "weight": 0.5},
    {"column": "like", "at_least": 1, "weight": 10.0},
]


def weights_in_file_order(dataset: Dataset) -> Any:
    weights = np.empty(len(dataset.events), np.float32)
    weights[dataset.events.source_rows] = dataset.events.weights
    return weights


def test_a_row_weighs_the_product_of_its_column_and_of_the_rules_it_meets(shop: Shop) -> None:
    frame = shop.events.assign(importance=np.arange(len(shop.events)) % 3 + 0.5)
    expected = frame["importance"].to_numpy(copy=True)
    expected = expected * np.where(frame["tab"].isin(["home", "feed"]), 3.0, 1.0)
    expected *= np.where((frame["hour"] >= 10) & (frame["hour"] < 20), 0.5, 1.0)
    expected *= np.where(frame["like"] == 1, 10.0, 1.0)  # NaN is no like
    dataset = shop.dataset("time", events=frame, weight="importance", weights=RULES)
    np.testing.assert_allclose(weights_in_file_order(dataset), expected, rtol=1e-6)
    assert len(np.unique(expected)) > 6
    plain = shop.dataset("time")
    assert (plain.events.weights == 1).all()
    rows = dataset.rows("train")
    assert np.array_equal(dataset.batch(rows).weight.numpy(), dataset.events.weights[rows.numpy()])


@pytest.mark.parametrize("keys", [{}, {"equals": ["a"], "below": 1.0}, {"equals": ["a"], "weight": -1.0}])
def test_a_rule_has_one_condition_and_a_weight_of_0_or_more(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WeightRule.model_validate({"column": "tab", "weight": 1.0, **keys})


def test_a_task_with_a_column_weighs_its_rows_by_it_and_the_others_by_what_all_have(shop: Shop, tmp_path: Path) -> None:
    frame = shop.events.assign(importance=np.arange(len(shop.events)) % 3 + 0.5)
    frame["watched"] = np.where(np.arange(len(frame)) % 4 > 0, np.arange(len(frame)) % 11, np.nan)
    tasks = [{"name": "click", "weight_column": "watched"}, {"name": "like", "where": "click"}]
    dataset = shop.dataset("time", events=frame, weight="importance", tasks=tasks)
    store.save_dataset(dataset, tmp_path)
    kept = store.load_dataset(tmp_path.joinpath)
    rows = kept.rows("train")
    source = frame.iloc[kept.events.source_rows[rows.numpy()]]
    both = source["importance"].to_numpy()
    expected = np.stack([both * source["watched"].fillna(0.0).to_numpy(), both], axis=1)
    np.testing.assert_allclose(kept.batch(rows).weight.numpy(), expected, rtol=1e-6)
    assert np.array_equal(kept.events.weights_of(1)[rows.numpy()], kept.batch(rows).weight[:, 1].numpy())
    assert (expected[:, 0] == 0).any()
    with pytest.raises(DataError, match="expected a weight of 0 or more"):
        shop.dataset("time", events=frame.assign(watched=-1.0), tasks=tasks)
