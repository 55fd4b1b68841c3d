"""What every baseline shares: fitting on interactions, scoring whole catalogues from a history, saving as arrays.

A baseline scores from the history it is given at query time, so a new user, or an old one with newer events, needs no
refit, and an evaluation decides alone what a model may look at. (Popularity by segment looks at who asks instead,
trending at when.)
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from ...base.arrays import F32, F64, I64, AnyArray
from ...base.errors import DataError
from ...base.ragged import Ragged
from ...base.registry import Registry
from ...base.settings import Settings
from ...data.dataset import Dataset
from .sparse import RowSum, SparseRows, WeightedRows, summed_at, summed_dense_at

BASELINES: Registry[type[Baseline]] = Registry(
    "baseline",
    {
        "popularity": "popularity:Popularity",
        "recent_popularity": "popularity:RecentPopularity",
        "trending": "trending:Trending",
        "segment_popularity": "segment:SegmentPopularity",
        "same_category": "categories:SameCategory",
        "item_knn": "items:ItemKNN",
        "ease": "items:EASE",
        "transition": "items:Transition",
        "als": "factors:ALS",
        "bpr": "factors:BPR",
    },
    __package__,
)
"""Module and class of every baseline by name; imported when asked for, since some need scipy or `implicit`."""
SCORE_BLOCK = 1 << 24
"""Scores held at once while pairs are picked out of whole rows (64 MB)."""


@dataclass(frozen=True)
class Histories:
    """What B queries are answered from.

    Attributes:
        events: item rows of each query's events, oldest first; rows outside `[0, N)` are ignored.
        users: int `[B]` user rows, where it is known who asks.
        asked_at: float64 `[B]` seconds, when each query is asked: nothing later may be looked at. Infinite: after all
            data.
        seen: item rows that each query is not answered with; those of `events` when None.
    """

    events: Ragged
    users: AnyArray | None = None
    asked_at: F64 | None = None
    seen: Ragged | None = None

    def __len__(self) -> int:
        return len(self.events)

    def block(self, start: int, stop: int) -> Histories:
        """The queries `start` to `stop`, as histories of their own."""
        users = None if self.users is None else self.users[start:stop]
        asked_at = None if self.asked_at is None else self.asked_at[start:stop]
        seen = None if self.seen is None else self.seen.block(start, stop)
        return Histories(self.events.block(start, stop), users, asked_at, seen)

    @property
    def excluded(self) -> Ragged:
        """Item rows that each query is not answered with."""
        return self.events if self.seen is None else self.seen

    def weights(self, num_items: int, last: int | None = None, decay: float = 1.0) -> WeightedRows:
        """The distinct items of each query, ascending, with `decay ** age` of the latest event; the last has age 0.

        Args:
            num_items: N.
            last: only the last so many events count.
            decay: factor per event of age, in (0, 1].
        """
        lasts = np.array([[np.inf if last is None else last]])
        weighted = self.weighted(num_items, lasts, np.array([[decay]]))
        return weighted._replace(values=weighted.values[0])

    def weighted(self, num_items: int, lasts: F64, decays: F64) -> WeightedRows:
        """The same for M kinds of weights: the items that count in any, with 0 where they do not.

        Args:
            num_items: N.
            lasts: float64 [M, 1] how many events count, infinite for all.
            decays: float64 [M, 1] factor per event of age.
        """
        if num_items not in self._distinct:
            self._distinct[num_items] = self._latest(num_items)
        row, item, age = self._distinct[num_items]
        counts = age < lasts
        if not counts.all():
            kept = counts.any(axis=0)
            row, item, age, counts = row[kept], item[kept], age[kept], counts[:, kept]
        return WeightedRows(len(self), row, item, (decays ** age.astype(np.float64) * counts).astype(np.float32))

    @cached_property
    def _distinct(self) -> dict[int, tuple[I64, I64, I64]]:
        """Results of `_latest`, which every baseline asks for."""
        return {}

    def _latest(self, num_items: int) -> tuple[I64, I64, I64]:
        """Query, item and age of the latest event of each item of each query, by query and item: three int64 [H]."""
        row, item = self.events.users, self.events.items
        age = self.events.ptr[1:].repeat(self.events.lengths) - 1 - np.arange(len(row))
        kept = (item >= 0) & (item < num_items)
        row, age, item = row[kept][::-1], age[kept][::-1], item[kept][::-1]
        _, newest = np.unique(row * num_items + item, return_index=True)  # reversed: the first met is the latest
        return row[newest], item[newest], age[newest]


def row_sums_at(sums: Sequence[RowSum], histories: Histories, num_items: int, wanted: AnyArray) -> F32:
    """Scores of candidates that are sums of rows: matrices that several weigh differently are read once.

    Args:
        sums: M scorers', those of one matrix side by side; all matrices are sparse, or it is one dense matrix.
        histories: B histories.
        num_items: N.
        wanted: int [B, C] candidates of each history.

    Returns:
        float32 [M, B, C].
    """
    lasts = np.array([[np.inf if one.last is None else one.last] for one in sums])
    weighted = histories.weighted(num_items, lasts, np.array([[one.decay] for one in sums]))
    matrices: list[SparseRows] = []
    of: list[int] = []
    for one in sums:
        if isinstance(one.matrix, np.ndarray):
            return summed_dense_at(weighted, one.matrix, wanted)
        if not matrices or matrices[-1] is not one.matrix:
            matrices.append(one.matrix)
        of.append(len(matrices) - 1)
    return summed_at(weighted, matrices, of, num_items, wanted)


class Baseline(ABC):
    """A recommender without learned towers, to stand beside the two-tower model in every table.

    A subclass with `kind="name"` registers itself, in an extension too; those of this room are also named in
    `BASELINES`, so that they are imported when they are asked for.

    Args:
        settings: options of the model; None for its defaults.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = "baseline"
    settings_class: ClassVar[type[Settings]] = Settings
    fitted_by: ClassVar[str] = ""
    """Package that `fit` needs and a plain installation lacks; a fitted baseline answers without it."""
    num_items: int

    def __init_subclass__(cls, kind: str = "", **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.name = kind
            BASELINES.register(kind, cls)

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings: Any = self.settings_class() if settings is None else settings

    def describe(self, dataset: Dataset, segments: tuple[str, ...] | None = None) -> Self:
        """Take what the baseline reads of users and items besides the events; before `fit`. Most read nothing.

        Args:
            dataset: encoded data.
            segments: user features whose values make segments; see `[retrieval] segments`.

        Raises:
            ConfigError: a feature that the baseline is to read does not exist.
        """
        return self

    def for_users(self, people: Dataset, segments: tuple[str, ...] | None = None) -> Self:
        """The fitted baseline before other users than it was fitted with; itself where it reads nothing of users.

        Args:
            people: a data set with the encoders of the training's, and users of its own.
            segments: as in `describe`.
        """
        return self

    def fit(
        self,
        user_rows: AnyArray,
        item_rows: AnyArray,
        times: AnyArray | None,
        num_users: int,
        num_items: int,
    ) -> Self:
        """Learn from interactions.

        Args:
            user_rows: int `[E]` in `[0, num_users)`.
            item_rows: int `[E]` in `[0, num_items)`.
            times: `[E]` seconds, any origin; None when the rows are in time order.
            num_users: U.
            num_items: N.

        Returns:
            The baseline itself.

        Raises:
            DataError: the arrays differ in length, or a row is out of range.
        """
        users, items = np.asarray(user_rows, dtype=np.int64), np.asarray(item_rows, dtype=np.int64)
        seconds = np.zeros(len(users)) if times is None else np.asarray(times, dtype=np.float64)
        if not len(users) == len(items) == len(seconds):
            raise DataError(
                f"{self.name} was given {len(users)} user rows, {len(items)} item rows and {len(seconds)} times; "
                "give one of each per interaction"
            )
        for what, rows, size in (("user", users, num_users), ("item", items, num_items)):
            if len(rows) and not (rows.min() >= 0 and rows.max() < size):
                raise DataError(
                    f"{what} rows reach from {rows.min()} to {rows.max()} but there are {size} {what}s; "
                    "give rows of the vocabulary"
                )
        self.num_items = num_items
        order = np.lexsort((seconds, users))
        self._fit(users[order], items[order], None if times is None else seconds[order], num_users)
        return self

    def adopt(self, fitted: Baseline) -> bool:
        """Take over what another baseline has learned from the same events, where it would learn the same.

        Args:
            fitted: a fitted baseline.

        Returns:
            Whether it did; if not, `fit` has to.
        """
        return False

    @abstractmethod
    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        """Learn from interactions sorted by user, then time, then given order."""

    @abstractmethod
    def score(self, histories: Histories) -> F32:
        """Score the whole catalogue for each history; items of the history are not removed.

        Args:
            histories: B histories.

        Returns:
            float32 `[B, N]`, higher is better.
        """

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """Score given candidates.

        Args:
            histories: B histories.
            items: int `[B, C]` candidate rows of each history.

        Returns:
            float32 `[B, C]`, equal to the entries of `score`.
        """
        rows = max(1, SCORE_BLOCK // max(1, self.num_items))
        parts = [
            np.take_along_axis(self.score(histories.block(start, min(start + rows, len(histories)))), block, axis=1)
            for start in range(0, len(histories), rows)
            for block in (np.asarray(items[start : start + rows], dtype=np.int64),)
        ]
        return np.concatenate(parts) if parts else np.zeros(np.shape(items), dtype=np.float32)

    def row_sum(self) -> RowSum | None:
        """The matrix whose rows make the scores, where that is all there is to it; None elsewhere."""
        return None

    def score_now(self) -> F32 | None:
        """Scores float32 `[N]` that all requests of now share; None where the history or the user has a say."""
        return None

    @abstractmethod
    def _arrays(self) -> dict[str, AnyArray]:
        """What was learned."""

    @abstractmethod
    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        """The reverse of `_arrays`."""

    def state(self) -> dict[str, AnyArray]:
        """The fitted baseline as plain arrays, ready for a safetensors file."""
        about = {"name": self.name, "num_items": self.num_items, "settings": self.settings.model_dump(mode="json")}
        arrays = {
            key: np.ascontiguousarray(array) for key, array in self._arrays().items()
        }  # safetensors wants C order
        return {**arrays, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy()}

    @classmethod
    def from_state(cls, state: dict[str, AnyArray]) -> Self:
        """The baseline that `state` described.

        Raises:
            DataError: the arrays are of another baseline.
        """
        about = describe_state(state)
        if about["name"] != cls.name:
            raise DataError(f"the arrays hold a {about['name']} baseline, not {cls.name}; load it by its own name")
        model = cls(cls.settings_class.model_validate(about["settings"]))
        model.num_items = int(about["num_items"])
        model._restore({key: array for key, array in state.items() if key != "about"})
        return model


def describe_state(state: dict[str, AnyArray]) -> dict[str, Any]:
    """Name, number of items and settings that a saved baseline carries."""
    if "about" not in state:
        raise DataError("the arrays hold no baseline: the entry 'about' is missing; save one with state()")
    about: dict[str, Any] = json.loads(np.asarray(state["about"], dtype=np.uint8).tobytes().decode())
    return about
