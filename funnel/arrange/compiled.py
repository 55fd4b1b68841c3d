"""The configured rules as arrays over a run's catalogue, at one moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...base.arrays import F32, F64, I64
from ...base.errors import ConfigError
from ...configs.rules import DatedRule, RulesConfig, seconds_since_1970
from ...data.dataset import Dataset
from ...data.encoding.attributes import Attribute, TextColumn
from ...retrieval.filters import parse_filter
from ...retrieval.index.bitmap import Bitmap
from .personal import ITEM, Personal, Valued
from .variety import DPP, MMR, Calibrated, Variety

Likeness = Callable[[I64], F32]

log = logging.getLogger(__name__)

DAY = 86_400.0


@dataclass(frozen=True)
class Capped:
    """A column's values as codes, and how many of each may stand.

    Attributes:
        column: the values.
        most: items of one value.
        within: places; 0 is the whole list.
    """

    column: Valued
    most: int
    within: int


class ListRules:
    """What the last stage of a run does at a moment.

    Args:
        config: the rules.
        dataset: encoded data; conditions and columns are of its items.
        likeness: of item rows [n], float32 vectors [n, D] that similarity is read from.
        at: seconds since 1970; rules that hold for a time are judged by it.

    Raises:
        ConfigError: a condition is none, or a column or item is unknown.
    """

    def __init__(self, config: RulesConfig, dataset: Dataset, likeness: Likeness, at: float) -> None:
        self.config, self.size = config, dataset.num_catalogue
        self._columns, self._likeness = dataset.item_columns, likeness
        self.allowed = self._allowed(dataset, at)
        self.pins = self._pinned(dataset, at)
        boosts = [rule for rule in config.boost if holds(rule, at)]
        self.factors: F64 | None = None
        for boost in boosts:
            factors = np.ones(self.size) if self.factors is None else self.factors
            self.factors = np.where(self._passing(boost.where).mask(), factors * boost.factor, factors)
        self.caps = [
            Capped(Valued.of(_column(self._columns, cap.column, "cap")), cap.most, cap.within) for cap in config.cap
        ]
        self.personal = self._personal(at)
        self.shares = [(self._passing(share.where).mask(), share.least) for share in config.share]

    def _passing(self, where: str) -> Bitmap:
        return parse_filter(where).bitmap(self._columns)

    @property
    def filters(self) -> bool:
        """Whether an item may be kept from a list."""
        return self.allowed is not None or self.personal is not None

    def _personal(self, at: float) -> Personal | None:
        """What is kept from single users; None when nothing is."""
        columns, config = self._columns, self.config
        owners = [rule.where_user_column for rule in config.block if rule.where_user_column and holds(rule, at)]
        if not config.hide and not owners:
            return None
        scopes = [
            None if r.scope == ITEM else Valued.of(_column(columns, r.scope, "hide", "scope")) for r in config.hide
        ]
        own = [Valued.of(_column(columns, name, "block", "where_user_column")) for name in owners]
        return Personal(tuple(scopes), tuple(own))

    def _allowed(self, dataset: Dataset, at: float) -> Bitmap | None:
        """Items that no rule keeps out; None when none does."""
        allowed: Bitmap | None = None
        for rule in self.config.block:
            if not holds(rule, at) or rule.where_user_column:
                continue
            barred = self._passing(rule.where) if rule.where else _listed(dataset, rule.items)
            allowed = ~barred if allowed is None else allowed & ~barred
        fresh = self.config.freshness
        if fresh is not None:
            times = _column(self._columns, fresh.column, "freshness")
            if isinstance(times, TextColumn):
                raise ConfigError(f'rules.freshness.column = "{fresh.column}" holds texts; expected seconds since 1970')
            late = Bitmap.from_mask(~(times < at - fresh.days * DAY))
            allowed = late if allowed is None else allowed & late
        return allowed

    def _pinned(self, dataset: Dataset, at: float) -> dict[int, int]:
        """Place -> item row of the pins that hold and are not blocked."""
        pins: dict[int, int] = {}
        for pin in self.config.pin:
            row = dataset.item_rows.get(pin.item, self.size)
            if row >= self.size:
                log.warning('the pinned item "%s" is none of the run\'s catalogue; its place goes by score', pin.item)
            elif holds(pin, at) and (self.allowed is None or self.allowed.contains(row)):
                pins.setdefault(pin.slot, row)
        return pins

    def boosted(self, rows: I64, scores: F64) -> F64:
        """Scores after the boosts; a lift of a negative score brings it nearer to 0."""
        if self.factors is None:
            return scores
        factors = self.factors[rows]
        return np.where(scores >= 0, scores * factors, scores / factors)

    def boosts(self, rows: I64) -> F64:
        """What the scores of item rows are multiplied by, of the same shape; 1 at pads."""
        if self.factors is None:
            return np.ones(rows.shape)
        return np.where(rows >= 0, self.factors[rows], 1.0)

    def variety(self, rows: I64, history: I64) -> Variety | None:
        """What a list of these candidates, best first, wants beside their scores; None where order is by score."""
        config = self.config.diversity
        if config.kind == "none" or config.strength == 0 or not len(rows):
            return None
        if config.kind == "calibrated":
            column = self._calibrated
            codes, size = column.codes[history], column.num_values
            weights = 1.0 / np.maximum((codes < size).sum(1, keepdims=True), 1)
            wanted = np.bincount(codes.ravel(), np.broadcast_to(weights, codes.shape).ravel(), size + 1)[:size]
            return Calibrated(column.codes[rows], wanted / max(float(wanted.sum()), 1e-12), config.strength)
        vectors = self._likeness(rows).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return MMR(vectors, config.strength) if config.kind == "mmr" else DPP(vectors, config.strength)

    @cached_property
    def _calibrated(self) -> Valued:
        """The column whose shares in a list follow those of the history."""
        return Valued.of(_column(self._columns, self.config.diversity.column, "diversity"))


def holds(rule: DatedRule, at: float) -> bool:
    """Whether a rule holds at a moment, seconds since 1970."""
    begun = not rule.since or seconds_since_1970(rule.since) <= at
    return begun and (not rule.until or at < seconds_since_1970(rule.until))


def _column(columns: Mapping[str, Attribute], name: str, rule: str, key: str = "column") -> Attribute:
    if name not in columns:
        raise ConfigError(
            f'rules.{rule}.{key} = "{name}" is no column of the items that the run keeps; there are '
            f"{', '.join(sorted(columns))}; name a further one in data.attributes and train"
        )
    return columns[name]


def _listed(dataset: Dataset, ids: tuple[str, ...]) -> Bitmap:
    rows = [dataset.item_rows.get(raw, dataset.num_catalogue) for raw in ids]
    known = np.array([row for row in rows if row < dataset.num_catalogue], dtype=np.int64)
    return Bitmap.from_rows(known, dataset.num_catalogue)
