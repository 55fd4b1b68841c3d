"""What a step of the towers learns from, and each process's share of it: some of the windows, and all that they are
compared with.

Everything is drawn for the whole step, alike in every process, and then shared out by window. The items stay whole:
every process embeds them all, so that its positions meet the columns that they would meet in one process, and no vector
travels between processes; the gradients of the items do, with those of everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...base import ranks
from ...base.device import to_device
from .inputs import Shown, Windows


@dataclass(frozen=True, kw_only=True)
class TowerBatch:
    """Windows and all that was drawn for them: what a step computes with, wherever it computes.

    Every shape and every draw is settled on the CPU, so that a step on a GPU neither waits nor draws.

    Attributes:
        windows: their items are rows of what the step embeds: of all items met, or of `rows`.
        positions: int64 [P'] places in the flattened windows whose state predicts an event.
        targets: int64 [P] the item that each position of the step learns, its place among the items met.
        positives: int64 [P] the same item as a row of what the step embeds.
        rows: int64 [R] items met that the step embeds; None for all.
        drawn: int64 [B'] negatives, as places among the items met.
        negatives: int64 [B'] the same as rows of what the step embeds.
        paired: int64 [P] which of `negatives` is beside each positive, for `bce`.
        mine: int64 [P'] which of the step's P positions (or exposures) the windows hold, where processes share a step;
            None for all. Exposures are shared out whole.
    """

    windows: Windows
    positions: Tensor
    targets: Tensor
    positives: Tensor
    rows: Tensor | None
    drawn: Tensor
    negatives: Tensor
    paired: Tensor
    mine: Tensor | None = None

    def own(self, of_positions: Tensor) -> Tensor:
        """A value of every position of the step [P, ...] -> those of the positions held here [P', ...]."""
        return of_positions if self.mine is None else of_positions[self.mine]

    def to(self, device: torch.device | str) -> TowerBatch:
        """A copy on `device`."""
        tensors = ("positions", "targets", "positives", "drawn", "negatives", "paired")
        moved = {name: to_device(getattr(self, name), device) for name in tensors}
        rows, mine = (None if part is None else to_device(part, device) for part in (self.rows, self.mine))
        return replace(self, windows=self.windows.to(device), rows=rows, mine=mine, **moved)


def shared_out(batch: TowerBatch) -> TowerBatch:
    """This process's windows of a step; all of it where there is one process.

    A step with fewer windows than there are processes leaves some of them a window of which nothing is learned.
    """
    if ranks.world() == 1:
        return batch
    windows, length = batch.windows, batch.windows.items.shape[1]
    count = len(windows.items)
    chosen = ranks.share(torch.arange(count))
    kept = chosen if len(chosen) else torch.zeros(1, dtype=torch.int64)
    place = torch.full((count,), -1)
    place[chosen] = torch.arange(len(chosen))
    own = _select(windows, kept)
    if windows.shown is not None:
        mine = (place[windows.shown.window] >= 0).nonzero()[:, 0]
        own = replace(own, shown=_of_windows(windows.shown, mine, place))
        return replace(batch, windows=own, positives=batch.positives[mine], mine=mine)
    owner = batch.positions.div(length, rounding_mode="floor")
    mine = (place[owner] >= 0).nonzero()[:, 0]
    positions = place[owner[mine]] * length + batch.positions[mine] % length
    return replace(batch, windows=own, positions=positions, mine=mine)


def _select(windows: Windows, rows: Tensor) -> Windows:
    """Some of the windows; exposures are left as they are."""
    columns = ("items", "properties", "present", "from_start", "times")
    return replace(
        windows,
        users=windows.users.select(rows),
        to_learn=None if windows.to_learn is None else windows.to_learn[rows],
        hidden=None if windows.hidden is None else windows.hidden[rows],
        **{name: getattr(windows, name)[rows] for name in columns},
    )


def _of_windows(shown: Shown, mine: Tensor, place: Tensor) -> Shown:
    """Some of the exposures, their windows numbered anew."""
    return Shown(
        place[shown.window[mine]], shown.known[mine], shown.items[mine], shown.labels[mine], shown.weights[mine]
    )
