"""One list from one request's scored candidates, place by place: pins, shares, caps, variety and drawn places.

Where too few candidates are left the wishes give way, shares first and caps second, and the answer says which; blocks
and pins never do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...base.arrays import F64, I64, Bool
from .compiled import Capped, ListRules
from .variety import Variety

VARIED = 100
"""Places that variety fills; later ones go by score."""
_FLOOR = 1e-12
"""Least score a draw takes the logarithm of."""


@dataclass(frozen=True)
class Arranged:
    """One list.

    Attributes:
        rows: int64 [k] item rows, -1 pads.
        columns: int64 [k], each one's column among the candidates; -1 for pads and items that were no candidates.
        propensities: float64 [k], probability of the draw; NaN at places that were not drawn.
        among: int64 [k], how many items the place was drawn from; 0 where it was not drawn.
        pinned: bool [k], whether the place was the item's own.
        relaxed: names of the wishes that gave way.
    """

    rows: I64
    columns: I64
    propensities: F64
    among: I64
    pinned: Bool
    relaxed: tuple[str, ...]


class Place(NamedTuple):
    """An item in its place; see `Arranged`."""

    row: int
    column: int
    propensity: float
    among: int
    pinned: bool


class _Windows:
    """How often each value of a column stands in the last places."""

    def __init__(self, cap: Capped, rows: I64) -> None:
        self.cap = cap
        self.codes = cap.column.codes[rows]
        self.counts = np.zeros(cap.column.num_values + 1, dtype=np.int64)
        self.listed: list[I64] = []

    def full(self, codes: I64) -> Bool:
        """Whether items [n] of these padded codes [n, m] would exceed the cap on the next place."""
        counts = self.counts.copy()
        if self.cap.within and len(self.listed) >= self.cap.within:
            np.subtract.at(counts, self.listed[len(self.listed) - self.cap.within], 1)
        counts[-1] = -1  # the pad
        return np.asarray((counts[codes] >= self.cap.most).any(1))

    def take(self, row: int) -> None:
        """An item has been put on the list."""
        if self.cap.within and len(self.listed) >= self.cap.within:
            np.subtract.at(self.counts, self.listed[len(self.listed) - self.cap.within], 1)
        own = self.cap.column.codes[row]
        own = own[own < self.cap.column.num_values]
        np.add.at(self.counts, own, 1)
        self.listed.append(own)


class _List:
    """A list being made."""

    def __init__(
        self, rows: I64, scores: F64, k: int, rules: ListRules, allowed: Bool | None, barred: I64, history: I64
    ) -> None:
        self.rules, self.k, self.allowed, self.barred = rules, k, allowed, barred
        valid = np.flatnonzero((rows >= 0) & np.isfinite(scores))
        boosted = rules.boosted(rows[valid], scores[valid])
        order = valid[np.argsort(-boosted, kind="stable")]
        self.columns, self.rows = order, rows[order]
        self.scores = np.sort(-boosted, kind="stable") * -1.0
        self.free = np.ones(len(order), dtype=bool)
        self.pool = min(len(order), rules.config.diversity.pool)
        self.variety: Variety | None = rules.variety(self.rows[: self.pool], history)
        self.caps = [_Windows(cap, self.rows) for cap in rules.caps]
        self.shares = [(mask, int(np.floor(least * k + 1e-9))) for mask, least in rules.shares]
        self.have = [0] * len(self.shares)
        self.out: list[Place] = []
        self.relaxed: dict[str, None] = {}

    def place(self, row: int, propensity: float = np.nan, among: int = 0, pinned: bool = False) -> None:
        """Put an item on the next place."""
        at, column = np.flatnonzero(self.rows == row), -1
        if len(at):
            self.free[at[0]] = False
            column = int(self.columns[at[0]])
            if self.variety is not None and at[0] < self.pool:
                self.variety.take(int(at[0]))
        for window in self.caps:
            window.take(row)
        self.have = [have + bool(mask[row]) for have, (mask, _) in zip(self.have, self.shares, strict=True)]
        self.out.append(Place(row, column, propensity, among, pinned))

    def follow(self, rows: Sequence[int]) -> None:
        """Count the items of earlier pages in the caps."""
        for window in self.caps:
            for row in rows:
                window.take(row)

    @property
    def listed(self) -> set[int]:
        """Rows on the list."""
        return {place.row for place in self.out}

    def capped(self) -> Bool:
        """Candidates that a cap keeps from the next place, bool [n]."""
        full = np.zeros(len(self.rows), dtype=bool)
        for window in self.caps:
            full |= window.full(window.codes)
        return full

    def best(self, later_pins: int) -> int | None:
        """Place among the candidates of the one that comes next; None when none is left."""
        allowed = self.free & ~self.capped()
        if not allowed.any():
            if not self.free.any():
                return None
            self.relaxed["cap"] = None
            allowed = self.free.copy()
        places = self.k - len(self.out) - later_pins
        for (mask, least), have in zip(self.shares, self.have, strict=True):
            if 0 < least - have >= places:
                wanted = allowed & mask[self.rows]
                if wanted.any():
                    allowed = wanted
                else:
                    self.relaxed["share"] = None
        pool = allowed[: self.pool]
        if self.variety is not None and len(self.out) < VARIED and pool.any():
            return int(np.where(pool, self.variety.worth(), -np.inf).argmax())
        return int(allowed.argmax())

    def draw(self, rng: np.random.Generator, reserved: Collection[int]) -> tuple[int, float, int] | None:
        """An item drawn for the next place, none of the reserved ones, its probability, and from how many it is."""
        config = self.rules.config.explore
        eligible = np.ones(self.rules.size, dtype=np.bool_) if self.allowed is None else self.allowed.copy()
        eligible[self.barred] = False
        eligible[[*self.listed, *reserved]] = False
        for window in self.caps:
            eligible &= ~window.full(window.cap.column.codes)
        count = int(eligible.sum())
        if not count:
            return None
        policy = np.where(self.free & eligible[self.rows], np.log(np.maximum(self.scores, _FLOOR)), -np.inf)
        even = config.epsilon
        if np.isfinite(policy).any():
            policy = np.exp((policy - policy.max()) / config.temperature)
            policy /= policy.sum()
        else:
            policy, even = np.zeros(len(self.rows)), 1.0
        if rng.random() < even:
            row = int(rng.choice(np.flatnonzero(eligible)))
        else:
            row = int(self.rows[rng.choice(len(self.rows), p=policy)])
        own = policy[self.rows == row].sum()
        return row, float(even / count + (1.0 - even) * own), count


def arrange(
    rows: I64,
    scores: F64,
    k: int,
    rules: ListRules,
    *,
    allowed: Bool | None,
    barred: I64,
    history: I64,
    rng: np.random.Generator | None = None,
    above: I64 | None = None,
) -> Arranged:
    """The list that is shown.

    Args:
        rows: int64 [C] candidates, -1 pads.
        scores: float64 [C], higher is better.
        k: places.
        rules: of the run's catalogue.
        allowed: bool [N] items that may be named to anybody by the rules and the request, all when None.
        barred: int64 item rows that this user does not get, such as what is seen; no pin and no draw brings any item
            back that may not stand.
        history: int64 item rows of the user's positive events.
        rng: draws the explored places; none is explored without it.
        above: int64 item rows of earlier pages, best first, none of them allowed: places and caps go on behind them.
    """
    made = _List(rows, scores, k, rules, allowed, barred, history)
    made.follow(() if above is None else above.tolist())
    first = 1 if above is None else len(above) + 1
    out = set(barred.tolist())
    pins = {
        slot: row
        for slot, row in rules.pins.items()
        if first <= slot < first + k and row not in out and (allowed is None or allowed[row])
    }
    for slot in range(first, first + k):
        pin = pins.pop(slot, None)
        if pin is not None and pin not in made.listed:
            made.place(pin, pinned=True)
            continue
        if rng is not None and slot in rules.config.explore.slots and (drawn := made.draw(rng, pins.values())):
            made.place(*drawn)
            continue
        waiting = made.free & np.isin(made.rows, list(pins.values())) if pins else None
        if waiting is not None:
            made.free[waiting] = False  # they come on their own places
        best = made.best(len(pins))
        if waiting is not None:
            made.free[waiting] = True
        if best is not None:
            made.place(int(made.rows[best]))
        elif not pins:
            break
    return _padded(made.out, k, tuple(made.relaxed))


def _padded(out: Sequence[Place], k: int, relaxed: tuple[str, ...]) -> Arranged:
    pad = Place(-1, -1, np.nan, 0, False)
    rows, columns, propensities, among, pinned = zip(*out, *[pad] * (k - len(out)), strict=True)
    return Arranged(
        np.array(rows, dtype=np.int64),
        np.array(columns, dtype=np.int64),
        np.array(propensities, dtype=np.float64),
        np.array(among, dtype=np.int64),
        np.array(pinned, dtype=np.bool_),
        relaxed,
    )
