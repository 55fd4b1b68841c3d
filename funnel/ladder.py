"""What a user is answered from, by how much is known of them: history, own features, segment, popularity.

The ladder is climbed down until something is known. `history`: the user tower reads what the user did. `features`: the
same tower without a history, from the user's own features. `segment`: what is popular among users of the same traits.
`popular`: what is popular among everybody, the only thing to say of a user nobody has heard of.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np

from ..base.arrays import F64, I64, Bool
from ..base.ragged import Ragged, pair_keys
from ..data.dataset import NOW, Dataset
from ..data.vocabulary import FIRST
from ..retrieval.baselines.base import Histories
from ..retrieval.baselines.segment import SEGMENT_POPULARITY, SegmentPopularity
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.merge import places
from ..retrieval.retriever import TOWER, CandidateSet, Retriever
from ..retrieval.seen import Seen, SeenConfig

POPULARITY = "popularity"
POPULAR = "popular"
"""Source label of items that are recommended by global popularity."""


class Rung(StrEnum):
    """What an answer rests on, best first."""

    HISTORY = "history"
    FEATURES = "features"
    SEGMENT = "segment"
    POPULAR = "popular"


@dataclass(frozen=True)
class Offer:
    """Candidates of requests that stand on one rung.

    Attributes:
        candidates: B requests of C candidates.
        sources: name of each column of `candidates.proposed`.
        excluded: what each user is not recommended now.
    """

    candidates: CandidateSet
    sources: tuple[str, ...]
    excluded: Ragged


class Ladder:
    """Who stands on which rung, and what they are offered there.

    Args:
        dataset: encoded data.
        retriever: the first stage, with `popularity` among its companions.
    """

    def __init__(self, dataset: Dataset, retriever: Retriever) -> None:
        self.dataset = dataset
        self.retriever = retriever

    def seen_by(self, policy: SeenConfig) -> Seen:
        """What each user has seen by a policy, see `leaving_out`.

        Raises:
            ConfigError: a task that is none, or is not binary; a window in a log without times.
        """
        return Seen.of(self.dataset, policy, self.retriever.data.history, "seen")

    def leaving_out(self, seen: Seen) -> Ladder:
        """The same ladder with another policy of what users are not recommended again."""
        _ = self._popularity, self._profiled, self._grouped  # prepared once for all copies
        other = copy.copy(self)
        other.retriever = self.retriever.leaving_out(seen)
        return other

    def rung(self, user: int) -> Rung:
        """The rung of a user row; -1 is a user nobody knows."""
        if user < 0:
            return Rung.POPULAR
        history = self.retriever.data.history
        if history.ptr[user + 1] > history.ptr[user]:
            return Rung.HISTORY
        if self._profiled[user]:
            return Rung.FEATURES
        return Rung.SEGMENT if self._grouped[user] else Rung.POPULAR

    @cached_property
    def _profiled(self) -> Bool:
        """Users of whom the tower reads a feature with a known value, the id apart: bool [U]."""
        data = self.retriever.data
        known = np.zeros(self.dataset.num_users, dtype=np.bool_)
        if self.retriever.model.user_content is None or TOWER not in self.retriever.proposers:
            return known
        specs = {spec.name: spec for spec in self.dataset.config.features}
        for column, name in enumerate(data.layout.user.categorical):
            if specs[name].source != self.dataset.config.user:
                codes = data.users.categorical[:, column].numpy()
                known |= (codes >= FIRST) & (codes != self.dataset.encoders.missing_row(name))
        for bag in data.users.bags:
            known |= (bag >= FIRST).any(1).numpy()
        for vector in data.users.vectors:
            known |= (vector != 0).any(1).numpy()
        return known

    @cached_property
    def _grouped(self) -> Bool:
        """Users with a known trait, bool [U]."""
        baseline = self.retriever.companions.get(SEGMENT_POPULARITY)
        if not isinstance(baseline, SegmentPopularity):
            return np.zeros(self.dataset.num_users, dtype=np.bool_)
        return np.asarray((baseline.segments >= 0).any(1))

    def offer(self, rung: Rung, users: I64, count: int, allowed: Bitmap | None, barred: Ragged | None = None) -> Offer:
        """Candidates of known users who stand on the same rung; fewer than `count` only where no more are eligible.

        Args:
            rung: any but `popular`, which needs no second stage (see `popular`).
            users: int64 [B] user rows.
            count: candidates wanted.
            allowed: items that may be named; all when None.
            barred: further item rows that each user does not get.
        """
        excluded = None if barred is None else self.seen(users).followed_by(barred)
        if rung is Rung.SEGMENT:
            sources: tuple[str, ...] = (SEGMENT_POPULARITY,)
            histories, queries = self.retriever.histories(users, NOW), self.retriever.queries(users, NOW)
            rows = self.retriever.propose(sources[0], queries, histories, count, allowed, excluded, complete=True)
            candidates = self.retriever.describe(rows, queries, histories, places(rows)[:, :, None])
        else:
            sources = self.retriever.proposers
            found = self.retriever.proposals(users, NOW, count, allowed, excluded)
            histories, candidates = found.histories, self.retriever.described(found, allowed, excluded)
        width = max(1, int((candidates.rows >= 0).sum(1).max(initial=0)))  # nobody need rank columns of pads
        if width < candidates.rows.shape[1]:
            cut = {name: getattr(candidates, name)[:, :width] for name in ("rows", "features", "prior", "ranks")}
            candidates = replace(candidates, **cut)
        return Offer(candidates, sources, histories.excluded if excluded is None else excluded)

    def popular(self, excluded: Ragged, count: int, allowed: Bitmap | None) -> tuple[I64, F64]:
        """What is popular among everybody, without what each user does not get.

        Args:
            excluded: item rows of B users.
            count: items wanted.
            allowed: items that may be named; all when None.

        Returns:
            rows: int64 [B, count] item rows, best first; -1 pads.
            shares: float64 [B, count] each one's share of all positive events; NaN at pads.
        """
        share, order = self._popularity
        if allowed is not None:
            order = order[allowed.mask()[order]]
        size = len(excluded), count
        rows, shares = np.full(size, -1, dtype=np.int64), np.full(size, np.nan)
        for place in range(len(excluded)):
            seen = np.unique(excluded[place])
            best = order[: count + len(seen)]
            best = best[~np.isin(best, seen)][:count]
            rows[place, : len(best)], shares[place, : len(best)] = best, share[best]
        return rows, shares

    @cached_property
    def _popularity(self) -> tuple[F64, I64]:
        """Share of each item in all positive events, float64 [N], and the items by it, int64 [N], best first."""
        scores = self.retriever.judged(POPULARITY, Histories(Ragged.empty(1)))[0].astype(np.float64)
        return scores / max(float(scores.sum()), 1e-12), np.argsort(-scores, kind="stable")

    def seen(self, users: I64) -> Ragged:
        """What user rows [B] (-1: nobody known) are not recommended now."""
        known = users >= 0
        if known.all():
            return self.retriever.data.seen.before(users, NOW)
        found = self.retriever.data.seen.before(users[known], NOW)
        return Ragged.from_pairs(np.flatnonzero(known)[found.users], found.items, len(users))

    def eligible(self, excluded: Ragged, allowed: Bitmap | None) -> I64:
        """How many items may be named to each user: allowed ones that are not excluded, int64 [B].

        Args:
            excluded: lists of B users.
            allowed: items that may be named; all when None.
        """
        size = self.retriever.data.num_items
        pairs = np.unique(pair_keys(excluded.users, excluded.items, size))
        if allowed is not None:
            pairs = pairs[allowed.contains(pairs % size)]
        return (size if allowed is None else allowed.count) - np.bincount(pairs // size, minlength=len(excluded))
