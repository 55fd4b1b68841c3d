"""Batches of a row source in a seeded order that can be taken up again at any batch.

A batch is one call of the source with a tensor of row numbers, never a Python call per row. The order of an epoch is a
function of (seed, epoch) and of how it is drawn, so the cursor (epoch, position) is all that a checkpoint has to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from ..base.errors import ConfigError, DataError, RunError
from ..base.memory import available_memory
from .order import Order, WholeOrder, WindowedOrder

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AHEAD = 2
"""Batches that are made while a step runs."""
MEMORY_SHARE = 0.5
"""Of the available memory: rows that take more are read in windows."""


class RowSource(Protocol[T_co]):
    """Anything that turns row numbers into a batch."""

    def batch(self, rows: Tensor) -> T_co:
        """Rows int64 [R] -> whatever one training step reads."""
        ...


class Loader(Generic[T]):
    """Batches of `rows` from `source`, one order per epoch.

    Iterating yields what is left of the current epoch and then moves on to the next one: a loader restored in the
    middle of an epoch continues with the very next batch, and a `for` loop per epoch is a whole pass otherwise.
    One thread makes the next batches while the loop works on one; it ends with the loop, and what it raises is raised
    in the loop, with its own traceback.

    Args:
        source: what makes the batches; called by one thread at a time.
        rows: int64 [N] row numbers of the source to pass over.
        batch_size: rows per batch; the last batch of an epoch holds the rest.
        seed: of the order; the global generators are neither read nor moved.
        shuffle: a new order every epoch, or the order of `rows`.
        drop_last: leave out the last batch when it is short (losses that compare rows of a batch may want it).
        windowed: shuffle inside windows of the rows (see `WindowedOrder`), or all rows at once; None decides by
            `row_bytes`.
        row_bytes: what a row takes on disk. Rows that take more than half of the available memory are read in windows.

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
        windowed: bool | None = None,
        row_bytes: int = 0,
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
        if windowed is None:
            windowed = bool(row_bytes) and rows.numel() * row_bytes > MEMORY_SHARE * available_memory()
        self.windowed = windowed and shuffle
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
        return self._order(epoch).whole()

    def _order(self, epoch: int) -> Order:
        if self.windowed:
            return WindowedOrder(self.rows, self.seed, epoch)
        return WholeOrder(self.rows, self.seed, epoch) if self.shuffle else Order(self.rows)

    def __iter__(self) -> Iterator[T]:
        """The batches left of the current epoch."""
        order, source, size = self._order(self.epoch), self.source, self.batch_size

        def made(position: int) -> T:
            return source.batch(order.between(position * size, (position + 1) * size))

        yield from self._ahead(made)

    def _ahead(self, made: Callable[[int], T]) -> Iterator[T]:
        """Batches that are made ahead of their turn by one thread, from the cursor to the end of the epoch."""
        waiting: deque[Future[T]] = deque()
        following = self.position
        with ThreadPoolExecutor(1, "loader") as pool:
            try:
                while self.position < len(self):
                    while following < len(self) and len(waiting) <= AHEAD:
                        waiting.append(pool.submit(made, following))
                        following += 1
                    batch = waiting.popleft().result()
                    self.position += 1  # before the yield: a checkpoint taken after the step points at the next batch
                    yield batch
            finally:
                for future in waiting:
                    future.cancel()
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
            "windowed": int(self.windowed),
        }

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue where `state` was taken, in its order, whatever memory there is now.

        Raises:
            RunError: the state belongs to another seed, batch size or number of rows.
        """
        for name, present in self.state().items():
            if name not in ("epoch", "position", "windowed") and state[name] != present:
                raise RunError(
                    f"the checkpoint was taken with {name}={state[name]}, found {name}={present}; "
                    "resume with the settings and data it was started with, or start anew"
                )
        self.epoch, self.position = state["epoch"], state["position"]
        self.windowed = bool(state.get("windowed", False))  # checkpoints of 0.1 know one order
