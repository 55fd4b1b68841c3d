"""AITM: the transfer's formula, who reads whom, the calibrator."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.nn.split import SplitInput
from recsys.ranking.losses import LossConfig
from recsys.ranking.models.aitm import Transfer
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

STEPS = (TaskSpec(name="click"), TaskSpec(name="cart"), TaskSpec(name="order"))


def test_the_transfer_is_attention_over_two_states() -> None:
    transfer, before, own = Transfer(6), torch.randn(5, 6), torch.randn(5, 6)
    carried = transfer.carry(before)
    scores = [(transfer.query(u) * transfer.key(u)).sum(1) / math.sqrt(6) for u in (carried, own)]
    weights = torch.softmax(torch.stack(scores, 1), 1)
    expected = weights[:, :1] * transfer.value(carried) + weights[:, 1:] * transfer.value(own)
    torch.testing.assert_close(transfer(before, own), expected)


def test_later_tasks_read_earlier_ones_and_never_the_reverse(toy: Toy) -> None:
    ranker = toy.ranker("aitm", tasks=STEPS)
    names = [task.name for task in STEPS]
    for position, task in nonempty(enumerate(names)):
        ranker.zero_grad()
        ranker.logits(SplitInput.of(torch.randn(32, ranker.width)))[task].sum().backward()
        reached = {
            name for name in names if any(p.grad is not None and p.grad.any() for p in ranker.trunks[name].parameters())
        }
        assert reached == set(names[: position + 1])


def test_tasks_outside_the_chain_stand_alone(toy: Toy) -> None:
    ranker = toy.ranker("aitm", tasks=STEPS, chain=("click", "order"))
    assert list(ranker.transfers) == ["order"]
    ranker.logits(SplitInput.of(torch.randn(32, ranker.width)))["cart"].sum().backward()
    assert all(p.grad is None for p in ranker.trunks["click"].parameters())


def test_the_calibrator_punishes_a_later_step_that_is_likelier(toy: Toy) -> None:
    ranker, batch = toy.ranker("aitm", tasks=STEPS, calibrator=0.6), toy.batch(16)
    labels, mask = torch.zeros(16, 3), torch.ones(16, 3, dtype=torch.bool)
    batch = replace(batch, owner=None, labels=labels, mask=mask)
    for tower in ranker.towers.values():
        torch.nn.init.zeros_(tower.output.weight)

    def penalty(*biases: float) -> float:
        for tower, bias in zip(ranker.towers.values(), biases, strict=True):
            torch.nn.init.constant_(tower.output.bias, bias)
        return float(ranker.losses(batch, LossConfig())["aux/calibrator"].detach())

    assert penalty(2.0, 1.0, 0.0) == 0.0
    half = 1 / (1 + math.exp(-1.0)) - 0.5
    assert penalty(0.0, 1.0, 0.0) == pytest.approx(0.6 * half, rel=1e-5)
    assert penalty(0.0, 0.0, 1.0) == pytest.approx(0.6 * half, rel=1e-5)


def test_a_smaller_sample_space_is_no_later_step(toy: Toy) -> None:
    tasks = (STEPS[0], TaskSpec(name="conversion", where="click"))
    ranker, batch = toy.ranker("aitm", tasks=tasks), toy.batch(16)
    batch = replace(batch, owner=None, labels=batch.labels[:, :2], mask=batch.mask[:, :2])
    assert "aux/calibrator" not in ranker.losses(batch, LossConfig())


def test_a_wrong_chain_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="at most once"):
        toy.ranker("aitm", tasks=STEPS, chain=("click", "click"))
    with pytest.raises(ConfigError, match="one last width"):
        toy.ranker("aitm", tasks=STEPS, towers={"cart": (5,)})
