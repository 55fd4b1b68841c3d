"""Weights of a task's own: each loss sees its column, and equal columns are the weight of the row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.ranking.labels import base_rates
from recsys.ranking.losses import LossConfig, multi_task_loss
from recsys.ranking.step import LoggedRows
from recsys.testing.toy import TOY_TASKS, Toy
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rankers import every_kind
from recsys.tests.support.shop import Shop


@every_kind
def test_equal_columns_are_the_weight_of_the_row(kind: str) -> None:
    toy = Toy()
    ranker, batch = toy.ranker(kind).eval(), toy.batch()
    columns = replace(batch, weight=batch.weight.unsqueeze(1).repeat(1, 3))
    one, other = ranker.losses(batch, LossConfig()), ranker.losses(columns, LossConfig())
    assert one.keys() == other.keys()
    for name in nonempty(one):
        torch.testing.assert_close(one[name], other[name])


def test_a_task_is_weighed_by_its_column_alone() -> None:
    batch = Toy().batch()
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(batch.rows, 3, generator=generator)
    logits = {task.name: torch.randn(batch.rows, generator=generator) for task in TOY_TASKS}
    found = multi_task_loss(logits, replace(batch, weight=weight), TOY_TASKS, LossConfig())
    for column, task in enumerate(nonempty(TOY_TASKS)):
        alone = multi_task_loss(logits, replace(batch, weight=weight[:, column]), TOY_TASKS, LossConfig())
        torch.testing.assert_close(found[f"loss/{task.name}"], alone[f"loss/{task.name}"])
        assert all(not torch.equal(found[name], alone[name]) for name in found if name != f"loss/{task.name}")


def test_logged_rows_weigh_select_like_any_row() -> None:
    shop = Shop()
    tasks = [{"name": "click", "weight_column": "hour"}, {"name": "like", "where": "click"}]
    dataset = shop.dataset("time", tasks=tasks)
    batch = LoggedRows(dataset, with_select=True).batch(dataset.rows("train")[:20])
    assert batch.weight.shape == batch.labels.shape == (20, 3)
    assert (batch.weight[:, 2] == 1).all()
    assert len(batch.weight[:, 0].unique()) > 2


def test_a_task_starts_at_the_rate_that_its_own_weights_give() -> None:
    shop = Shop()
    plain, tasks = (
        shop.dataset("time"),
        [{"name": "click", "weight_column": "hour"}, {"name": "like", "where": "click"}],
    )
    dataset = shop.dataset("time", tasks=tasks)
    rows = dataset.rows("train")
    rates = base_rates(dataset, rows)
    own = dataset.events.weights_of(0)[rows.numpy()]
    clicks = dataset.events.labels[rows.numpy(), 0]
    assert rates["click"] == pytest.approx(np.average(clicks, weights=own))
    assert rates["like"] == base_rates(plain, rows)["like"]
    assert rates["click"] != base_rates(plain, rows)["click"]
