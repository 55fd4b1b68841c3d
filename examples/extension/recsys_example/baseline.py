"""What is new: items in the order of their first event, the latest first."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from recsys.base.arrays import F32, F64, I64, AnyArray
from recsys.base.errors import DataError
from recsys.base.settings import Settings
from recsys.retrieval.baselines import Baseline, Histories


class NewestSettings(Settings):
    """Options of `retrieval.baseline_options.newest`."""

    at_least: int = Field(default=1, ge=1)
    """Events that an item needs to count."""


class Newest(Baseline, kind="newest"):
    """Items by the time of their first event, the same for everybody.

    `score(i) = (t_i - t_first) / (t_last - t_first)`, t_i the first event of item i; 0 without one.
    """

    settings_class = NewestSettings
    settings: NewestSettings
    scores: F32

    def _fit(self, users: I64, items: I64, times: F64 | None, num_users: int) -> None:
        if times is None:
            raise DataError("newest needs the times of the interactions; name a time column or leave it out")
        first = np.full(self.num_items, np.inf)
        np.minimum.at(first, items, times)
        known = np.bincount(items, minlength=self.num_items) >= self.settings.at_least
        span = max(float(times.max() - times.min()), 1.0) if len(times) else 1.0
        start = times.min() if len(times) else 0.0
        self.scores = np.where(known, (np.where(known, first, start) - start) / span, 0.0).astype(np.float32)

    def score(self, histories: Histories) -> F32:
        """See `Baseline.score`; the history is not looked at."""
        return np.tile(self.scores, (len(histories), 1))

    def score_now(self) -> F32:
        """See `Baseline.score_now`."""
        return self.scores

    def _arrays(self) -> dict[str, AnyArray]:
        return {"scores": self.scores}

    def _restore(self, arrays: dict[str, AnyArray]) -> None:
        self.scores = arrays["scores"]
