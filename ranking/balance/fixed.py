"""Balances whose weights do not depend on the training: fixed ones, and PLE's schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.schema import TaskSpec
from .base import Balance, BalanceConfig


class Static(Balance, kind="static"):
    """Fixed weights, from the tasks or from the configuration: `L = sum_k w_k L_k`."""

    summary = "fixed weights"


class Schedule(Balance, kind="schedule"):
    """PLE's schedule: `L = sum_k w_k gamma_k^t L_k` in epoch t."""

    paper = "Tang et al. RecSys 2020, section 5.1"
    summary = "fixed weights times gamma^epoch"

    epoch: Tensor

    def __init__(self, config: BalanceConfig, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, tasks)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self._seen = (-1, -1), 0  # which tensor was read, in which state, and what it said

    def begin_epoch(self, epoch: int) -> None:
        """Take the weights of this epoch."""
        self.epoch.fill_(epoch)

    def weights(self) -> dict[str, float]:
        """`w_k gamma_k^t`."""
        state = id(self.epoch), self.epoch._version
        if self._seen[0] != state:  # once an epoch: on a GPU every look at a number makes the host wait
            self._seen = state, int(self.epoch)
        epoch = self._seen[1]
        return {name: weight * self.config.gamma.get(name, 1.0) ** epoch for name, weight in self.initial.items()}
