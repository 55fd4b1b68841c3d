"""What the cold-start table is made of: hidden users and items, requests whose answer is known, popularity by genre."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.base.arrays import F32, F64, I64
from recsys.base.ragged import Ragged
from recsys.base.topk import ranks_of_scores
from recsys.data.dataset import Dataset
from recsys.data.feature_spec import FeatureSpec
from recsys.data.item_texts.hashed import HashedTexts
from recsys.data.reading.tables import Tables
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST
from recsys.evaluation.metrics.lists import rank_metrics
from recsys.retrieval.towers.windows import TowerData

SPLIT_SEED = 0
"""Of the draw of hidden users and items; the trainings' seeds do not change it."""
USERS, ITEMS = 0.10, 0.05
"""Shares of users and of items that training never sees."""
STAGES = (0, 1, 3, 10)
"""Events of a new user that are known when the request is made."""
NEXT = 10
"""Events after them that are to be found."""
KS = (10, 100)
TITLES = 64
"""Numbers that a title becomes."""
TITLE = FeatureSpec(name="title_vector", side="item", kind="vector")
Scores = Callable[[slice], F32]


def hide(tables: Tables) -> Tables:
    """The events with a column `part`, events of hidden users with hidden items left out.

    Events of hidden users or with hidden items are `test`; of what is left, everybody's last event is `valid`.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    codes, hidden = {}, {}
    for column, share in (("user_id", USERS), ("item_id", ITEMS)):
        encoded = pc.dictionary_encode(tables.events[column]).combine_chunks()
        order = np.argsort(encoded.dictionary.to_numpy(zero_copy_only=False).astype(str), kind="stable")
        drawn = order[rng.permutation(len(order))[: round(share * len(order))]]
        codes[column] = encoded.indices.to_numpy()
        hidden[column] = np.isin(codes[column], drawn)
    user, item = hidden["user_id"], hidden["item_id"]
    seconds = pc.cast(tables.events["timestamp"], pa.int64()).to_numpy()
    part = np.where(user | item, "test", "train").astype(object)
    warm = np.flatnonzero(part == "train")
    ordered = warm[np.lexsort((warm, seconds[warm], codes["user_id"][warm]))]
    owner = codes["user_id"][ordered]
    part[ordered[np.append(owner[1:] != owner[:-1], True)]] = "valid"
    changed: dict[str, Any] = {"events": tables.events.append_column("part", pa.array(part, pa.string()))}
    return replace(tables, **changed).keep("events", ~(user & item))


def hide_titled(tables: Tables) -> Tables:
    """As `hide`, with a vector of every film's title, fitted on the titles of the films with a training event."""
    hidden = hide(tables)
    assert hidden.items is not None
    titles = hidden.items["title"].combine_chunks()
    trained = hidden.events.filter(pc.equal(hidden.events["part"], "train"))["item_id"]
    met = pc.is_in(hidden.items["item_id"], value_set=pc.unique(trained)).combine_chunks()
    vectors = HashedTexts.fit(titles.filter(met), TITLES).vectors(titles)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    lists = column.cast(pa.list_(pa.float32()))
    changed: dict[str, Any] = {"items": hidden.items.append_column(TITLE.name, lists)}
    return replace(hidden, **changed)


@dataclass(frozen=True)
class Asked:
    """Requests whose answer is known.

    Attributes:
        users: int64 [B] user rows.
        ends: int64 [B] pointer behind the events that are known, in the history of the towers' data.
        known: those events' items.
        truth: items to be found, as places of the pool where there is one.
        size: N.
        pool: item rows that are ranked, ascending; None: all but the known ones.
    """

    users: I64
    ends: I64
    known: Ragged
    truth: Ragged
    size: int
    pool: I64 | None = None

    def ranked(self, scores: Scores) -> dict[str, F64]:
        """Per-user recall and NDCG of an order; `scores` gives float32 [b, N] for a slice of the requests."""

        def pooled(rows: slice) -> F32:
            found = scores(rows)
            return found if self.pool is None else np.ascontiguousarray(found[:, self.pool])

        size, known = (self.size, self.known) if self.pool is None else (len(self.pool), None)
        return self.values(ranks_of_scores(pooled, size, self.truth, known))

    def values(self, ranks: Ragged) -> dict[str, F64]:
        """Per-user recall and NDCG of the truth's ranks."""
        found = rank_metrics(ranks, self.truth.lengths, list(KS), ("recall", "ndcg")).values
        return {name: values for name, values in found.items() if name != "ndcg@100"}

    def in_lists(self, lists: I64) -> dict[str, F64]:
        """Per-user recall and NDCG of given lists [B, k]."""
        found = lists[self.truth.users] == self.truth.items[:, None]
        return self.values(Ragged(np.where(found.any(1), found.argmax(1) + 1, 0), self.truth.ptr))

    def by_chance(self) -> dict[str, F64]:
        """What orders drawn by lot give on average; for requests with one item to be found."""
        left = (self.size - self.known.lengths if self.pool is None else np.full(len(self.users), len(self.pool))) * 1.0
        gain = float((1.0 / np.log2(np.arange(2, KS[0] + 2))).sum())
        return {f"recall@{k}": np.minimum(k / left, 1.0) for k in KS} | {f"ndcg@{KS[0]}": gain / left}


def new_users(data: TowerData, known: int) -> Asked:
    """Users without a training event, after their first `known` events: the next ten are to be found.

    Nobody rates a film twice, so all of them are new to the user.
    """
    history = data.history
    fresh = history.ends(Part.TEST) == history.ptr[:-1]
    users = np.flatnonzero(fresh & (np.diff(history.ptr) > known))
    ends = np.asarray(history.ptr[users] + known, dtype=np.int64)
    truth = history.between(ends, np.minimum(ends + NEXT, history.ptr[users + 1]))
    return Asked(users, ends, history.until(users, ends), truth, data.num_items)


def new_items(data: TowerData, among_new: bool) -> Asked:
    """Users who trained and met items that did not: the last such item is to be found from the events before it.

    Args:
        data: what the towers see.
        among_new: rank only the items without a training event; otherwise the whole catalogue.
    """
    history = data.history
    starts, cut, stops = history.ptr[:-1], history.ends(Part.TEST), history.ptr[1:]
    users = np.flatnonzero((cut > starts) & (stops > cut))
    earlier = [
        np.searchsorted(history.times[starts[user] : cut[user]], history.times[stops[user] - 1]) for user in users
    ]
    ends = np.asarray(starts[users] + np.array(earlier, dtype=np.int64))
    users, ends = users[ends > starts[users]], ends[ends > starts[users]]
    target = history.items[stops[users] - 1].astype(np.int64)
    pool = np.flatnonzero(data.popularity(Part.TEST).numpy() == 0) if among_new else None
    if pool is not None:
        target = np.searchsorted(pool, target)
    known = history.until(users, ends)
    return Asked(users, ends, known, Ragged(target, np.arange(len(users) + 1)), data.num_items, pool)


@dataclass(frozen=True)
class Genres:
    """Popularity by genre, for items that have none of their own.

    Attributes:
        member: float32 [N, G], each item's genres, every row adding up to 1 (0 without genres).
        popularity: float64 [G] training events per item of the genre.
    """

    member: F32
    popularity: F64

    @classmethod
    def of(cls, dataset: Dataset, data: TowerData, feature: str = "genres") -> Genres:
        """Count on training events."""
        bag = dataset.items.bags[dataset.sides["item"].bags.index(feature)][: data.num_items]
        member = np.zeros((data.num_items, dataset.encoders.sizes()[feature]), dtype=np.float32)
        item, place = np.nonzero(bag >= FIRST)
        member[item, bag[item, place]] = 1.0
        counts = data.popularity(Part.VALID).numpy()
        known = counts > 0
        popularity = (counts[known] @ member[known]) / np.maximum(member[known].sum(0), 1.0)
        return cls(member / np.maximum(member.sum(1, keepdims=True), 1.0), popularity)

    def scores(self, asked: Asked, taste: bool) -> Scores:
        """Mean popularity of the item's genres, times the user's share of each genre when `taste`; ties by lot."""
        lots = 1e-6 * np.random.default_rng(SPLIT_SEED).random(len(self.member))
        histories = asked.known

        def block(rows: slice) -> F32:
            weights = np.tile(self.popularity, (rows.stop - rows.start, 1))
            if taste:
                for place, user in enumerate(range(rows.start, rows.stop)):
                    mine = histories[user]
                    weights[place] *= self.member[mine].sum(0) / max(len(mine), 1)
            return np.asarray(weights @ self.member.T + lots, dtype=np.float32)

        return block
