"""One training step of the towers: a batch of windows becomes the loss that the configuration names.

`prepare` draws on the CPU what is learned from a batch; the step itself computes where the batch was moved to.

Every loss but one answers the same question, which item comes next, and differs in what the item is compared with: the
whole catalogue, the other items of the batch, earlier batches, items drawn evenly, and items the model itself confuses.
`exposures` asks what a ranker asks: whether a shown item was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...base import ranks
from ...base.device import CPU, to_device
from ...base.settings import Settings
from ...data.split import Part
from ...training.loop import Stateful
from .batch import TowerBatch, shared_out
from .exposures import Exposures
from .full_softmax import estimated_softmax_loss, full_softmax_loss
from .losses import bce_loss, in_batch_softmax_loss, mixed_negative_softmax_loss, sampled_softmax_loss
from .negatives import HardNegatives, InclusionSample, NegativeMemory, WeightedSample
from .two_tower import TwoTower, Windows
from .windows import TowerData

PAIR_LOSSES = ("bce", "exposures")
"""Losses that judge each pair by itself, so that a score needs a bias: a softmax would cancel it."""


class TowerLossConfig(Settings):
    """What the towers learn to predict, and what the loss compares it with."""

    horizon: int = Field(default=1, ge=1)
    """How far ahead a state looks: it learns one of its next `horizon` events, drawn anew each time. 1, the next event,
    is right where the next event is asked for; where all of a later period is, as after a global time split, what
    comes next within a session says little, and some hundred are better."""

    loss: Literal["auto", "in_batch", "full_softmax", "estimated", "mixed", "sampled", "bce", "exposures"] = "auto"
    """`in_batch`: softmax over the batch with log-q correction; `full_softmax`: over the whole catalogue; `estimated`:
    the same, its denominator estimated from `negatives` items, popular ones surely among them; `mixed`:
    in-batch plus `negatives` drawn evenly; `sampled`: only those; `bce`: each next event and one drawn item, each pair
    by itself; `exposures`: the logged 0/1 labels of the task `retrieval.positive`, each row by itself. `auto`:
    `full_softmax` up to `full_softmax_items` items, `mixed` above."""
    full_softmax_items: int = Field(default=30_000, ge=1)
    """Largest catalogue for which `auto` takes the softmax over all items."""
    negatives: int = Field(default=1024, ge=1)
    """Items drawn from the catalogue per batch: evenly for `mixed`, `sampled` and `bce`, by popularity for
    `estimated`."""
    popularity: float = Field(default=0.0, ge=0, le=1)
    """`sampled`: items are drawn by this power of their share of the positives (0.75 in word2vec; 0 evenly), and their
    scores are corrected by how often they are drawn."""
    memory: int = Field(default=0, ge=0)
    """Item vectors of earlier batches kept as further negatives (cross-batch memory); for `in_batch` only."""
    memory_after: int = Field(default=200, ge=0)
    """Steps before the memory is used: early in training cached vectors are stale."""
    hard_negatives: int = Field(default=0, ge=0)
    """Items per position that the model itself ranks highest, found by searching its own item vectors: a second
    softmax of the positive among them is added to any loss."""
    hard_weight: float = Field(default=0.2, ge=0)
    """Weight of that second softmax."""
    hard_skip: int = Field(default=0, ge=0)
    """Best-ranked items passed over: the very best may be positives nobody has seen yet."""
    hard_refresh: int = Field(default=200, ge=1)
    """Steps between two refreshes of the searched item vectors."""

    @model_validator(mode="after")
    def _popularity_of_one_loss(self) -> Self:
        if self.popularity > 0 and self.loss != "sampled":
            raise ValueError(f'popularity is of loss = "sampled", and loss is "{self.loss}"; set popularity to 0')
        return self

    @model_validator(mode="after")
    def _exposures_stand_alone(self) -> Self:
        if self.loss == "exposures" and (self.horizon > 1 or self.hard_negatives):
            given = "horizon" if self.horizon > 1 else "hard_negatives"
            raise ValueError(
                f'loss = "exposures" learns the labels of shown items and no next events; leave {given} at its default'
            )
        return self


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
        frequency = counts[known] / counts.sum()
        self.frequency = to_device(frequency.float(), device)  # [n] share of the positives
        self.kind = config.loss
        if self.kind == "auto":
            self.kind = "full_softmax" if data.num_items <= config.full_softmax_items else "mixed"
        self.sample: InclusionSample | WeightedSample | None = None
        if self.kind == "sampled" and config.popularity > 0:
            self.sample = WeightedSample(frequency, config.negatives, config.popularity)
            self.log_inclusion = to_device(self.sample.log_expected, device)  # [n]
        if self.kind == "estimated":
            self.sample = InclusionSample(frequency, config.negatives)
            self.log_inclusion = to_device(self.sample.probability.log().float(), device)  # [n]
        remembers = config.memory and self.kind == "in_batch"
        self.memory = NegativeMemory(config.memory, model.width, device) if remembers else None
        self.hard = HardNegatives(config.hard_negatives, config.hard_skip, seed) if config.hard_negatives else None
        self.steps = 0

    @property
    def memories(self) -> Mapping[str, Stateful]:
        """What outlives a step besides weights: part of a checkpoint."""
        found: dict[str, Stateful] = {"step": self}
        if self.memory is not None:
            found["memory"] = self.memory
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
        if self.kind == "exposures":
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
        positions = target.flatten().nonzero()[:, 0]
        events = self.place[windows.items]
        ahead = events_ahead(len(target), target.shape[1], self.config.horizon, self.generator)[target]  # [P] columns
        learned = positions.div(target.shape[1], rounding_mode="floor"), ahead
        targets = events[learned]
        drawn = negatives = paired = none
        if self.kind == "full_softmax":
            return TowerBatch(
                windows=replace(windows, items=events),
                positions=positions,
                targets=targets,
                positives=targets,
                rows=None,
                drawn=drawn,
                negatives=negatives,
                paired=paired,
            )
        # Only the items of this batch are embedded: a step costs the same however large the catalogue is.
        if self.sample is not None:
            drawn = self.sample.draw(self.generator)
        elif self.kind != "in_batch":
            drawn = torch.randint(self.items.rows, (self.config.negatives,), generator=self.generator)
        rows, inverse = torch.cat([events.flatten(), drawn]).unique(return_inverse=True)
        here, negatives = inverse.split([events.numel(), len(drawn)])
        here = here.view_as(events)
        if self.kind == "bce":
            paired = torch.randint(len(negatives), (len(targets),), generator=self.generator)
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
        if self.kind == "exposures":
            return {"loss": self._exposure_loss(batch)}
        if self.hard is not None and self.steps % self.config.hard_refresh == 0:
            self.hard.refresh(self._all_vectors())
        self.steps += 1
        items = self.items if batch.rows is None else self.items.select(batch.rows)
        content, vectors = self.model.embed_items(items)  # [R, D], [R, width]; alike in all processes
        ranks.own_draws()
        windows = batch.windows
        users = self.model.states_before(windows, content[windows.items]).flatten(0, 1)[batch.positions]
        if self.kind == "full_softmax":
            own = batch.own(batch.targets)
            loss = full_softmax_loss(users, vectors, own, scale=self.model.scale, reduced=self.reduced)
        else:
            loss = self._sampled_loss(users, vectors, batch)
        loss = _of_all(loss, len(users))
        if self.hard is None:
            return {"loss": loss}
        hard = _of_all(self._hard_loss(users, batch.own(batch.targets)), len(users))
        return {"loss": loss + self.config.hard_weight * hard, "softmax": loss.detach(), "hard": hard.detach()}

    def _sampled_loss(self, users: Tensor, vectors: Tensor, batch: TowerBatch) -> Tensor:
        """Loss of user vectors [P, width] among a sample of the vectors [R, width]."""
        scale, frequency, targets, drawn = self.model.scale, self.frequency, batch.targets, batch.drawn
        positives, mine = vectors[batch.positives], batch.mine  # [P, width]
        if self.kind == "in_batch":
            log_q = frequency[targets].log()
            used = self.memory is not None and self.steps > self.config.memory_after
            columns = self.memory.columns() if self.memory is not None and used else None
            if self.memory is not None:
                self.memory.push(positives, targets, log_q)
            return in_batch_softmax_loss(
                users, positives, targets, log_q, scale, memory=columns, rows=mine, reduced=self.reduced
            )
        negatives = vectors[batch.negatives]  # [B', width]
        if self.kind == "mixed":
            return mixed_negative_softmax_loss(
                users,
                positives,
                targets,
                negatives,
                drawn,
                frequency[targets],
                frequency[drawn],
                self.items.rows,
                scale,
                rows=mine,
                reduced=self.reduced,
            )
        positives, targets = batch.own(positives), batch.own(targets)
        if self.kind == "estimated":
            log_q = self.log_inclusion[drawn]
            if users.dim() == 3:  # several interests
                own = {"positive_ids": targets, "negative_ids": drawn}
                return sampled_softmax_loss(users, positives, negatives, scale, negative_log_q=log_q, **own)
            return estimated_softmax_loss(
                users, positives, negatives, log_q, targets, drawn, scale=scale, reduced=self.reduced
            )
        if self.kind == "sampled":
            drawn_q = None if self.sample is None else self.log_inclusion[drawn]
            own = {"positive_ids": targets, "negative_ids": drawn}
            return sampled_softmax_loss(users, positives, negatives, scale, negative_log_q=drawn_q, **own)
        count, device = len(users), users.device
        labels = torch.cat([torch.ones(count, device=device), torch.zeros(count, device=device)])
        pairs = torch.cat([users, users]), torch.cat([positives, negatives[batch.own(batch.paired)]])
        return bce_loss(*pairs, labels, scale, self._pair_bias)

    @property
    def _pair_bias(self) -> Tensor | float:
        return 0.0 if self.model.pair_bias is None else self.model.pair_bias

    def _exposure_loss(self, batch: TowerBatch) -> Tensor:
        """Cross-entropy of the labels of shown items, each with the user as they were before it; only the items of this
        batch are embedded.
        """
        windows, shown = batch.windows, batch.windows.shown
        assert shown is not None
        assert batch.rows is not None
        content, vectors = self.model.embed_items(self.items.select(batch.rows))
        ranks.own_draws()
        users = self.model.states_between(windows, content[windows.items])[shown.window, shown.known]
        items = vectors[batch.positives]
        loss = bce_loss(users, items, shown.labels, self.model.scale, self._pair_bias, shown.weights)
        return _of_all(loss, shown.weights.sum())

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


def events_ahead(users: int, length: int, horizon: int, generator: torch.Generator) -> Tensor:
    """Which event each state of a window learns to predict, int64 [U, L] columns.

    The state before event t learns one of the events t ... t + horizon - 1, or of as many as the window still holds,
    each as likely.
    """
    columns = torch.arange(length).expand(users, length)
    if horizon == 1:
        return columns
    room = (length - columns).clamp(max=horizon)
    return columns + (torch.rand(users, length, generator=generator) * room).long()


def _nearest(users: Tensor, positives: Tensor) -> Tensor:
    """Of several interests [P, M, width] the one nearest to the target [P, width]."""
    chosen = torch.einsum("pmd,pd->pm", users, positives).argmax(1)
    return users[torch.arange(len(users), device=users.device), chosen]
