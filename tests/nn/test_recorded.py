"""Recorded passes: the model's results bit for bit, and none where a value decides what is computed."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.nn.recorded import MET, SHAPES, Recorded, ValueReachedPythonError, Watch


class Steps(nn.Module):
    """Several operations, one of which depends on the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = torch.relu(self.layer(x))
        return (h.sum(1) if len(x) > 2 else h[:, 0], h)


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = model(x)
    return found


def same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def recorded(model: nn.Module) -> Recorded:
    return Recorded(model.eval(), run)


@torch.inference_mode()
def test_recorded_passes_of_every_shape_are_the_models_own() -> None:
    model = Steps()
    asked = recorded(model)
    for rows in (1, 5):
        for seed in range(MET + 3):
            x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
            assert same(asked((x,)), model(x))
    assert asked.recordings == 2


@torch.inference_mode()
def test_shapes_that_are_seldom_met_are_not_recorded_and_many_are_not_kept() -> None:
    asked = recorded(Steps())
    for rows in range(1, 30):
        asked((torch.randn(rows, 4),))
    assert asked.recordings == 0
    for rows in range(1, SHAPES + 4):
        for _ in range(MET):
            asked((torch.randn(rows, 4),))
    assert asked.recordings == SHAPES


TELLING: dict[str, Any] = {
    "bool": lambda x: (x + 1 if bool(x.sum() > 0) else x - 1,),
    "if": lambda x: (x + 1 if x.sum() > 0 else x - 1,),
    "item": lambda x: (x * x[0, 0].item(),),
    "index": lambda x: (x[: int(x.abs().argmax() % len(x)) + 1],),
    "nonzero": lambda x: (x[torch.nonzero(x[:, 0] > 0)[:, 0]],),
    "numpy": lambda x: (torch.from_numpy(x.numpy() * 2),),
    "equal": lambda x: (x + torch.equal(x, x * 1),),
}


@pytest.mark.parametrize("name", list(TELLING))
@torch.inference_mode()
def test_a_pass_that_a_value_decides_is_computed_by_the_model(name: str) -> None:
    asked = Recorded(Steps().eval(), lambda _, x: TELLING[name](x))
    with pytest.raises(ValueReachedPythonError), Watch():
        TELLING[name](torch.ones(3, 4))
    for sign in (1.0, -1.0) * MET:
        x = sign * torch.rand(3, 4)
        assert torch.equal(asked((x,))[0], TELLING[name](x)[0])
    assert asked.recordings == 0


@torch.inference_mode()
def test_a_model_in_training_is_not_recorded() -> None:
    model = Steps()
    asked = recorded(model)
    model.train()
    for _ in range(MET + 1):
        asked((torch.randn(3, 4),))
    assert asked.recordings == 0


def test_a_recording_leaves_the_model_as_it_was_and_copies_no_weight() -> None:
    model = Steps()
    asked = recorded(model)
    with torch.inference_mode():
        for _ in range(MET):
            asked((torch.ones(3, 4),))
    assert asked.recordings == 1
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(torch.ones(3, 4))[0].sum().backward()
    assert model.layer.weight.grad is not None


def test_threads_that_ask_while_it_is_recorded_get_the_models_results() -> None:
    model = Steps()
    asked = recorded(model)
    start = threading.Barrier(4)

    def work(seed: int) -> bool:
        start.wait()
        with torch.inference_mode():
            inputs = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(seed))
            return all(same(asked((x,)), model(x)) for x in inputs)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert asked.recordings == 1


@torch.inference_mode()
def test_what_is_recorded_goes_with_its_model() -> None:
    weights = np.ones((3, 4), dtype=np.float32)
    watched = weakref.ref(weights)
    model = Steps()
    model.layer.weight = nn.Parameter(torch.from_numpy(weights))
    asked = recorded(model)
    for _ in range(MET):
        asked((torch.ones(2, 4),))
    assert asked.recordings == 1
    del asked, model, weights
    gc.collect()
    assert watched() is None
