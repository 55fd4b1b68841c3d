"""The first stage as a whole: towers, index and companions propose candidates and describe them to the ranker.

*Proposers* each name their best items for a request; the lists are merged by reciprocal rank. *Scorers* then score
every merged candidate, so that each retriever's opinion reaches the ranker as a feature, whoever proposed the item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..evaluation.ragged import Ragged
from ..evaluation.topk import topk_of_scores
from .baseline_core import Baseline, Histories
from .index_bitmap import Bitmap, Exclusions
from .index_types import CandidateIndex
from .train import item_vectors, query_vectors
from .two_tower import TwoTower
from .windows import TowerData

TOWER = "two_tower"
RECIPROCAL_OFFSET = 60.0
"""Constant of reciprocal rank fusion (Cormack et al., SIGIR 2009): 1 / (60 + rank)."""


@dataclass(frozen=True)
class CandidateSet:
    """What the first stage hands to the second, for B requests of C candidates.

    Attributes:
        rows: int64 [B, C] item rows, best first by the merged order; -1 pads.
        features: float32 [B, C, F] opinions of the scorers; see `Retriever.feature_names`.
        prior: float32 [B, C] the tower's log-softmax over the candidates; -inf at pads.
        proposed: bool [B, C, S] which proposer named the candidate.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    prior: NDArray[np.float32]
    proposed: NDArray[np.bool_]


class Retriever:
    """Towers and companions over one history.

    Args:
        model: trained towers.
        data: what they see.
        companions: fitted baselines by name: proposers, scorers and fallbacks.
        proposers: who names candidates; `two_tower` or companions.
        scorers: companions whose scores become features.
        index: searches the item vectors; the exact product when None (training, before an index exists).
    """

    def __init__(
        self,
        model: TwoTower,
        data: TowerData,
        companions: Mapping[str, Baseline],
        proposers: tuple[str, ...] = (TOWER,),
        scorers: tuple[str, ...] = (),
        index: CandidateIndex | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.companions = companions
        self.proposers = proposers
        self.scorers = scorers
        self.index = index
        self.item_vectors = item_vectors(model, data)
        for name in (*proposers, *scorers):
            if name != TOWER and name not in companions:
                raise ConfigError(f'no retriever is called "{name}"; there are: {", ".join((TOWER, *companions))}')

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `CandidateSet.features`: per scorer the score, standardised among the candidates, and the log of
        its rank among them; then the log of the history's length.
        """
        names = [f"{name}.{part}" for name in (TOWER, *self.scorers) for part in ("score", "log_rank")]
        return (*names, "log_history")

    def histories(self, users: NDArray[np.int64], moment: int) -> Histories:
        """Everything positive the users did before a moment."""
        return Histories(*self.data.history.csr(users, self.data.ends(moment)[users]))

    def queries(self, users: NDArray[np.int64], moment: int) -> NDArray[np.float32]:
        """Query vectors of users at a moment, [B, width]."""
        return query_vectors(self.model, self.data, users, self.data.ends(moment)[users])

    def propose(
        self,
        name: str,
        queries: NDArray[np.float32],
        histories: Histories,
        k: int,
        allowed: Bitmap | None = None,
        excluded: Ragged | None = None,
        exact: bool = False,
    ) -> NDArray[np.int64]:
        """One proposer's k best items of each request, seen ones left out: int64 [B, k], -1 pads.

        Args:
            name: `two_tower` or a companion.
            queries: float32 [B, width].
            histories: of the B requests.
            k: length of the lists.
            allowed: items that may be named.
            excluded: item rows to leave out per request; the history when None.
            exact: score everything even where there is an index.
        """
        seen = excluded or Ragged(np.asarray(histories.items, dtype=np.int64), np.asarray(histories.ptr))
        k = min(k, self.data.num_items)
        if name == TOWER and self.index is not None and not exact:
            out = Exclusions(np.asarray(seen.ptr, dtype=np.int64), np.asarray(seen.items, dtype=np.int64))
            return self.index.search(queries, k, allowed, out).rows
        forbidden = None if allowed is None else ~allowed.mask()

        def block(rows: slice) -> NDArray[np.float32]:
            if name == TOWER:
                scores = queries[rows] @ self.item_vectors.T
            else:
                scores = self.companions[name].score(histories.block(rows.start, rows.stop))
            if forbidden is not None:
                scores = np.where(forbidden, -np.inf, scores)
            return np.asarray(scores, dtype=np.float32)

        return topk_of_scores(block, len(histories), self.data.num_items, k, seen)[0]

    def candidates(
        self,
        users: NDArray[np.int64],
        moment: int,
        num_candidates: int,
        allowed: Bitmap | None = None,
        excluded: Ragged | None = None,
    ) -> CandidateSet:
        """Candidates of users at a moment.

        Args:
            users: int64 [B] user rows.
            moment: a `Part`'s start, or `NOW`.
            num_candidates: C.
            allowed: items that may be recommended; all of the catalogue when None.
            excluded: item rows to leave out per request; the history when None.
        """
        histories = self.histories(users, moment)
        queries = self.queries(users, moment)
        width = min(num_candidates, self.data.num_items)
        lists = [self.propose(name, queries, histories, width, allowed, excluded) for name in self.proposers]
        rows = lists[0] if len(lists) == 1 else merge(lists, width, self.data.num_items)
        proposed = np.stack([_member(rows, found, self.data.num_items) for found in lists], axis=2)
        return self.describe(rows, queries, histories, proposed)

    def describe(
        self,
        rows: NDArray[np.int64],
        queries: NDArray[np.float32],
        histories: Histories,
        proposed: NDArray[np.bool_],
    ) -> CandidateSet:
        """Opinions of all scorers on given candidates [B, C]."""
        present = rows >= 0
        filled = np.where(present, rows, 0)
        tower = np.einsum("bd,bcd->bc", queries, self.item_vectors[filled], optimize=True)
        scale = self.model.scale
        tower = tower * (scale if isinstance(scale, float) else scale.item())
        opinions = [tower, *(self.companions[name].score_pairs(histories, filled) for name in self.scorers)]
        columns = [part for scores in opinions for part in _standardised(scores, present)]
        length = np.log1p(np.diff(histories.ptr)).astype(np.float32)
        columns.append(np.broadcast_to(length[:, None], rows.shape))
        masked = np.where(present, tower, -np.inf)
        top = np.max(masked, axis=1, keepdims=True, initial=-1e30)
        prior = masked - top - np.log(np.maximum(np.exp(masked - top).sum(1, keepdims=True), 1e-30))
        return CandidateSet(rows, np.stack(columns, axis=2), prior.astype(np.float32), proposed)


def _standardised(
    scores: NDArray[np.float32], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores standardised within each request, and log(1 + rank) among its candidates; 0 at pads."""
    count = np.maximum(present.sum(1, keepdims=True), 1)
    mean = np.where(present, scores, 0.0).sum(1, keepdims=True) / count
    centred = np.where(present, scores - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / count)
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    log_rank = np.where(present, np.log1p(rank), 0.0)
    return (centred / np.maximum(deviation, 1e-6)).astype(np.float32), log_rank.astype(np.float32)


def merge(lists: list[NDArray[np.int64]], k: int, num_items: int) -> NDArray[np.int64]:
    """Reciprocal rank fusion of several lists [B, n] -> [B, k], -1 pads; ties by the lower item row."""
    batch = len(lists[0])
    keys, gains = [], []
    for found in lists:
        request, place = np.nonzero(found >= 0)
        keys.append(request * num_items + found[request, place])
        gains.append(1.0 / (RECIPROCAL_OFFSET + place + 1.0))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(inverse, weights=np.concatenate(gains))
    request, item = unique // num_items, unique % num_items
    order = np.lexsort((item, -total, request))
    request, item = request[order], item[order]
    place = np.arange(len(request)) - np.searchsorted(request, request)
    rows = np.full((batch, k), -1, dtype=np.int64)
    kept = place < k
    rows[request[kept], place[kept]] = item[kept]
    return rows


def _member(rows: NDArray[np.int64], found: NDArray[np.int64], num_items: int) -> NDArray[np.bool_]:
    """Which candidates [B, C] stand in another list [B, n]."""
    request = np.arange(len(rows))[:, None] * num_items
    return np.isin(request + rows, (request + found)[found >= 0]) & (rows >= 0)
