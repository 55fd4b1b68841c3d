"""What every balance promises: it moves every ranker, weighs each task, and goes on where a checkpoint left it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..ranking.balance import Balance, BalanceConfig, build_balance
from .contract import Contract
from .rankers import LOSS, gradient
from .toy import TOY_TASKS, Toy


def balance_of(kind: str, **keys: Any) -> Balance:
    """A balance of the three tasks of the toy world, before its first epoch."""
    balance = build_balance(BalanceConfig.model_validate({"kind": kind, **keys}), TOY_TASKS)
    balance.begin_epoch(0)
    return balance


class BalanceContract(Contract):
    """Every balance, each with several tables of keys of `[ranking.balance]`."""

    rankers: ClassVar[tuple[str, ...]] = ("shared_bottom", "mmoe", "single_task")
    """Rankers it is tried on: with all layers shared, with experts, with none shared."""

    def test_it_leaves_finite_gradients_on_every_ranker(self, toy: Toy, kind: str, keys: Mapping[str, Any]) -> None:
        for name in self.rankers:
            ranker, balance = toy.ranker(name), balance_of(kind, **keys)
            balance.meet(ranker)
            value = balance.backward(ranker.losses(toy.batch(48), LOSS), ranker)
            assert torch.isfinite(value)
            assert not value.requires_grad
            gradients = [gradient(parameter) for parameter in ranker.parameters()]
            assert all(torch.isfinite(one).all() for one in gradients)
            assert sum(not one.any() for one in gradients) < len(gradients) / 4

    def test_it_says_a_weight_for_every_task(self, kind: str, keys: Mapping[str, Any]) -> None:
        weights = balance_of(kind, **keys).weights()
        assert list(weights) == [task.name for task in TOY_TASKS]
        assert all(weight >= 0 for weight in weights.values())

    def test_a_task_without_rows_is_no_obstacle(self, toy: Toy, kind: str, keys: Mapping[str, Any]) -> None:
        ranker, balance = toy.ranker("shared_bottom"), balance_of(kind, **keys)
        balance.meet(ranker)
        losses = {name: loss for name, loss in ranker.losses(toy.batch(32), LOSS).items() if name != "loss/watch"}
        assert torch.isfinite(balance.backward(losses, ranker))

    def test_its_state_goes_on_in_another_one(self, toy: Toy, kind: str, keys: Mapping[str, Any]) -> None:
        ranker, first, second = toy.ranker("shared_bottom"), balance_of(kind, **keys), balance_of(kind, **keys)
        for balance in (first, second):
            balance.meet(ranker)
        for seed in range(3):
            first.backward(ranker.losses(toy.batch(32, seed), LOSS), ranker)
        second.load_state_dict(first.state_dict())
        found = []
        for balance in (first, second):
            torch.manual_seed(4)
            ranker.zero_grad()
            balance.backward(ranker.losses(toy.batch(32, 9), LOSS), ranker)
            found.append([gradient(parameter).clone() for parameter in ranker.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
