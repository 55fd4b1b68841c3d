"""What the scorers say of the candidates, as features: each score as it is, standardised, and as a rank.

The scores of all scorers are one array, so that a request costs the same few operations however many scorers there are.
What scorers share is done once: those that every request hears the same of stand side by side, row by row of the
catalogue, and of a matrix that several weigh differently the rows of a history are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..base.arrays import F32, I64, Bool, Floats
from .baselines.base import Baseline, Histories, row_sums_at
from .baselines.sparse import RowSum

TIED = 1e-4
"""Difference of standardised scores below which two candidates share a rank."""
PARTS = ("score", "standardised", "log_rank")
"""Columns of a scorer, in order."""


class Opinions:
    """Scores of given candidates by several scorers, each as its `Baseline.score_pairs`, bit for bit.

    Args:
        scorers: F fitted baselines; what is prepared of them does not change.
    """

    def __init__(self, scorers: Sequence[Baseline]) -> None:
        self.scorers = tuple(scorers)
        self._alone: list[int] = []
        self._shared: list[int] = []
        matrices: dict[int, list[int]] = {}
        sums: dict[int, RowSum] = {}
        for place, scorer in enumerate(self.scorers):
            by_rows = scorer.row_sum()
            if by_rows is None:
                (self._alone if scorer.score_now() is None else self._shared).append(place)
                continue
            sums[place] = by_rows
            matrices.setdefault(id(by_rows.matrix), []).append(place)
        dense = [places for places in matrices.values() if isinstance(sums[places[0]].matrix, np.ndarray)]
        sparse = [place for places in matrices.values() if places not in dense for place in places]
        self._sums = [(places, [sums[place] for place in places]) for places in ([sparse] if sparse else []) + dense]

    @cached_property
    def _now(self) -> F32:
        """What all requests of now hear of every item, float32 [N, G] of the G scorers that look at nothing else."""
        scores = [self.scorers[place].score_now() for place in self._shared]
        return np.stack([one for one in scores if one is not None], axis=1)

    def scores(self, histories: Histories, items: I64, into: F32) -> None:
        """Write the scores of candidates.

        Args:
            histories: of B requests.
            items: int64 [B, C] candidate rows.
            into: float32 [F, B, C], overwritten.
        """
        known = min((scorer.num_items for scorer in self.scorers), default=0)
        later = items >= known
        if self.scorers and later.any():  # of an item that came after they were fitted nobody has heard
            self.scores(histories, np.where(later, 0, items), into)
            into[:, later] = 0.0
            return
        alone = self._alone
        if self._shared and (histories.asked_at is None or not np.isfinite(histories.asked_at).any()):
            into[self._shared] = self._now.take(items, axis=0).transpose(2, 0, 1)
        else:
            alone = [*alone, *self._shared]
        for places, sums in self._sums:
            into[places] = row_sums_at(sums, histories, self.scorers[places[0]].num_items, items)
        for place in alone:
            into[place] = self.scorers[place].score_pairs(histories, items)


def opinion_features(opinions: F32, raw: F32, present: Bool, last: F32, served: int) -> F32:
    """Features of B requests of C candidates.

    Args:
        opinions: float32 [F, B, C] scores of the F scorers.
        raw: float32 [F, B, C] what stands for the score as it is.
        present: bool [B, C], false at pads.
        last: float32 [B], a further column, the same for all candidates of a request.
        served: scores are standardised and ranked among the first so many candidates.

    Returns:
        float32 [B, C, 3 F + 1], the columns of a scorer side by side; 0 at pads but for the last column.
    """
    scorers, requests, width = opinions.shape
    standardised, log_rank = _standardised(opinions, present, served)
    features = np.empty((requests, width, len(PARTS) * scorers + 1), dtype=np.float32)
    known = raw if present.all() else np.where(present, raw, 0.0)
    for place, columns in enumerate((known, standardised, log_rank)):
        features[:, :, place:-1:3] = columns.transpose(1, 2, 0)
    features[:, :, -1] = last[:, None]
    return features


def _standardised(scores: F32, present: Bool, served: int) -> tuple[F32, F32]:
    """Scores [F, B, C] standardised among the first `served` of each request, and log(1 + rank) among them; 0 at pads.

    Scores that are all but equal share the better rank: which of two items with the same vector comes first is decided
    by the rounding of their products, which is not the same alone and in a block of requests.
    """
    own, kept = scores[:, :, :served], present[:, :served]
    count = np.maximum(np.count_nonzero(kept, axis=1), 1)[:, None]
    whole = served == scores.shape[2] and count.min(initial=served) == served  # as of nearly every request
    mean = (own if whole else np.where(kept, own, 0.0)).sum(2, keepdims=True) / count
    away = scores - mean
    square = away**2 if whole else np.where(kept, away[:, :, :served], 0.0) ** 2
    deviation = np.maximum(np.sqrt(square.sum(2, keepdims=True) / count), 1e-6)
    log_ranks = np.log1p(np.arange(served + 1)).astype(np.float32)
    if whole:
        standardised = away / deviation
        rank = _ranks(standardised.reshape(-1, served)).reshape(scores.shape)
        return standardised.astype(np.float32), log_ranks.take(rank)
    standardised = np.where(present, away, 0.0) / deviation
    best = np.where(kept, standardised[:, :, :served], -np.inf)
    rank = np.zeros(scores.shape, dtype=np.int64)
    rank[:, :, :served] = _ranks(best.reshape(-1, best.shape[2])).reshape(best.shape)
    for column in range(served, scores.shape[2]):
        rank[:, :, column] = (best > standardised[:, :, [column]] + TIED).sum(2)
    return standardised.astype(np.float32), np.where(present, log_ranks[rank], np.float32(0.0))


def _ranks(scores: Floats) -> I64:
    """Candidates of a row that are better by more than `TIED` than the next worse one: [R, C] -> int64 [R, C]."""
    order = np.argsort(-scores, axis=1)  # equal scores share a rank, so any order among them will do
    order += np.arange(0, scores.size, max(scores.shape[1], 1))[:, None]
    falling = scores.take(order)
    shared = np.zeros(scores.shape, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        lower = falling[:, :-1] - falling[:, 1:] > TIED
    # Where a new rank begins stands its number, and 0 inside a tie.
    np.maximum.accumulate(lower * np.arange(1, scores.shape[1]), axis=1, out=shared[:, 1:])
    ranks = np.empty_like(shared)
    ranks.put(order, shared)
    return ranks
