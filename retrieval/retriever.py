"""The first stage as a whole: towers, index and companions propose candidates and describe them to the ranker.

*Proposers* each name their best items for a request and the lists are merged (`merge`). *Scorers* then score every
merged candidate, so that each retriever's opinion reaches the ranker as a feature, whoever proposed the item.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..base.arrays import F32, I32, I64, Bool
from ..base.device import device_of, to_host
from ..base.errors import ConfigError
from ..base.ragged import Ragged
from ..base.topk import topk_of_scores
from ..data.batch import Block, SideLayout
from ..data.dataset import NOW, Dataset
from ..data.split import Part
from ..training.loop import evaluation_mode
from .baselines.base import Baseline, Histories
from .index.base import CandidateIndex
from .index.bitmap import Bitmap
from .interests import search_exactly, search_interests, smooth_best
from .merge import Merged, fill_up, merge
from .opinions import PARTS, Opinions, opinion_features
from .seen import Seen
from .towers.answering import UserPasses
from .towers.train import item_contents, item_vectors, query_vectors
from .towers.two_tower import TwoTower
from .towers.windows import TowerData, choose, without_neighbours

TOWER = "two_tower"


@dataclass(frozen=True)
class CandidateSet:
    """What the first stage hands to the second, for B requests of C candidates.

    Attributes:
        rows: int64 [B, C] item rows, best first by the merged order; -1 pads.
        features: float32 [B, C, F] opinions of the scorers; see `Retriever.feature_names`.
        prior: float32 [B, C] the tower's log-softmax over the candidates; -inf at pads.
        ranks: int32 [B, C, S] place of the candidate in each proposer's own list, 1 the best; 0 where it is not in it.
    """

    rows: I64
    features: F32
    prior: F32
    ranks: I32

    @property
    def proposed(self) -> Bool:
        """Which proposers named each candidate, bool [B, C, S]."""
        return self.ranks > 0

    def select(self, requests: slice) -> CandidateSet:
        """Some of the requests."""
        return CandidateSet(*(getattr(self, field.name)[requests] for field in fields(self)))


@dataclass(frozen=True)
class Proposals:
    """What the proposers answered to B requests, before it is merged.

    Attributes:
        queries: float32 [B, width].
        histories: of the B requests.
        lists: proposer -> int64 [B, C] its item rows, best first; -1 pads.
    """

    queries: F32
    histories: Histories
    lists: Mapping[str, I64]


class Retriever:
    """Towers and companions over one history.

    Args:
        model: trained towers.
        data: what they see.
        companions: fitted baselines by name: proposers, scorers and fallbacks.
        proposers: who names candidates; `two_tower` or companions.
        scorers: companions whose scores become features.
        index: searches the item vectors; the exact product when None (training, before an index exists).
        quotas: places of each proposer among the candidates; None merges by reciprocal rank (see `merge`).
        vectors: float32 [N, width] of all items, as `model` makes them; computed when None.
        content: float32 [N, D] of all items, what histories are made of; computed when it is needed where None.
    """

    def __init__(
        self,
        model: TwoTower,
        data: TowerData,
        companions: Mapping[str, Baseline],
        proposers: tuple[str, ...] = (TOWER,),
        scorers: tuple[str, ...] = (),
        index: CandidateIndex | None = None,
        quotas: Mapping[str, int] | None = None,
        vectors: F32 | None = None,
        content: Tensor | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.companions = companions
        self.proposers = proposers
        self.scorers = scorers
        self.index = index
        self.quotas = quotas
        self.item_vectors = item_vectors(model, data) if vectors is None else vectors
        self._prepared: Opinions | None = None
        if content is not None:
            self.content = content
        for name in (*proposers, *scorers):
            if name != TOWER and name not in companions:
                raise ConfigError(f'no retriever is called "{name}"; there are: {", ".join((TOWER, *companions))}')

    def searching(self, index: CandidateIndex | None) -> Retriever:
        """The same retriever with another index; None searches exactly."""
        other = copy.copy(self)
        other.index = index
        return other

    def leaving_out(self, seen: Seen) -> Retriever:
        """The same retriever with another policy of what users are not recommended again."""
        other = copy.copy(self)
        other.data = replace(self.data, seen=seen)
        return other

    def before(self, people: Dataset, positive: str, segments: tuple[str, ...] | None = None) -> Retriever:
        """The same retriever before other users; their histories decide, nothing is learned from them.

        Args:
            people: a data set with this one's catalogue and encoders, and users of its own.
            positive: `[retrieval] positive`.
            segments: `[retrieval] segments`.
        """
        other = copy.copy(self)
        other.content = self.content
        other._finite = self._finite
        other._passes = self._passes
        other._unpopular = self._unpopular  # of the training's events, which the other does not see
        other.data = self.data.of_others(people, self.model.config, positive)
        other.companions = {name: one.for_users(people, segments) for name, one in self.companions.items()}
        return other

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `CandidateSet.features`: per scorer the score as it is (of the towers the log-probability), the
        score standardised among the candidates, and the log of its rank among them; then the log of the history's
        length.
        """
        names = [f"{name}.{part}" for name in (TOWER, *self.scorers) for part in PARTS]
        return (*names, "log_history")

    def histories(self, users: I64, moment: int) -> Histories:
        """Everything positive the users did before a moment."""
        history, ends = self.data.history, self.data.ends(moment)[users]
        seen = None if self.data.seen.is_history else self.data.seen.before(users, moment)
        # The time of the request itself is what an evaluation may not give away: it is that of the event to predict.
        asked_at = np.full(len(users), np.inf) if moment == NOW else history.last_seen(users, ends)
        return Histories(history.until(users, ends), users, asked_at, seen)

    def queries(self, users: I64, moment: int) -> F32:
        """Query vectors of users at a moment, [B, width]."""
        ends = self.data.ends(moment)[users]
        return query_vectors(self.model, self.data, users, ends, self.content, self._passes)

    def likeness(self, rows: I64 | slice = slice(None)) -> F32:
        """Vectors of item rows without the item bias, float32 [n, D]: what items are like, not how popular they are."""
        return self.model.without_bias(self.item_vectors[rows])

    @cached_property
    def content(self) -> Tensor:
        """What histories are made of, see `TwoTower.embed_content`: made once for the whole catalogue."""
        return item_contents(self.model, self.data, self.item_vectors)

    @cached_property
    def _passes(self) -> UserPasses | None:
        """The user tower's passes over single users; None where the towers are on a GPU."""
        return UserPasses(self.model, self.data.max_length) if device_of(self.model).type == "cpu" else None

    @cached_property
    def _finite(self) -> bool:
        """Whether all item vectors are finite numbers: looked at once, they do not change."""
        return bool(np.isfinite(self.item_vectors).all())

    def vectors_of(self, items: Block, layout: SideLayout) -> F32:
        """Vectors of items that need not be of the catalogue, as the item tower makes them: float32 [n, width].

        Args:
            items: n of them, every item column.
            layout: names of the columns.
        """
        chosen = choose(layout, items, self.model.config.item_features)[1]
        chosen = without_neighbours(self.data.layout, chosen).to(device_of(self.model))
        with evaluation_mode(self.model):
            return to_host(self.model.item_vectors(chosen, self.model.embed_content(chosen)))

    def propose(
        self,
        name: str,
        queries: F32,
        histories: Histories,
        k: int,
        allowed: Bitmap | None = None,
        excluded: Ragged | None = None,
        exact: bool = False,
        complete: bool = False,
    ) -> I64:
        """One proposer's k best items of each request, seen ones left out: int64 [B, k], -1 pads.

        A companion's score of 0 means that it knows nothing of the item for this history, and it does not name it.

        Args:
            name: `two_tower` or a companion.
            queries: float32 [B, width], or [B, M, width] of M interests.
            histories: of the B requests.
            k: length of the lists.
            allowed: items that may be named.
            excluded: item rows to leave out per request; what is seen when None.
            exact: score everything even where there is an index.
            complete: go on, by popularity in training, with the items a companion knows nothing of.
        """
        seen = histories.excluded if excluded is None else excluded
        k = min(k, self.data.num_items)
        if name == TOWER:
            if self.index is None or exact:
                finite = self._finite and bool(np.isfinite(queries).all())
                return search_exactly(self.item_vectors, queries, k, allowed, seen, finite=finite)
            return search_interests(self.index, queries, k, allowed, seen)
        forbidden = None if allowed is None else ~allowed.mask()

        def scores_of(requests: slice) -> F32:
            scores = self.judged(name, histories.block(requests.start, requests.stop))
            rest = min(float(scores.min(initial=0)), 0.0) - 1 - self._unpopular if complete else -np.inf
            scores = np.where(scores == 0, rest, scores)
            if forbidden is not None:
                scores = np.where(forbidden, -np.inf, scores)
            return np.asarray(scores, dtype=np.float32)

        return topk_of_scores(scores_of, len(histories), self.data.num_items, k, seen)[0]

    def judged(self, name: str, histories: Histories) -> F32:
        """A companion's scores of the whole catalogue, float32 [B, N]; 0 of items that came after it was fitted."""
        scores = self.companions[name].score(histories)
        return np.pad(scores, ((0, 0), (0, self.data.num_items - scores.shape[1])))

    def rewrite(self, rows: I64, items: Block, layout: SideLayout) -> None:
        """Take in that items are others from here on; what a retriever shares with others is changed in all of them.

        Args:
            rows: int64 [n] item rows.
            items: their encoded columns.
            layout: names of the columns.
        """
        at, device = torch.from_numpy(rows), device_of(self.model)
        chosen = choose(layout, items, self.model.config.item_features)[1]
        self.data.items.overwrite(at, chosen)
        with evaluation_mode(self.model):
            content = self.model.embed_content(chosen.to(device))
            self.item_vectors[rows] = to_host(self.model.item_vectors(chosen.to(device), content))
        if not self.model.vectors_hold_content:
            self.content[at] = content.cpu()

    @cached_property
    def _unpopular(self) -> F32:
        """Place of each item by popularity in training, as a share of the catalogue: float32 [N], 0 for the first."""
        order = np.argsort(-self.data.popularity(Part.VALID).numpy(), kind="stable")
        place = np.empty(len(order), dtype=np.float32)
        place[order] = np.arange(len(order)) / len(order)
        return place

    def proposals(
        self,
        users: I64,
        moment: int,
        num_candidates: int,
        allowed: Bitmap | None = None,
        excluded: Ragged | None = None,
    ) -> Proposals:
        """What every proposer answers; see `candidates`."""
        histories, queries = self.histories(users, moment), self.queries(users, moment)
        width = min(num_candidates, self.data.num_items)
        lists = {name: self.propose(name, queries, histories, width, allowed, excluded) for name in self.proposers}
        return Proposals(queries, histories, lists)

    def candidates(
        self,
        users: I64,
        moment: int,
        num_candidates: int,
        allowed: Bitmap | None = None,
        excluded: Ragged | None = None,
    ) -> CandidateSet:
        """Candidates of users at a moment.

        Every request gets `num_candidates` of them while there are that many items that it may be given: where the
        proposers know fewer, the first proposer's list goes on by popularity.

        Args:
            users: int64 [B] user rows.
            moment: a `Part`'s start, or `NOW`.
            num_candidates: C.
            allowed: items that may be recommended; all of the catalogue when None.
            excluded: item rows to leave out per request; what is seen when None.
        """
        return self.described(self.proposals(users, moment, num_candidates, allowed, excluded), allowed, excluded)

    def described(
        self, found: Proposals, allowed: Bitmap | None = None, excluded: Ragged | None = None
    ) -> CandidateSet:
        """Candidates of what was proposed; `allowed` and `excluded` as the lists were made with."""
        merged = self.merged(found, allowed, excluded)
        return self.describe(merged.rows, found.queries, found.histories, merged.ranks)

    def merged(self, found: Proposals, allowed: Bitmap | None = None, excluded: Ragged | None = None) -> Merged:
        """The proposers' lists as one, filled up; `allowed` and `excluded` as the lists were made with."""
        joined = self.joined(found.lists)
        first, width = self.proposers[0], joined.rows.shape[1]
        short = np.flatnonzero((joined.rows < 0).any(1))
        if first == TOWER or not len(short):
            return joined
        rest = self.propose(first, found.queries, found.histories, width, allowed, excluded, complete=True)
        return fill_up(joined, rest, 0)

    def joined(self, lists: Mapping[str, I64]) -> Merged:
        """Some proposers' lists merged as this retriever merges, not filled up: int64 [B, C] and int32 [B, C, S]."""
        quotas = None if self.quotas is None else [self.quotas[name] for name in lists]
        rows = list(lists.values())
        return merge(rows, rows[0].shape[1], self.data.num_items, quotas)

    def describe(
        self,
        rows: I64,
        queries: F32,
        histories: Histories,
        ranks: I32,
        served: int | None = None,
    ) -> CandidateSet:
        """Opinions of all scorers on given candidates.

        Args:
            rows: int64 [B, C] item rows; -1 pads.
            queries: float32 [B, width].
            histories: of the B requests.
            ranks: int32 [B, C, S], see `CandidateSet`.
            served: only the first so many candidates are those of the request; the others are described as they would
                be in its list, and change nothing for it. All are when None.
        """
        present = rows >= 0
        filled = np.where(present, rows, 0)
        tower = self._tower_scores(queries, filled)
        opinions = np.empty((1 + len(self.scorers), *rows.shape), dtype=np.float32)
        opinions[0] = tower
        self._opinions.scores(histories, filled, opinions[1:])
        served = rows.shape[1] if served is None else served
        masked = np.where(present, tower, -np.inf)
        own = masked[:, :served]
        top = np.max(own, axis=1, keepdims=True, initial=-1e30)
        prior = masked - top - np.log(np.maximum(np.exp(own - top).sum(1, keepdims=True), 1e-30))
        prior = prior.astype(np.float32)
        raw = opinions.copy()
        raw[0] = prior  # a product of vectors has no zero; its log-probability has
        length = np.log1p(histories.events.lengths).astype(np.float32)
        return CandidateSet(rows, opinion_features(opinions, raw, present, length, served), prior, ranks)

    @property
    def _opinions(self) -> Opinions:
        """The scorers, prepared; anew where a companion is another than before."""
        scorers = tuple([self.companions[name] for name in self.scorers])
        if self._prepared is None or self._prepared.scorers != scorers:
            self._prepared = Opinions(scorers)
        return self._prepared

    def _tower_scores(self, queries: F32, items: I64) -> F32:
        """What training would score the pairs of requests and items [B, C]."""
        scale = self.model.scale
        factor = scale if isinstance(scale, float) else scale.item()
        return smooth_best(np.matmul(self.item_vectors[items], _columns(queries)) * factor)


def _columns(queries: F32) -> F32:
    """Query vectors [B, width] or [B, M, width] as columns [B, width, M]."""
    return queries[:, :, None] if queries.ndim == 2 else queries.transpose(0, 2, 1)
