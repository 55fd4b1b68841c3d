"""One training step of the towers: a batch of windows becomes the loss that the configuration names.

`prepare` draws on the CPU what is learned from a batch; the step itself computes where the batch was moved to. What a
position is compared with is the loss's own (`objective`); to any a second softmax may be added, among the items that
the model itself confuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...base import ranks
from ...base.device import CPU, to_device
from ...data.split import Part
from ...training.loop import Stateful
from .batch import TowerBatch, shared_out
from .exposures import Exposures
from .horizon import events_ahead, horizon_of
from .inputs import Windows
from .losses import sampled_softmax_loss
from .negatives import HardNegatives
from .objective import LOSSES, Compared, TowerLossConfig
from .two_tower import TwoTower
from .windows import TowerData

HIDES_THE_LAST = 1 / 11
"""Share of the windows whose last event alone is hidden, as in a request: one copy beside ten in BERT4Rec's data."""


class RetrievalStep:
    """One batch of windows -> the loss. Holds what every step needs: item columns, probabilities, and its memories.

    Args:
        model: the towers, on `device`.
        data: what they see.
        config: which loss.
        seed: of the draws.
        reduced: rounded products in the softmax.
        exposures: for the loss of that name.
        device: where the steps are computed.
    """

    def __init__(
        self,
        model: TwoTower,
        data: TowerData,
        config: TowerLossConfig,
        seed: int,
        reduced: bool,
        exposures: Exposures | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.model = model
        self.config = config
        self.reduced = reduced
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        counts = data.popularity(Part.VALID)
        # Items without a training event are no negatives: they would teach the unknown id, whose row they share, that
        # what is new is never wanted. From here on an item is its place among the others.
        met = counts > 0
        if exposures is not None:
            met[torch.from_numpy(exposures.items)] = True
        known = torch.nonzero(met)[:, 0]
        self.items = data.items.select(known).to(device)
        self.place = torch.zeros(data.num_items, dtype=torch.int64)
        self.place[known] = torch.arange(len(known))
        self.horizon = horizon_of(config, data)
        self.kind = config.kind_for(data.num_items)
        self.loss = LOSSES[self.kind](config, counts[known] / counts.sum(), model.width, device)
        self.hard = HardNegatives(config.hard_negatives, config.hard_skip, seed) if config.hard_negatives else None
        self.steps = 0

    @property
    def memories(self) -> Mapping[str, Stateful]:
        """What outlives a step besides weights: part of a checkpoint."""
        found: dict[str, Stateful] = {"step": self, **self.loss.memories}
        if self.hard is not None:
            found["hard_negatives"] = self.hard
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Steps done."""
        return {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue counting."""
        self.steps = int(state["steps"])

    def prepare(self, windows: Windows) -> TowerBatch:
        """Windows of a step on the CPU -> what this process learns from them, drawn and numbered there for all."""
        return shared_out(self._drawn(windows))

    def _drawn(self, windows: Windows) -> TowerBatch:
        none = torch.empty(0, dtype=torch.int64)
        if self.loss.exposures:
            shown = windows.shown
            assert shown is not None, "the loader carries the exposures"
            met = self.place[torch.cat([windows.items.flatten(), shown.items])]
            rows, inverse = met.unique(return_inverse=True)
            here, positives = inverse.split([windows.items.numel(), len(shown.items)])
            windows = replace(windows, items=here.view_as(windows.items))
            return TowerBatch(
                windows=windows,
                positions=none,
                targets=none,
                positives=positives,
                rows=rows,
                drawn=none,
                negatives=none,
                paired=none,
            )
        target = windows.present.clone()
        target[:, 0] &= windows.from_start  # the past of a stretch cut out of a history is not empty but unknown
        if windows.to_learn is not None:
            target &= windows.to_learn
        if self.model.encoder.fills:
            windows = replace(windows, hidden=hidden_events(windows, self.config.hidden_share, self.generator))
            target = hidden_or_first(windows, target)
        positions = target.flatten().nonzero()[:, 0]
        events = self.place[windows.items]
        ahead = events_ahead(len(target), target.shape[1], self.horizon, self.generator)[target]  # [P] columns
        learned = positions.div(target.shape[1], rounding_mode="floor"), ahead
        targets = events[learned]
        if self.loss.whole:
            return TowerBatch(
                windows=replace(windows, items=events),
                positions=positions,
                targets=targets,
                positives=targets,
                rows=None,
                drawn=none,
                negatives=none,
                paired=none,
            )
        # Only the items of this batch are embedded: a step costs the same however large the catalogue is.
        drawn = self.loss.draw(self.generator)
        rows, inverse = torch.cat([events.flatten(), drawn]).unique(return_inverse=True)
        here, negatives = inverse.split([events.numel(), len(drawn)])
        here = here.view_as(events)
        paired = self.loss.pair_up(len(targets), len(negatives), self.generator)
        return TowerBatch(
            windows=replace(windows, items=here),
            positions=positions,
            targets=targets,
            positives=here[learned],
            rows=rows,
            drawn=drawn,
            negatives=negatives,
            paired=paired,
        )

    def __call__(self, batch: TowerBatch) -> dict[str, Tensor]:
        """What `prepare` made, on the step's device -> {"loss": mean loss of the positions that predict an event, and
        its parts where there are two}.
        """
        if not self.loss.exposures:
            if self.hard is not None and self.steps % self.config.hard_refresh == 0:
                self.hard.refresh(self._all_vectors())
            self.steps += 1
        items = self.items if batch.rows is None else self.items.select(batch.rows)
        content, vectors = self.model.embed_items(items)  # [R, D], [R, width]; alike in all processes
        ranks.own_draws()
        users, counted = self._states(batch.windows, content, batch.positions)
        compared = Compared(
            users=users,
            vectors=vectors,
            batch=batch,
            scale=self.model.scale,
            bias=0.0 if self.model.pair_bias is None else self.model.pair_bias,
            steps=self.steps,
            reduced=self.reduced,
        )
        loss = _of_all(self.loss(compared), counted)
        if self.hard is None:
            return {"loss": loss}
        hard = _of_all(self._hard_loss(users, batch.own(batch.targets)), counted)
        return {"loss": loss + self.config.hard_weight * hard, "softmax": loss.detach(), "hard": hard.detach()}

    def _states(self, windows: Windows, content: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | int]:
        """Users as they were before what is learned, [P', width], and how much all of it counts."""
        shown = windows.shown
        if not self.loss.exposures or shown is None:
            users = self.model.states_before(windows, content[windows.items]).flatten(0, 1)[positions]
            return users, len(users)
        between = self.model.states_between(windows, content[windows.items])
        return between[shown.window, shown.known], shown.weights.sum()

    def _hard_loss(self, users: Tensor, targets: Tensor) -> Tensor:
        """Softmax of each positive among the items the model ranks highest, which the host searches."""
        assert self.hard is not None
        nearest = users if users.dim() == 2 else _nearest(users, self._vectors_of(targets))
        mined = self.hard.mine(nearest.detach(), targets[:, None])
        own = targets.cpu()
        rows, inverse = torch.cat([own, mined.clamp(min=0).flatten()]).unique(return_inverse=True)
        # A pad is given the target's own id, which the loss leaves out.
        ids = torch.where(mined >= 0, mined, own[:, None])
        rows, inverse, ids = (to_device(tensor, self.device) for tensor in (rows, inverse, ids))
        vectors = self._vectors_of(rows)
        positives, negatives = vectors[inverse[: len(targets)]], vectors[inverse[len(targets) :]]
        return sampled_softmax_loss(
            users,
            positives,
            negatives.view(*mined.shape, -1),
            self.model.scale,
            positive_ids=targets,
            negative_ids=ids,
        )

    def _vectors_of(self, rows: Tensor) -> Tensor:
        return self.model.embed_items(self.items.select(rows))[1]

    def _all_vectors(self) -> Tensor:
        with torch.no_grad():
            return self.model.embed_items(self.items)[1]


def _of_all(loss: Tensor, count: Tensor | int) -> Tensor:
    """A mean over rows that count so much together -> the mean over those of all processes."""
    if ranks.world() == 1:
        return loss
    return ranks.whole_mean(loss * count, torch.as_tensor(count, dtype=loss.dtype, device=loss.device))


def hidden_events(windows: Windows, share: float, generator: torch.Generator) -> Tensor:
    """Which events of some windows are hidden, bool [B, L]: each with probability `share`, and one at least.

    Of some windows, `HIDES_THE_LAST`, it is the last event alone, which is what a request asks for. Events that are not
    to be learned are never hidden.
    """
    rows, last = torch.arange(len(windows.items)), windows.lengths - 1
    drawn = torch.rand(windows.items.shape, generator=generator) < share
    alone = torch.rand(len(rows), generator=generator) < HIDES_THE_LAST
    may = windows.present if windows.to_learn is None else windows.present & windows.to_learn
    hidden = drawn & may & ~alone[:, None]
    hidden[rows, last] |= ~hidden.any(1)
    return hidden & may


def hidden_or_first(windows: Windows, target: Tensor) -> Tensor:
    """Which events are learned, bool [B, L]: the hidden ones, and a history's first, which is said knowing nothing."""
    assert windows.hidden is not None
    learned = windows.hidden.clone()
    learned[:, 0] |= target[:, 0]
    return learned


def _nearest(users: Tensor, positives: Tensor) -> Tensor:
    """Of several interests [P, M, width] the one nearest to the target [P, width]."""
    chosen = torch.einsum("pmd,pd->pm", users, positives).argmax(1)
    return users[torch.arange(len(users), device=users.device), chosen]
