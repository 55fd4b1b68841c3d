"""One training step of the towers: a batch of windows becomes the loss that the configuration names.

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

from ...base.settings import Settings
from ...data.split import Part
from ...training.loop import Stateful
from .exposures import Exposures
from .full_softmax import full_softmax_loss
from .losses import bce_loss, in_batch_softmax_loss, mixed_negative_softmax_loss, sampled_softmax_loss
from .negatives import HardNegatives, NegativeMemory
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

    loss: Literal["auto", "in_batch", "full_softmax", "mixed", "sampled", "bce", "exposures"] = "auto"
    """`in_batch`: softmax over the batch with log-q correction; `full_softmax`: over the whole catalogue; `mixed`:
    in-batch plus `negatives` drawn evenly; `sampled`: only those; `bce`: each next event and one drawn item, each pair
    by itself; `exposures`: the logged 0/1 labels of the task `retrieval.positive`, each row by itself. `auto`:
    `full_softmax` up to `full_softmax_items` items, `mixed` above."""
    full_softmax_items: int = Field(default=30_000, ge=1)
    """Largest catalogue for which `auto` takes the softmax over all items."""
    negatives: int = Field(default=1024, ge=1)
    """Items drawn evenly from the catalogue per batch, for `mixed`, `sampled` and `bce`."""
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
        model: the towers.
        data: what they see.
        config: which loss.
        seed: of the draws.
        reduced: bfloat16 products in the softmax.
        exposures: for the loss of that name.
    """

    def __init__(
        self,
        model: TwoTower,
        data: TowerData,
        config: TowerLossConfig,
        seed: int,
        reduced: bool,
        exposures: Exposures | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.reduced = reduced
        self.generator = torch.Generator().manual_seed(seed)
        counts = data.popularity(Part.VALID)
        # Items without a training event are no negatives: they would teach the unknown id, whose row they share, that
        # what is new is never wanted. From here on an item is its place among the others.
        met = counts > 0
        if exposures is not None:
            met[torch.from_numpy(exposures.items)] = True
        known = torch.nonzero(met)[:, 0]
        self.items = data.items.select(known)
        self.place = torch.zeros(data.num_items, dtype=torch.int64)
        self.place[known] = torch.arange(len(known))
        self.frequency = (counts[known] / counts.sum()).float()  # [n] share of the positives
        self.kind = config.loss
        if self.kind == "auto":
            self.kind = "full_softmax" if data.num_items <= config.full_softmax_items else "mixed"
        self.memory = NegativeMemory(config.memory, model.width) if config.memory and self.kind == "in_batch" else None
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

    def __call__(self, windows: Windows) -> dict[str, Tensor]:
        """Windows -> {"loss": mean loss of the positions that predict an event, and its parts where there are two}."""
        if self.kind == "exposures":
            return {"loss": self._exposure_loss(windows)}
        target = windows.present.clone()
        target[:, 0] &= windows.from_start  # the past of a stretch cut out of a history is not empty but unknown
        if windows.to_learn is not None:
            target &= windows.to_learn
        windows = replace(windows, items=self.place[windows.items])
        ahead = events_ahead(len(target), target.shape[1], self.config.horizon, self.generator)  # [U, L]
        targets = windows.items.gather(1, ahead)[target]  # [P]
        if self.hard is not None and self.steps % self.config.hard_refresh == 0:
            self.hard.refresh(self._all_vectors())
        self.steps += 1
        if self.kind == "full_softmax":
            content, vectors = self.model.embed_items(self.items)  # [n, D], [n, width]
            users = self.model.states_before(windows, content[windows.items])[target]
            loss = full_softmax_loss(users, vectors, targets, scale=self.model.scale, reduced=self.reduced)
        else:
            users, loss = self._sampled(windows, ahead, target, targets)
        if self.hard is None:
            return {"loss": loss}
        hard = self._hard_loss(users, targets)
        return {"loss": loss + self.config.hard_weight * hard, "softmax": loss.detach(), "hard": hard.detach()}

    def _sampled(self, windows: Windows, ahead: Tensor, target: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors [P, width] and the loss, with only the items of this batch embedded: a step costs the same
        however large the catalogue is.
        """
        model = self.model
        drawn = torch.empty(0, dtype=torch.int64)
        if self.kind != "in_batch":
            drawn = torch.randint(self.items.rows, (self.config.negatives,), generator=self.generator)
        rows, inverse = torch.cat([windows.items.flatten(), drawn]).unique(return_inverse=True)
        content, vectors = model.embed_items(self.items.select(rows))
        events = inverse[: windows.items.numel()].view_as(windows.items)
        positives = vectors[events.gather(1, ahead)[target]]  # [P, width]
        users = self.model.states_before(windows, content[events])[target]
        negatives = vectors[inverse[windows.items.numel() :]]  # [B', width]
        return users, self._sampled_loss(users, positives, targets, negatives, drawn)

    def _sampled_loss(
        self, users: Tensor, positives: Tensor, targets: Tensor, negatives: Tensor, drawn: Tensor
    ) -> Tensor:
        scale, frequency = self.model.scale, self.frequency
        if self.kind == "in_batch":
            log_q = frequency[targets].log()
            used = self.memory is not None and self.steps > self.config.memory_after
            columns = self.memory.columns() if self.memory is not None and used else None
            if self.memory is not None:
                self.memory.push(positives, targets, log_q)
            return in_batch_softmax_loss(users, positives, targets, log_q, scale, memory=columns, reduced=self.reduced)
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
                reduced=self.reduced,
            )
        if self.kind == "sampled":
            return sampled_softmax_loss(users, positives, negatives, scale, positive_ids=targets, negative_ids=drawn)
        paired = negatives[torch.randint(len(negatives), (len(users),), generator=self.generator)]
        labels = torch.cat([torch.ones(len(users)), torch.zeros(len(users))])
        pairs = torch.cat([users, users]), torch.cat([positives, paired])
        return bce_loss(*pairs, labels, scale, self._pair_bias)

    @property
    def _pair_bias(self) -> Tensor | float:
        return 0.0 if self.model.pair_bias is None else self.model.pair_bias

    def _exposure_loss(self, windows: Windows) -> Tensor:
        """Cross-entropy of the labels of shown items, each with the user as they were before it; only the items of this
        batch are embedded.
        """
        shown = windows.shown
        assert shown is not None, "the loader carries the exposures"
        met = torch.cat([windows.items.flatten(), shown.items])
        rows, inverse = self.place[met].unique(return_inverse=True)
        content, vectors = self.model.embed_items(self.items.select(rows))
        count = windows.items.numel()
        history = content[inverse[:count].view_as(windows.items)]
        users = self.model.states_between(windows, history)[shown.window, shown.known]
        items = vectors[inverse[count:]]
        return bce_loss(users, items, shown.labels, self.model.scale, self._pair_bias, shown.weights)

    def _hard_loss(self, users: Tensor, targets: Tensor) -> Tensor:
        """Softmax of each positive among the items the model ranks highest."""
        assert self.hard is not None
        nearest = users if users.dim() == 2 else _nearest(users, self._vectors_of(targets))
        mined = self.hard.mine(nearest.detach(), targets[:, None])
        rows, inverse = torch.cat([targets, mined.clamp(min=0).flatten()]).unique(return_inverse=True)
        vectors = self._vectors_of(rows)
        positives, negatives = vectors[inverse[: len(targets)]], vectors[inverse[len(targets) :]]
        # A pad is given the target's own id, which the loss leaves out.
        ids = torch.where(mined >= 0, mined, targets[:, None])
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
    return users[torch.arange(len(users)), chosen]
