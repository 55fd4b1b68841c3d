"""Several processes that train one model: which of them this one is, and the few things they tell each other.

A process that was started alone is rank 0 of a world of 1, and every function here is then the identity. In a larger
world all ranks run the same program in step: what one of them tells the others, all of them must ask for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

_alone = 0
met = False
"""Whether this process has met the others."""
sent = 0
"""Payload in bytes that this process has sent to the others."""


def world() -> int:
    """How many processes train together; 1 where this one was started alone."""
    return 1 if _alone or not (dist.is_available() and dist.is_initialized()) else dist.get_world_size()


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if world() == 1 else dist.get_rank()


def beside() -> int:
    """How many of them run on this machine, this one included, as their launcher says."""
    return 1 if world() == 1 else int(os.environ.get("LOCAL_WORLD_SIZE", world()))


def first() -> bool:
    """Whether this process is the one that writes and speaks. It stays that in what it does `alone`."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """What one process does without the others: inside, it is a world of 1."""
    global _alone  # noqa: PLW0603 - who talks to whom is a fact of the process, as the process group is
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def share(rows: Tensor) -> Tensor:
    """This process's part of what a step learns from: every `world()`-th entry of a tensor, from its own rank on."""
    count = world()
    return rows if count == 1 else rows[rank() :: count]


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    count = world()
    if count > 1:
        dist.all_reduce(values)
        note_sent(2 * (count - 1) * values.numel() * values.element_size() // count)
    return values


def gathered(values: Tensor) -> Tensor:
    """One-dimensional values of equal length from all processes, [W, n], in the order of the ranks."""
    count = world()
    if count == 1:
        return values.unsqueeze(0)
    found = values.new_empty(count * values.numel())
    dist.all_gather(list(found.view(count, -1).unbind()), values.contiguous())
    note_sent((count - 1) * values.numel() * values.element_size())
    return found.view(count, -1)


def wait() -> None:
    """Until all processes are here."""
    summed(torch.zeros(1))


def agree(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one."""
    if world() > 1:
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor, 0)


def agreed(numbers: Mapping[str, float]) -> dict[str, float]:
    """The first process's numbers, whose names all have alike: what decides how a training goes on."""
    if world() == 1:
        return dict(numbers)
    values = torch.tensor([float(value) for value in numbers.values()], dtype=torch.float64)
    dist.broadcast(values, 0)
    return dict(zip(numbers, values.tolist(), strict=True))


class _WholeMean(torch.autograd.Function):
    """See `whole_mean`. All processes go on from the same mean, so that the way back needs no word between them."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, count: Tensor) -> Tensor:
        both = summed(torch.stack([total.detach().double(), count.detach().double()]))
        divisor = float(both[1]) or 1.0
        ctx.factor = world() / divisor  # gradients are averaged over the processes (`training.engines.local`)
        return (both[0] / divisor).to(total.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def whole_mean(total: Tensor, count: Tensor) -> Tensor:
    """A mean over the rows of all processes: sum of `total` over sum of `count`, and 0 where nothing is counted.

    Args:
        total: scalar, the sum over this process's rows, with gradient.
        count: scalar, how many they are or what they weigh; no gradient passes here.

    Returns:
        The same scalar in every process. The average of the processes' gradients is the gradient of the mean.
    """
    found: Tensor = _WholeMean.apply(total, count)  # type: ignore[no-untyped-call]
    return found


def common_draws(seed: int, step: int) -> None:
    """Let all processes draw the same from the global generator in a step, until `own_draws`.

    One process alone goes on drawing where it was. Several begin anew at every step: a draw is then a function of seed,
    step and rank, and a checkpoint of one process is one of all.
    """
    if world() > 1:
        torch.manual_seed(_mixed(seed, step))


def own_draws() -> None:
    """Let every process draw its own from the global generator: rows of its own get dropout of their own."""
    if world() > 1:
        torch.manual_seed(_mixed(torch.initial_seed(), rank()))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def note_sent(size: int) -> None:
    """Count bytes that this process has sent to the others by other ways than the functions here."""
    global sent  # noqa: PLW0603 - a counter of the process
    sent += size
