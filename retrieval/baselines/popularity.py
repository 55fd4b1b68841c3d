"""Popularity, the same for everybody: all interactions, or recent ones more than old ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from ...base.arrays import F32, F64, I64, AnyArray
from ...base.errors import DataError
from ...base.settings import Settings
from .base import Baseline, Histories

DAY = 86_400.0


class PopularitySettings(Settings):
    """Options of popularity."""

    window_days: float | None = Field(default=None, gt=0)
    """Count only interactions of the last so many days before the newest one."""
    half_life_days: float | None = Field(default=None, gt=0)
    """An interaction so many days before the newest counts half."""


class Popularity(Baseline):
    """Number of interactions of each item, the same for everybody; optionally recent ones only, or more.

    `score(i) = sum over the interactions of i of w`; w = 1, `0.5^(age / half_life_days)`, or 0 outside `window_days`.
    """

    name = "popularity"
    settings_class: ClassVar[type[Settings]] = PopularitySettings
    settings: PopularitySettings
    counts: F32

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        weights = np.ones(len(items))
        window, half_life = self.settings.window_days, self.settings.half_life_days
        if window is not None or half_life is not None:
            if times is None:
                raise DataError(f"{self.name} needs the times of the interactions; give times or use popularity")
            age = (times.max(initial=-np.inf) - times) / DAY
            if window is not None:
                weights[age > window] = 0.0
            if half_life is not None:
                weights *= 0.5 ** (age / half_life)
        self.counts = np.bincount(items, weights, minlength=self.num_items).astype(np.float32)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`; the history is not looked at."""
        return np.tile(self.counts, (len(histories), 1))

    def score_pairs(self, histories: Histories, items: AnyArray) -> F32:
        """See `Baseline.score_pairs`."""
        return self.counts[np.asarray(items, dtype=np.int64)]

    def score_now(self) -> F32:
        """See `Baseline.score_now`."""
        return self.counts

    def _arrays(self) -> dict[str, AnyArray]:
        return {"counts": self.counts}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        self.counts = arrays["counts"]


class RecentPopularitySettings(PopularitySettings):
    """Options of recent popularity."""

    half_life_days: float | None = Field(default=30.0, gt=0)
    """An interaction so many days before the newest counts half."""


class RecentPopularity(Popularity):
    """Popularity in which old interactions fade.

    `score(i) = sum over the interactions of i of 0.5^(age / half life)`.
    """

    name = "recent_popularity"
    settings_class: ClassVar[type[Settings]] = RecentPopularitySettings
