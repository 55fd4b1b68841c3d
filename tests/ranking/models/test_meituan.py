"""Meituan's ranker: the split at the last layer, and the KL bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.ranking.losses import LossConfig, product_logit, symmetric_kl
from recsys.ranking.ranker import ranker_kinds
from recsys.testing.toy import Toy

LOSS = LossConfig()
TASKS = (TaskSpec(name="click"), TaskSpec(name="conversion", where="click"), TaskSpec(name="order"))
BOUND = ("click", "conversion", "order")


def consistent(toy: Toy, rows: int = 64) -> Any:
    """Orders are clicks that convert."""
    batch = toy.batch(rows)
    order = torch.where(batch.mask[:, 1], batch.labels[:, 1], 0.0)
    labels = torch.stack([batch.labels[:, 0], batch.labels[:, 1], order], dim=1)
    return replace(batch, labels=labels, weight=torch.empty(0))


def test_tasks_part_at_the_last_layer(toy: Toy) -> None:
    ranker = toy.ranker("meituan", tasks=TASKS, hidden=(9, 7))
    heads = [[m for m in head.modules() if isinstance(m, nn.Linear)] for head in ranker.towers.values()]
    assert [len(layers) for layers in heads] == [1, 1, 1]
    ranker.losses(consistent(toy), LOSS)["loss/order"].backward()
    assert ranker.shared[0].weight.grad.any()
    assert ranker.towers["click"].output.weight.grad is None


def test_the_bound_is_the_closed_form_and_zero_weight_removes_it(toy: Toy) -> None:
    ranker, batch = toy.ranker("meituan", tasks=TASKS), consistent(toy)
    out = ranker(batch)
    p = torch.sigmoid(out["click"]) * torch.sigmoid(out["conversion"])
    q = torch.sigmoid(out["order"])
    expected = 0.3 * ((p - q) * (torch.logit(p) - torch.logit(q))).mean()
    losses = ranker.losses(batch, LossConfig(kl_bound=BOUND, kl_weight=0.3))
    torch.testing.assert_close(losses["aux/kl"], expected, rtol=1e-4, atol=1e-6)
    without = ranker.losses(batch, LossConfig(kl_bound=BOUND, kl_weight=0.0))
    assert set(without) == {"loss/click", "loss/conversion", "loss/order"}
    assert all(torch.equal(without[name], losses[name]) for name in without)


def test_the_bound_pulls_the_two_ways_together(toy: Toy) -> None:
    gaps = {}
    for weight in (0.0, 3.0):
        ranker, batch = toy.ranker("meituan", tasks=TASKS, hidden=(8,)), consistent(toy)
        bound = LossConfig(kl_bound=BOUND, kl_weight=weight)
        dense = [p for name, p in ranker.named_parameters() if "table" not in name]
        optimiser = torch.optim.Adam(dense, lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            torch.stack(list(ranker.losses(batch, bound).values())).sum().backward()
            optimiser.step()
        out = ranker(batch)
        product = product_logit(out["click"], out["conversion"])
        gaps[weight] = float((torch.sigmoid(product) - torch.sigmoid(out["order"])).abs().mean().detach())
        assert torch.isfinite(symmetric_kl(product, out["order"])).all()
    assert gaps[3.0] < 0.6 * gaps[0.0]


def test_a_bound_on_no_task_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="kl_bound names"):
        toy.ranker("meituan").losses(toy.batch(8), LossConfig(kl_bound=("click", "conversion", "buy")))


@pytest.mark.parametrize("kind", list(ranker_kinds()))
def test_the_bound_works_beside_any_ranker(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind, tasks=TASKS), consistent(toy)
    plain, bound = ranker.losses(batch, LOSS), ranker.losses(batch, LossConfig(kl_bound=BOUND, kl_weight=0.3))
    assert set(bound) == {*plain, "aux/kl"}
    assert all(torch.equal(bound[name], plain[name]) for name in plain)
    out = ranker(batch)
    p = torch.sigmoid(out["click"]) * torch.sigmoid(out["conversion"])
    expected = 0.3 * ((p - torch.sigmoid(out["order"])) * (torch.logit(p) - out["order"])).mean()
    torch.testing.assert_close(bound["aux/kl"], expected, rtol=1e-3, atol=1e-6)
    bound["aux/kl"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in ranker.towers.parameters())
