"""Baselines by name: what a two-tower model must beat before its numbers mean anything.

`build_baseline("ease", regularisation=300).fit(users, items, times, num_users, num_items)` gives an object that scores
histories; all of them share the protocol of `baseline_core.Baseline`.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import ConfigError, DataError
from ..settings import Settings
from .baseline_core import Baseline, Floats, Histories, Ints, checked_settings, describe_state

__all__ = [
    "BASELINES",
    "Baseline",
    "Histories",
    "Popularity",
    "RecentPopularity",
    "baseline_class",
    "baseline_from_state",
    "build_baseline",
]

DAY = 86_400.0


class PopularitySettings(Settings):
    """Options of popularity."""

    window_days: float | None = Field(default=None, gt=0)
    """Count only interactions of the last so many days before the newest one."""
    half_life_days: float | None = Field(default=None, gt=0)
    """An interaction so many days before the newest counts half."""


class Popularity(Baseline):
    """Number of interactions of each item, the same for everybody; optionally recent ones only, or more."""

    name = "popularity"
    settings_class: ClassVar[type[Settings]] = PopularitySettings
    settings: PopularitySettings
    counts: Floats

    def _fit(self, users: Ints, items: Ints, times: NDArray[np.float64] | None, num_users: int) -> None:
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

    def score(self, histories: Histories) -> Floats:
        """See `Baseline.score`; the history is not looked at."""
        return np.tile(self.counts, (len(histories), 1))

    def score_pairs(self, histories: Histories, items: NDArray[Any]) -> Floats:
        """See `Baseline.score_pairs`."""
        return self.counts[np.asarray(items, dtype=np.int64)]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"counts": self.counts}

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.counts = arrays["counts"]


class RecentPopularitySettings(PopularitySettings):
    """Options of recent popularity."""

    half_life_days: float | None = Field(default=30.0, gt=0)
    """An interaction so many days before the newest counts half."""


class RecentPopularity(Popularity):
    """Popularity in which old interactions fade."""

    name = "recent_popularity"
    settings_class: ClassVar[type[Settings]] = RecentPopularitySettings


BASELINES: dict[str, str] = {
    "popularity": "baselines:Popularity",
    "recent_popularity": "baselines:RecentPopularity",
    "trending": "baseline_trending:Trending",
    "segment_popularity": "baseline_segment:SegmentPopularity",
    "same_category": "baseline_categories:SameCategory",
    "item_knn": "baseline_items:ItemKNN",
    "ease": "baseline_items:EASE",
    "transition": "baseline_items:Transition",
    "als": "baseline_factors:ALS",
    "bpr": "baseline_factors:BPR",
}
"""Module and class of every baseline by name; imported when asked for, since some need scipy or `implicit`."""


def baseline_class(name: str) -> type[Baseline]:
    """The class of a baseline.

    Raises:
        ConfigError: no baseline has that name.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown baseline {name!r}; known are {', '.join(BASELINES)}")
    module, attribute = BASELINES[name].split(":")
    found: type[Baseline] = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return found


def build_baseline(name: str, **options: Any) -> Baseline:
    """An unfitted baseline.

    Args:
        name: one of `BASELINES`.
        options: fields of its settings.

    Raises:
        ConfigError: unknown name or option.
    """
    kind = baseline_class(name)
    return kind(checked_settings(kind.settings_class, name, options))


def baseline_from_state(state: dict[str, NDArray[Any]]) -> Baseline:
    """The fitted baseline that `Baseline.state` described, whichever it is."""
    return baseline_class(describe_state(state)["name"]).from_state(state)
