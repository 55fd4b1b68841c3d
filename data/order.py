"""The order in which an epoch passes over its rows: as they stand, permuted as a whole, or permuted in windows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SEGMENT = 65_536
"""Rows that are read as one stretch where an epoch is permuted in windows."""
SEGMENTS = 64
"""Stretches of a window."""


class Order:
    """Rows as they stand.

    Args:
        rows: int64 [N] row numbers.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def between(self, start: int, stop: int) -> Tensor:
        """The rows from one place of the order to another, int64."""
        return self.rows[start:stop]

    def whole(self) -> Tensor:
        """All rows in this order, int64 [N]."""
        return self.between(0, self.rows.numel())


class WholeOrder(Order):
    """An exact permutation of all rows.

    Args:
        rows: int64 [N] row numbers.
        seed: of the permutation.
        epoch: likewise.
    """

    def __init__(self, rows: Tensor, seed: int, epoch: int) -> None:
        super().__init__(_permuted(rows, seed, epoch))


class WindowedOrder(Order):
    """Rows permuted exactly inside windows, for logs that do not fit into memory.

    The log is sorted by user, so a window of neighbouring rows would hold few users. The rows are cut into segments of
    `SEGMENT`, the segments are permuted, `SEGMENTS` of them make a window, and inside it the permutation is exact. One
    window is held at a time.

    Args:
        rows: int64 [N] row numbers.
        seed: of the permutations.
        epoch: likewise.
    """

    def __init__(self, rows: Tensor, seed: int, epoch: int) -> None:
        super().__init__(rows)
        self.seed, self.epoch = seed, epoch
        count = -(-rows.numel() // SEGMENT)
        self.segments = np.random.default_rng([seed, epoch]).permutation(count)
        sizes = np.minimum(SEGMENT, rows.numel() - self.segments * SEGMENT)
        ends = np.cumsum(sizes)
        self.bounds = [0, *(int(ends[min(first + SEGMENTS, count) - 1]) for first in range(0, count, SEGMENTS))]
        self._held: tuple[int, Tensor] = (-1, rows[:0])

    def between(self, start: int, stop: int) -> Tensor:
        """The rows from one place of the order to another, int64."""
        stop, parts = min(stop, self.rows.numel()), []
        while start < stop:
            window = int(np.searchsorted(self.bounds, start, side="right")) - 1
            first, end = self.bounds[window], min(self.bounds[window + 1], stop)
            parts.append(self._window(window)[start - first : end - first])
            start = end
        return parts[0] if len(parts) == 1 else torch.cat([self.rows[:0], *parts])

    def _window(self, window: int) -> Tensor:
        """The rows of a window, permuted."""
        if self._held[0] != window:
            chosen = self.segments[window * SEGMENTS : (window + 1) * SEGMENTS]
            rows = torch.cat([self.rows[one * SEGMENT : (one + 1) * SEGMENT] for one in chosen])
            self._held = window, _permuted(rows, self.seed, self.epoch, window)
        return self._held[1]


def _permuted(rows: Tensor, *seeds: int) -> Tensor:
    """Rows in an order drawn from the seeds alone."""
    mixed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(mixed)
    return rows[torch.randperm(rows.numel(), generator=generator).to(rows.device)]
