"""What the towers read: their columns, the windows of users' events, and the exposures beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from ...base.device import to_device
from ...data.batch import Block, SideLayout


@dataclass(frozen=True, kw_only=True)
class TowerLayout:
    """Columns the towers read.

    Attributes:
        item: chosen item columns.
        user: chosen user columns.
        events: vocabulary of each event feature.
        sizes: rows of every vocabulary.
        item_id: vocabulary of the item id, or "" when the tower does not read it.
        shared: column -> the feature whose vocabulary it has too.
        neighbours: the bag of item's that holds the ids of an item's neighbours, or "".
    """

    item: SideLayout
    user: SideLayout
    events: tuple[str, ...]
    sizes: Mapping[str, int]
    item_id: str
    shared: Mapping[str, str] = field(default_factory=dict)
    neighbours: str = ""


@dataclass(frozen=True)
class Shown:
    """P logged exposures of the users of some windows.

    Attributes:
        window: int64 [P] window of each.
        known: int64 [P] how many events of the window came before it.
        items: int64 [P] item row.
        labels: float32 [P] 0 or 1.
        weights: float32 [P] training weight.
    """

    window: Tensor
    known: Tensor
    items: Tensor
    labels: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> Shown:
        """A copy on `device`."""
        return Shown(*(to_device(getattr(self, part.name), device) for part in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Stretches of user histories, oldest event first, padded at the end.

    Attributes:
        users: user columns, B rows.
        items: int64 [B, L] item rows, 0 where padded.
        properties: int64 [B, L, p] vocabulary rows of the event features.
        present: bool [B, L] where an event stands.
        from_start: bool [B] whether the window begins with the user's first event.
        times: float64 [B, L] seconds of the events; those of unknown time stand at the earliest known one.
        to_learn: bool [B, L] events that are targets of a training; None where all are.
        shown: exposures a training learns from; None where it learns from the events.
        hidden: bool [B, L] events that are hidden and filled in; None where each state learns what comes next.
    """

    users: Block
    items: Tensor
    properties: Tensor
    present: Tensor
    from_start: Tensor
    times: Tensor
    to_learn: Tensor | None = None
    shown: Shown | None = None
    hidden: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Events of each window, int64 [B]."""
        return self.present.sum(1)

    def to(self, device: torch.device | str) -> Windows:
        """These windows on `device`: themselves where they are there."""
        if self.items.device == torch.device(device):
            return self
        return replace(
            self,
            users=self.users.to(device),
            items=to_device(self.items, device),
            properties=to_device(self.properties, device),
            present=to_device(self.present, device),
            from_start=to_device(self.from_start, device),
            times=to_device(self.times, device),
            to_learn=None if self.to_learn is None else to_device(self.to_learn, device),
            shown=None if self.shown is None else self.shown.to(device),
            hidden=None if self.hidden is None else to_device(self.hidden, device),
        )
