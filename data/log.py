"""The events of a data set as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import int8
from numpy.typing import NDArray

from ..base.arrays import F32, F64, Bool, Ints, Labels


@dataclass(frozen=True, kw_only=True)
class EventLog:
    """Events sorted by (user, time, file order); columns of length R.

    Attributes:
        users: int32 user row, -1 without users; whole numbers of another width are converted.
        items: int32 item row, -1 without items; converted likewise.
        times: float64 seconds.
        parts: int8, see `Part`.
        labels: [R, T], 0 where masked: uint8 where every task is binary (a run may bring float32), else float32.
        mask: bool [R, T], whether the row lies in the task's sample space.
        weights: float32 training weight, [R]; [R, T] where tasks have weights of their own.
        propensities: float32 logging probability, or None.
        source_rows: int row of the event table each came from.
    """

    users: Ints
    items: Ints
    times: F64
    parts: NDArray[int8]
    labels: Labels
    mask: Bool
    weights: F32
    propensities: F32 | None
    source_rows: Ints

    def __post_init__(self) -> None:
        object.__setattr__(self, "users", np.asarray(self.users, dtype=np.int32))
        object.__setattr__(self, "items", np.asarray(self.items, dtype=np.int32))

    def weights_of(self, task: int) -> F32:
        """Training weight of each row in the loss of a task, float32 [R]; of its place among the tasks."""
        return self.weights if self.weights.ndim == 1 else self.weights[:, task]

    def __len__(self) -> int:
        return len(self.times)
