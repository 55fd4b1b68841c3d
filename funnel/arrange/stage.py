"""The last stage of a run: many requests' lists, by the rules that hold when they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...base.arrays import F64, I64, Bool
from ...base.ragged import Ragged
from ...configs.rules import RulesConfig
from ...data.dataset import Dataset
from ...data.history import History
from ...retrieval.index.bitmap import Bitmap
from .arrange import Arranged, arrange
from .compiled import Likeness, ListRules, holds
from .personal import Hidden

_HOUR = 3_600.0
_KEPT = 8
"""Compiled rules kept: as many as dated rules begin or end between two requests."""


@dataclass(frozen=True)
class Shown:
    """Lists of B requests.

    Attributes:
        rows: int64 [B, k] item rows, -1 pads.
        columns: int64 [B, k], each one's column among the candidates; -1 at pads and at items that were none.
        propensities: float64 [B, k], probability of the draw, NaN where none was drawn; None where rules do nothing.
        among: int64 [B, k], how many items a place was drawn from, 0 where none was; likewise.
        pinned: bool [B, k], whether the place was the item's own; likewise.
        relaxed: of each request the wishes that gave way; likewise.
    """

    rows: I64
    columns: I64
    propensities: F64 | None = None
    among: I64 | None = None
    pinned: Bool | None = None
    relaxed: tuple[tuple[str, ...], ...] | None = None


class LastStage:
    """The rules of a run, compiled again when a dated rule begins or ends, or an hour makes an item too old.

    Args:
        config: the rules.
        dataset: encoded data.
        likeness: of item rows [n], float32 vectors [n, D].
        positive: the positive events of its users.

    Raises:
        ConfigError: see `ListRules` and `Hidden`.
    """

    def __init__(self, config: RulesConfig, dataset: Dataset, likeness: Likeness, positive: History) -> None:
        unread = any(rule.file for rule in config.block)  # of rules that were not read from a file
        self.config = config.with_files(Path()) if unread else config
        self._dataset, self._likeness, self._positive = dataset, likeness, positive
        self._compiled: dict[tuple[object, ...], ListRules] = {}
        self._hidden = Hidden(config.hide, dataset, positive)

    def changed(self, config: RulesConfig) -> LastStage:
        """Another last stage of the same run, and before the same users."""
        other = LastStage(config, self._dataset, self._likeness, self._positive)
        other._hidden = self._hidden if config.hide == self.config.hide else other._hidden
        return other

    def before(self, people: Dataset, positive: History) -> LastStage:
        """The same last stage before other users than the stored ones.

        Args:
            people: a data set with the run's catalogue and users of its own.
            positive: their positive events.
        """
        if not self.config.hide:
            return self
        other = copy.copy(self)
        other._hidden = self._hidden.of_others(people, positive)
        return other

    def at(self, seconds: float) -> ListRules | None:
        """What holds at a moment, seconds since 1970; None where a list is the ranker's order."""
        if self.config.idle:
            return None
        dated = (*self.config.block, *self.config.boost, *self.config.pin)
        hour = seconds // _HOUR if self.config.freshness is not None else None
        key = (*(holds(rule, seconds) for rule in dated), hour)
        if key not in self._compiled:
            kept = dict(list(self._compiled.items())[1 - _KEPT :])  # a new dict: other threads read the old one
            self._compiled = {**kept, key: ListRules(self.config, self._dataset, self._likeness, seconds)}
        return self._compiled[key]

    def barred(self, rules: ListRules | None, ids: Sequence[Any], rows: I64, moment: int) -> Ragged | None:
        """Item rows that the rules keep from single users; None where they keep nothing from anybody.

        Args:
            rules: what holds, of `at`.
            ids: raw user ids [B], None for somebody anonymous.
            rows: int64 [B] user rows, -1 for a user nobody knows.
            moment: when the requests stand.
        """
        if rules is None or rules.personal is None:
            return None
        return rules.personal.barred(ids, rows, self._hidden, moment)


def by_score(rows: I64, scores: F64, k: int) -> Shown:
    """The best k of candidates [B, C]; ties keep the candidates' order."""
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    listed = rows[np.arange(len(rows))[:, None], columns]
    if columns.shape[1] < k:
        short = ((0, 0), (0, k - columns.shape[1]))
        listed, columns = (np.pad(part, short, constant_values=-1) for part in (listed, columns))
    return Shown(listed, np.where(listed >= 0, columns, -1))


def by_rules(
    rows: I64,
    scores: F64,
    k: int,
    rules: ListRules,
    *,
    allowed: Bitmap | None,
    barred: Ragged,
    history: Ragged,
    chances: Sequence[np.random.Generator] | None,
    above: I64 | None = None,
) -> Shown:
    """The lists of candidates [B, C] by rules; see `arrange`.

    Args:
        rows: int64 [B, C] candidates.
        scores: float64 [B, C].
        k: places.
        rules: of the run's catalogue.
        allowed: items that may be named to anybody.
        barred: item rows that each user does not get.
        history: item rows of each user's positive events.
        chances: draw each list's explored places; none are explored without them.
        above: item rows of earlier pages, of all requests; see `arrange`.
    """
    named = None if allowed is None else allowed.mask()
    lists: list[Arranged] = [
        arrange(
            rows[place],
            scores[place],
            k,
            rules,
            allowed=named,
            barred=np.unique(barred[place]),
            history=history[place],
            rng=None if chances is None else chances[place],
            above=above,
        )
        for place in range(len(rows))
    ]
    return Shown(
        np.stack([one.rows for one in lists]),
        np.stack([one.columns for one in lists]),
        np.stack([one.propensities for one in lists]),
        np.stack([one.among for one in lists]),
        np.stack([one.pinned for one in lists]),
        tuple(one.relaxed for one in lists),
    )
