"""What was popular when the user was last seen: a window of days that ends with each request, not with the data.

Popularity moves within weeks. Counted up to the end of the data it says what is popular now; for a request that stands
earlier (a validation user's, who was last seen in spring) that would be the future. Here every request has its own
window, which ends before the moment it is asked at.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field

from ...base.arrays import F32, F64, I32, I64, AnyArray
from ...base.errors import DataError
from ...base.settings import Settings
from .base import Baseline, Histories

DAY = 86_400.0


class TrendingSettings(Settings):
    """Options of trending."""

    window_days: float = Field(default=30.0, gt=0)
    """Length of the window."""


class Trending(Baseline):
    """Interactions of the item in the days before the request, the same for all requests of a moment.

    `score(i) = log(1 + number of interactions of i in the window_days before the request)`.
    """

    name = "trending"
    settings_class: ClassVar[type[Settings]] = TrendingSettings
    settings: TrendingSettings
    items: I32
    times: F64

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        if times is None:
            raise DataError("trending needs the times of the interactions; give times or use popularity")
        order = np.lexsort((times, items))
        self._take(items[order].astype(np.int32), times[order])

    def _take(self, items: I32, times: F64) -> None:
        """Interactions sorted by item, then time."""
        self.items, self.times = items, times
        self.__dict__.pop("_now", None)
        self._first = times.min(initial=np.inf)
        self._last = times.max(initial=-np.inf)
        self._starts = np.searchsorted(items, np.arange(self.num_items + 1))
        # One number per interaction, ascending: the item, then the time. Its length leaves room for both ends.
        self._span = max(self._last - self._first, 0.0) + 2.0
        self._keys = items * self._span + (times - self._first + 1.0) if len(items) else np.empty(0)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`; only the moments of the requests are looked at."""
        moments, place = np.unique(self._moments(histories), return_inverse=True)
        items = np.broadcast_to(np.arange(self.num_items), (len(moments), self.num_items))
        return self._counted(moments, items)[place]

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """See `Baseline.score_pairs`."""
        return self._counted(self._moments(histories), np.asarray(items, dtype=np.int64))

    def score_now(self) -> F32:
        """See `Baseline.score_now`."""
        return self._now if len(self.items) else np.zeros(self.num_items, dtype=np.float32)

    def _moments(self, histories: Histories) -> F64:
        """When each request is asked; of unknown ones the end of the data."""
        if histories.asked_at is None:
            return np.full(len(histories), np.inf)
        return np.where(np.isfinite(histories.asked_at), histories.asked_at, np.inf)

    def _counted(self, moments: F64, items: I64) -> F32:
        """log(1 + count) of items [B, C] in the windows that end before the moments [B]."""
        if not len(self.items):
            return np.zeros(items.shape, dtype=np.float32)
        if not np.isfinite(moments).any():
            return self._now[items]
        return self._counted_at(np.where(np.isfinite(moments), moments, self._last + 1.0), items)

    @cached_property
    def _now(self) -> F32:
        """Every item's score at the end of the data, float32 [N]: what all requests of today share."""
        return self._counted_at(np.array([self._last + 1.0]), np.arange(self.num_items)[None, :]).reshape(-1)

    def _counted_at(self, end: F64, items: I64) -> F32:
        """The same of windows that end at known moments."""
        begin = end - self.settings.window_days * DAY
        found = [self._before(items, edge) for edge in (end, begin)]
        return np.asarray(np.log1p(found[0] - found[1]), dtype=np.float32)

    def _before(self, items: I64, edge: F64) -> I64:
        """Interactions of each item strictly before each edge."""
        offset = np.clip(edge - self._first + 1.0, 0.0, self._span - 0.5)
        place = np.searchsorted(self._keys, items * self._span + offset[:, None])
        return np.asarray(place - self._starts[items], dtype=np.int64)

    def _arrays(self) -> dict[str, AnyArray]:
        return {"items": self.items, "times": self.times}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        self._take(arrays["items"], arrays["times"])
