"""Batches of a row source in a seeded order that can be taken up again at any batch.

A batch is one call of the source with a tensor of row numbers, never a Python call per row. The order of an epoch is a
function of (seed, epoch) alone, so the cursor (epoch, position) is all that a checkpoint has to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..base.errors import ConfigError, DataError, RunError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RowSource(Protocol[T_co]):
    """Anything that turns row numbers into a batch."""

    def batch(self, rows: Tensor) -> T_co:
        """Rows int64 [R] -> whatever one training step reads."""
        ...


class Loader(Generic[T]):
    """Batches of `rows` from `source`, one permutation per epoch.

    Iterating yields what is left of the current epoch and then moves on to the next one: a loader restored in the
    middle of an epoch continues with the very next batch, and a `for` loop per epoch is a whole pass otherwise.

    Args:
        source: what makes the batches.
        rows: int64 [N] row numbers of the source to pass over.
        batch_size: rows per batch; the last batch of an epoch holds the rest.
        seed: of the order; the global generators are neither read nor moved.
        shuffle: a new order every epoch, or the order of `rows`.
        drop_last: leave out the last batch when it is short (losses that compare rows of a batch may want it).

    Raises:
        DataError: there are no rows.
        ConfigError: `batch_size` is below 1, or `drop_last` leaves no batch.
    """

    def __init__(
        self,
        source: RowSource[T],
        rows: Tensor,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} is no size; give at least 1")
        if rows.numel() == 0:
            raise DataError("there are no rows to load; check the split and the filters of the data")
        if drop_last and rows.numel() < batch_size:
            raise ConfigError(
                f"batch_size={batch_size} exceeds the {rows.numel()} rows and short ones are dropped; lower batch_size"
            )
        self.source = source
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0  # batches of this epoch already handed out

    @property
    def rows_in_batch(self) -> int:
        """Rows of the batch handed out last."""
        return min(self.batch_size, self.rows.numel() - (self.position - 1) * self.batch_size)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.rows.numel(), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Tensor:
        """Row numbers in the order of an epoch, int64 [N]."""
        if not self.shuffle:
            return self.rows
        mixed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(mixed)
        return self.rows[torch.randperm(self.rows.numel(), generator=generator).to(self.rows.device)]

    def __iter__(self) -> Iterator[T]:
        """The batches left of the current epoch."""
        order = self.order(self.epoch)
        while self.position < len(self):
            start = self.position * self.batch_size
            self.position += 1  # before the yield: a checkpoint taken after the step points at the next batch
            yield self.source.batch(order[start : start + self.batch_size])
        self.epoch += 1
        self.position = 0

    def state(self) -> dict[str, int]:
        """The cursor, with what it is a cursor into."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "rows": self.rows.numel(),
            "batch_size": self.batch_size,
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue where `state` was taken.

        Raises:
            RunError: the state belongs to another seed, batch size or number of rows.
        """
        for name, present in self.state().items():
            if name not in ("epoch", "position") and state[name] != present:
                raise RunError(
                    f"the checkpoint was taken with {name}={state[name]}, found {name}={present}; "
                    "resume with the settings and data it was started with, or start anew"
                )
        self.epoch, self.position = state["epoch"], state["position"]
