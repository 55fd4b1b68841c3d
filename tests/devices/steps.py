"""Three steps of a training, on the CPU or on the probe, with all that they computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.base.device import CPU
from recsys.tests.devices.probe import NAME, Crossings, probe
from recsys.training.optim import Optimizer

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """What a training loop knows of a model.

    Attributes:
        optimizer: of the model, both on the device.
        batches: of three steps, on the CPU, everything drawn.
        step: batch -> loss terms.
        backward: terms -> gradients.
    """

    optimizer: Optimizer
    batches: Sequence[Any]
    step: Callable[[Any], Terms]
    backward: Callable[[Terms], object]


Build = Callable[[torch.device], Stage]


@dataclass(frozen=True)
class Outcome:
    """What three steps left, on the CPU: their losses, the weights, and the optimiser's slots; and what crossed."""

    tensors: Terms
    moved: bool
    crossed: Crossings


def take(build: Build, device: torch.device = CPU, crossings: Crossings | None = None) -> Outcome:
    """Three steps of the same seed; what crosses is counted between a batch's arrival and the end of its step."""
    torch.manual_seed(0)
    stage = build(device)
    model, seen = stage.optimizer.model, crossings or Crossings()
    before = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    losses, crossed = [], Crossings()
    for batch in stage.batches:
        arrived = batch if device == CPU else batch.to(device)
        seen.clear()
        terms = stage.step(arrived)
        stage.backward(terms)
        stage.optimizer.step()
        stage.optimizer.zero_grad()
        losses.append({name: term.detach() for name, term in terms.items()})
        for total, counted in zip(vars(crossed).values(), vars(seen).values(), strict=True):
            total.update(counted)
    after = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    found = {f"loss {step} {name}": term.cpu() for step, terms in enumerate(losses) for name, term in terms.items()}
    found |= {f"weight {name}": tensor for name, tensor in after.items()}
    found |= {f"slot {name}": tensor.cpu() for name, tensor in stage.optimizer.state_dict().items()}
    return Outcome(found, any(not same(tensor, before[name]) for name, tensor in after.items()), crossed)


def compare(build: Build) -> Crossings:
    """Three steps on the CPU and three on the probe are the same to the last bit; what crossed in the latter."""
    torch.set_num_threads(1)
    expected = take(build)
    with probe() as crossings:
        found = take(build, torch.device(NAME, 0), crossings)
    assert expected.moved, "three steps moved no weight"
    assert found.tensors.keys() == expected.tensors.keys()
    different = [name for name, tensor in found.tensors.items() if not same(tensor, expected.tensors[name])]
    assert not different, f"on the probe other numbers than on the CPU: {different}"
    return found.crossed


def same(one: Tensor, other: Tensor) -> bool:
    """Equal to the last bit; NaN equals itself."""
    return torch.equal(torch.nan_to_num(one, 7.7e33), torch.nan_to_num(other, 7.7e33))


def places(counted: Counter[str]) -> set[str]:
    """The files of what was counted."""
    return {line.partition(":")[0] for line in counted}
