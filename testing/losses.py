"""What every loss of the towers promises: a mean over positions that falls, gradients of both sides, seeded draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Block
from ..retrieval.towers.batch import TowerBatch
from ..retrieval.towers.inputs import Shown, Windows
from ..retrieval.towers.objective import LOSSES, Compared, TowerLoss, TowerLossConfig
from .contract import Contract

ITEMS, POSITIONS, WIDTH = 40, 12, 6


@dataclass(frozen=True)
class Problem:
    """A loss and a step for it: 12 positions of users whose vectors, and those of 40 items, are free.

    Attributes:
        loss: tested.
        users: [12, 6] of length 1.
        items: [40, 6] of length 1.
        batch: of all positions; labels are 1 and 0 in turns where exposures are learned.
    """

    loss: TowerLoss
    users: Tensor
    items: Tensor
    batch: TowerBatch

    @classmethod
    def of(cls, kind: str, **keys: Any) -> Problem:
        """With keys of `[retrieval]`."""
        config = TowerLossConfig.model_validate({"loss": kind, "negatives": 16, **keys})
        frequency = torch.arange(1, ITEMS + 1, dtype=torch.float64)
        loss = LOSSES[kind](config, frequency / frequency.sum(), WIDTH)
        generator = torch.Generator().manual_seed(5)
        users, items = (torch.randn(count, WIDTH, generator=generator) for count in (POSITIONS, ITEMS))
        users, items = (torch.nn.functional.normalize(side, dim=1).requires_grad_() for side in (users, items))
        return cls(loss, users, items, drawn_batch(loss, seed=6))

    def value(self, mine: Tensor | None = None, steps: int = 1) -> Tensor:
        """The loss of all positions, or of those that one of several processes holds."""
        batch = self.batch if mine is None else shared(self.batch, mine)
        compared = Compared(
            users=self.users if mine is None else self.users[mine],
            vectors=self.items if batch.rows is None else self.items[batch.rows],
            batch=batch,
            scale=5.0,
            bias=0.0,
            steps=steps,
            reduced=False,
        )
        return self.loss(compared)

    def counted(self, mine: Tensor) -> float:
        """How much some positions count."""
        shown = self.batch.windows.shown
        return float(len(mine) if shown is None else shown.weights[mine].sum())


def drawn_batch(loss: TowerLoss, seed: int) -> TowerBatch:
    """A step of 12 positions with the items that the loss draws."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(ITEMS, (POSITIONS,), generator=generator)
    drawn = loss.draw(generator)
    rows, inverse = torch.cat([targets, drawn]).unique(return_inverse=True)
    positives, negatives = inverse.split([POSITIONS, len(drawn)])
    nothing, places = torch.zeros(1, 0), torch.zeros(POSITIONS, dtype=torch.int64)
    labels = torch.arange(POSITIONS) % 2
    shown = Shown(places, places, positives, labels.float(), 0.5 + torch.rand(POSITIONS, generator=generator))
    windows = Windows(
        users=Block(nothing.long(), nothing),
        items=positives[None],
        properties=torch.zeros(1, POSITIONS, 0, dtype=torch.int64),
        present=torch.ones(1, POSITIONS, dtype=torch.bool),
        from_start=torch.ones(1, dtype=torch.bool),
        times=torch.arange(POSITIONS, dtype=torch.float64)[None],
        shown=shown if loss.exposures else None,
    )
    return TowerBatch(
        windows=windows,
        positions=torch.arange(POSITIONS),
        targets=targets,
        positives=targets if loss.whole else positives,
        rows=None if loss.whole else rows,
        drawn=drawn,
        negatives=negatives,
        paired=loss.pair_up(POSITIONS, len(drawn), generator),
    )


def shared(batch: TowerBatch, mine: Tensor) -> TowerBatch:
    """What one of several processes has of a step: some of the positions, and all items."""
    shown = batch.windows.shown
    if shown is None:
        return replace(batch, mine=mine, positions=batch.positions[mine])
    some = Shown(shown.window[mine], shown.known[mine], shown.items[mine], shown.labels[mine], shown.weights[mine])
    return replace(batch, windows=replace(batch.windows, shown=some), positives=batch.positives[mine], mine=mine)


class LossContract(Contract):
    """Every loss of the towers, each with several tables of keys of `[retrieval]`."""

    def test_it_explains_itself(self, kind: str) -> None:
        loss = LOSSES[kind]
        assert loss.kind == kind
        assert loss.paper
        assert loss.summary or loss.__doc__
        assert all(field.description for field in loss.Options.model_fields.values())

    def test_it_is_a_finite_number_that_moves_users_and_items(self, kind: str, keys: Mapping[str, Any]) -> None:
        problem = Problem.of(kind, **keys)
        value = problem.value()
        assert value.shape == ()
        assert torch.isfinite(value)
        value.backward()
        for side in (problem.users, problem.items):
            assert side.grad is not None
            assert torch.isfinite(side.grad).all()
            assert side.grad.any(1).sum() > 1

    def test_its_draws_are_items_and_the_seeds_own(self, kind: str, keys: Mapping[str, Any]) -> None:
        loss = Problem.of(kind, **keys).loss
        first, again, other = (drawn_batch(loss, seed) for seed in (1, 1, 2))
        assert torch.equal(first.drawn, again.drawn)
        assert torch.equal(first.paired, again.paired)
        assert first.drawn.dtype == torch.int64
        if len(first.drawn):
            assert first.drawn.min() >= 0
            assert first.drawn.max() < ITEMS
            assert not torch.equal(first.drawn, other.drawn)
        if len(first.paired):
            assert first.paired.max() < len(first.drawn)

    def test_shares_of_several_processes_add_up_to_the_whole(self, kind: str, keys: Mapping[str, Any]) -> None:
        """A mean over positions: weighed by how many there are, the parts give the whole, value and gradient."""
        whole, parts = Problem.of(kind, **keys), Problem.of(kind, **keys)
        value = whole.value()
        value.backward()
        ranks = [torch.arange(POSITIONS)[start::3] for start in range(3)]
        everything = parts.counted(torch.arange(POSITIONS))
        losses = [parts.value(mine) * parts.counted(mine) / everything for mine in ranks]
        total = torch.stack(losses).sum()
        total.backward()
        torch.testing.assert_close(total, value, rtol=1e-5, atol=1e-6)
        for side in ("users", "items"):
            torch.testing.assert_close(getattr(parts, side).grad, getattr(whole, side).grad, rtol=1e-4, atol=1e-6)

    def test_steps_down_its_gradient_bring_users_to_what_they_took(self, kind: str, keys: Mapping[str, Any]) -> None:
        problem = Problem.of(kind, **keys)
        optimiser = torch.optim.Adam([problem.users, problem.items], lr=0.05)
        before, gaps = float(problem.value().detach()), []
        for steps in range(60):
            gaps.append(self.gap(problem))
            optimiser.zero_grad()
            problem.value(steps=steps + 1).backward()
            optimiser.step()
        assert float(problem.value().detach()) < before
        assert self.gap(problem) > gaps[0] + 0.05

    @staticmethod
    def gap(problem: Problem) -> float:
        """How much nearer users are to the items they took than to the others, or to those with label 0."""
        with torch.no_grad():
            users, items = (torch.nn.functional.normalize(side, dim=1) for side in (problem.users, problem.items))
            rows = problem.batch.rows
            embedded = items if rows is None else items[rows]
            own = (users * embedded[problem.batch.positives]).sum(1)
            shown = problem.batch.windows.shown
            if shown is not None:
                return float(own[shown.labels > 0].mean() - own[shown.labels == 0].mean())
            return float((own - (users @ items.T).mean(1)).mean())
