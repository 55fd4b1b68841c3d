"""The user tower as it answers: the passes over one user's window of a usual length are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.batch import Block
from ...nn.recorded import Recorded
from .inputs import Windows
from .two_tower import TwoTower

STEP = 16
"""Windows of a single user are padded to a multiple of so many events, so that few lengths occur. Nothing reads what
is padded; the products over a longer window may round otherwise."""


class UserPasses:
    """User vectors of a trained tower. Threads may ask at the same time.

    Args:
        model: its weights no longer move.
        longest: events of the longest window.
    """

    def __init__(self, model: TwoTower, longest: int) -> None:
        self._model, self._shapes = model, longest // STEP + 2
        self._recorded: dict[tuple[int, int], Recorded] = {}

    def vector(self, windows: Windows, content: Tensor) -> Tensor:
        """One user's vector, [1, width] or [1, M, width], as recorded where it is.

        Args:
            windows: one, on the CPU; see `TowerData.window`.
            content: float [N, D] of the catalogue, see `item_contents`.
        """
        users = windows.users
        parts = len(users.bags), len(users.vectors)
        if parts not in self._recorded:
            self._recorded[parts] = Recorded(self._model, partial(_vectors, parts), self._shapes)
        columns = (users.categorical, users.numeric, *users.bags, *users.vectors)
        events = (windows.items, windows.properties, windows.present, windows.from_start, windows.times)
        with torch.inference_mode():
            return self._recorded[parts]((*columns, *events, content))[0]

    @property
    def recordings(self) -> int:
        """How many passes are recorded."""
        return sum(one.recordings for one in self._recorded.values())


def _vectors(parts: tuple[int, int], model: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """What `UserPasses.vector` records: columns of users, events and the catalogue's content -> vectors."""
    assert isinstance(model, TwoTower)
    left: Iterator[Tensor] = iter(tensors)
    columns = next(left), next(left)
    bags, vectors = (tuple(next(left) for _ in range(count)) for count in parts)
    *events, content = left
    windows = _windows(Block(*columns, bags, (), vectors), *events)
    return (model.user_vectors(windows, F.embedding(windows.items, content)),)


def _windows(users: Block, items: Tensor, properties: Tensor, present: Tensor, first: Tensor, times: Tensor) -> Windows:
    return Windows(users=users, items=items, properties=properties, present=present, from_start=first, times=times)
