"""Compiled dense parts compute what they computed before, for batches of any size, and are gone after the training."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.data.loader import Loader
from recsys.nn.mlp import MLP
from recsys.ranking.layers import Experts
from recsys.testing.rankers import LOSS
from recsys.testing.toy import Toy
from recsys.training.compiled import compiled_dense
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import Runtime

traced: list[int] = []


def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
    """A backend that compiles nothing and counts what it was given."""
    traced.append(len(graph.graph.nodes))
    return graph.forward


class Rows:
    def batch(self, rows: Tensor) -> Any:
        return Toy().batch(24).select(rows)


def train(compiled: bool) -> tuple[nn.Module, list[float]]:
    toy = Toy()
    model = toy.ranker("mmoe", expert_hidden=(6, 5), tower_hidden=(4,))
    optimizer = Optimizer(model, OptimConfig(lr=0.01), 6)
    loader = Loader(Rows(), torch.arange(24), 10, 0)  # 10, 10 and 4 rows

    def step(batch: Any) -> dict[str, Tensor]:
        return {"loss": torch.stack(list(model.losses(batch, LOSS).values())).sum()}

    history = fit(step, loader, optimizer, FitOptions(epochs=2), runtime=Runtime(1, compiled=compiled))
    return model, [record["loss"] for record in history.records]


def test_a_training_with_compiled_parts_is_the_same_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that runs the traced operations as they are, to the last bit."""
    torch.set_num_threads(1)
    torch._dynamo.reset()
    monkeypatch.setattr("recsys.training.loop.compiled_dense", partial(compiled_dense, backend=counting))
    traced.clear()
    expected, losses = train(compiled=False)
    assert not traced
    found, same_losses = train(compiled=True)
    assert 2 <= len(traced) <= 12, "experts and towers, once each or once more for a size that is special"
    assert same_losses == losses
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_parts_are_as_they_were_afterwards() -> None:
    model = nn.ModuleList([MLP(3, (4,)), Experts(3, 2, (4,)), nn.Linear(3, 3)])
    names = list(model.state_dict())
    with compiled_dense(model, backend=counting) as parts:
        assert parts == 2
        assert "forward" in vars(model[0])
        assert "finish" in vars(model[1])
        assert list(model.state_dict()) == names
    assert not {"forward", "finish"} & {*vars(model[0]), *vars(model[1])}
