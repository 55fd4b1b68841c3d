"""Rows of an earlier data set that stay as it encoded them when later rows are appended.

What it learned from lies before all that comes. Those rows are in no loss any more: they are history, and what is read
of them does not change. Their statistics are summed up in the counters of its count tables, so they are copied, and
only the later rows are encoded: the new ones, and those it held out, whose statistics stood still.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...base.arrays import F64, I64, AnyArray, Ints
from ...base.counting import STEP, tallies
from ...base.ragged import offsets
from ..dataset import Dataset
from ..feature_spec import Side
from ..history import History, row_kind
from ..log import EventLog
from ..schema import DataConfig
from ..shelf import Shelf
from ..split import Part
from ..split_spec import ORDERED_SPLITS
from .derived import Derived
from .interleaved import Interleaved, Values, of_each


class CountsMoved(Exception):
    """An item or user that was counted under one key has another one now: the counters do not hold."""


@dataclass(frozen=True)
class Settled:
    """The rows that an earlier data set learned from.

    Attributes:
        source: the earlier data set.
        held_out: int64 [H] its other rows, all of them later.
        shelf: lets go of columns that were read.
    """

    source: Dataset
    held_out: I64
    shelf: Shelf

    @classmethod
    def of(cls, source: Dataset, config: DataConfig, first: float, shelf: Shelf) -> Settled | None:
        """None where the earlier rows have to be encoded again with the new ones.

        Args:
            source: the earlier data set.
            config: the new one's `[data]` section.
            first: time of the first new row.
            shelf: of the new data set.
        """
        kinds = {source.config.split.kind, config.split.kind}
        counted = all(table.sums is not None for table in source.counts)
        if not kinds <= set(ORDERED_SPLITS) or not counted or not len(source.events):
            return None
        events = source.events
        last, later, held_out = -np.inf, np.inf, []
        for start in range(0, len(events), STEP):
            times, out = events.times[start : start + STEP], events.parts[start : start + STEP] > Part.TRAIN
            held_out.append(np.flatnonzero(out) + start)
            last = max(last, float(times.max(where=~out, initial=-np.inf)))
            later = min(later, float(times.min(where=out, initial=np.inf)))
            if float(times.max()) >= first or last >= later:
                return None
        shelf.rest(events.times, events.parts)
        return cls(source, np.concatenate(held_out), shelf)

    def tally(self, side: Side, size: int) -> I64:
        """Settled rows of each user or item, int64 [size]."""
        rows = self.source.events.users if side == "user" else self.source.events.items
        found = np.zeros(size, dtype=np.int64)
        known = self.source.num_users if side == "user" else len(self.source.item_ids)
        found[:known] = tallies(rows, known) - tallies(rows[self.held_out], known)
        self.shelf.rest(rows)
        return found

    def refuse_other_keys(self, codes: Mapping[str, Ints], counted: Mapping[Side, I64]) -> None:
        """Stop where a user or item of settled rows has another count key than when it was counted.

        Args:
            codes: vocabulary rows of each count key, by user, item or event row.
            counted: see `tally`.

        Raises:
            CountsMoved: one has.
        """
        for name, now in codes.items():
            side = self.source.config.feature(name).side
            if side != "context":
                before = self.source.key_codes[name]
                if ((before != now[: len(before)]) & (counted[side][: len(before)] > 0)).any():
                    raise CountsMoved

    def last_times(self, users: Ints) -> F64:
        """Time of the last settled row of each user, float64 [n]; NaN where there is none."""
        events = self.source.events
        at = self._rows_up_to(users)
        row = np.searchsorted(events.users, users, side="right") - 1
        row -= np.searchsorted(self._held_users, users, side="right") - np.searchsorted(self._held_users, users)
        here = (at > 0) & (row >= 0) & (events.users[np.maximum(row, 0)] == users)
        return np.where(here, events.times[np.maximum(row, 0)], np.nan)

    @cached_property
    def _held_users(self) -> Ints:
        users: Ints = self.source.events.users[self.held_out]
        return users

    def _rows_up_to(self, users: Ints) -> I64:
        """Settled rows of each user and of those before, int64 [n]."""
        through = np.searchsorted(self.source.events.users, users, side="right")
        return np.asarray(through - np.searchsorted(self._held_users, users, side="right"), dtype=np.int64)

    def joined(self, later: Dataset) -> Dataset:
        """The settled rows and the later ones as one data set, in (user, time) order.

        Args:
            later: of the rows that come after the settled ones, with all users and items.
        """
        old, new = self.source, later.events
        rows = Interleaved(len(old.events), self.held_out, self._rows_up_to(new.users), self.shelf)
        contexts = [name for name in later.key_codes if old.config.feature(name).side == "context"]
        key_codes = rows.columns([(old.key_codes[name], later.key_codes[name]) for name in contexts])
        event_codes = rows.columns([(old.event_codes[name], codes) for name, codes in later.event_codes.items()])
        shifts = self._shifts(later)
        sequences, ends = {}, {}
        for name, history in later.sequences.items():
            before = old.sequences[name]
            sequences[name], kept = self._history(before, history, rows, shifts)
            moved = sequences[name].ptr[: len(before.ptr) - 1] - before.ptr[:-1]
            own = later.sequence_ends[name] + (sequences[name].ptr[:-1] + kept - history.ptr[:-1])[new.users]
            own = own.astype(row_kind(len(sequences[name].items)))
            ends[name] = self._ends(rows, old.sequence_ends[name], moved, own)
        return replace(
            later,
            events=self._events(rows, new),
            row_query=rows.table(old.row_query, later.row_query),
            row_item=rows.table(old.row_item, later.row_item),
            key_codes={**later.key_codes, **dict(zip(contexts, key_codes, strict=True))},
            event_codes=dict(zip(later.event_codes, event_codes, strict=True)),
            derived=tuple(self._inputs(rows, *pair) for pair in zip(old.derived, later.derived, strict=True)),
            sequences=sequences,
            sequence_ends=ends,
        )

    def _events(self, rows: Interleaved, new: EventLog) -> EventLog:
        """All events; the settled ones precede the log, and stand in no table."""
        pairs: dict[str, tuple[Values, AnyArray]] = {}
        for name in (field.name for field in fields(EventLog)):
            after, before = getattr(new, name), getattr(self.source.events, name)
            constant = {"parts": int(Part.PRIOR), "source_rows": -1}.get(name, np.nan if before is None else None)
            if after is not None:
                pairs[name] = (before if constant is None else _constant(constant, after), after)
        columns: dict[str, Any] = dict(zip(pairs, rows.columns(list(pairs.values())), strict=True))
        return EventLog(**{"propensities": None, **columns})

    def _ends(self, rows: Interleaved, before: Ints, moved: I64, after: Ints) -> AnyArray:
        """Pointers of all events into a history, in which that of each earlier user has moved."""
        users = self.source.events.users

        def shifted(part: slice) -> AnyArray:
            found = before[part] + moved[users[part]]
            self.shelf.rest(before, users)
            return found

        return rows.columns([(shifted, after)])[0]

    def _inputs(self, rows: Interleaved, before: Derived, after: Derived) -> Derived:
        """A derived feature with the inputs of all events."""
        sides = [side for side, _ in after.spec.sources]
        both = zip(sides, before.inputs, after.inputs, strict=True)
        joined = iter(rows.columns([(theirs, ours) for side, theirs, ours in both if side == "context"]))
        inputs = zip(sides, after.inputs, strict=True)
        return replace(after, inputs=tuple(next(joined) if side == "context" else ours for side, ours in inputs))

    def _shifts(self, later: Dataset) -> I64:
        """By how much the settled rows of each earlier user move, int64 [U]."""
        users = self.source.num_users
        more = tallies(later.events.users, later.num_users)[:users] - tallies(self._held_users, users)
        return offsets(more)[:-1]

    def _history(self, before: History, after: History, events: Interleaved, shifts: I64) -> tuple[History, I64]:
        """A sequence of settled and later events, and how many settled ones of each user are in it, int64 [U]."""
        open_ = np.flatnonzero(before.parts > Part.TRAIN)
        self.shelf.rest(before.parts)
        owners = np.searchsorted(before.ptr, open_, side="right") - 1
        kept = np.zeros(after.num_users, dtype=np.int64)
        kept[: before.num_users] = np.diff(before.ptr) - np.bincount(owners, minlength=before.num_users)
        settled = offsets(kept)
        own = np.repeat(settled[1:], np.diff(after.ptr))
        entries = Interleaved(len(before.items), open_, own, self.shelf)

        def moved(part: slice) -> AnyArray:
            rows = before.rows[part]
            found = np.where(rows >= 0, rows + of_each(shifts, before.ptr, part), -1)
            self.shelf.rest(before.rows)
            return found

        rows = np.full(len(after.rows), -1, dtype=row_kind(len(events)))
        here = after.rows >= 0
        rows[here] = events.places[after.rows[here]]
        items, times, parts, rows = entries.columns(
            [
                (before.items, after.items),
                (before.times, after.times),
                (_constant(int(Part.PRIOR), after.parts), after.parts),
                (moved, rows),
            ]
        )
        return History(items, times, parts, rows, offsets(kept + np.diff(after.ptr))), kept


def _constant(value: float, like: AnyArray) -> Values:
    """One value in every row, as a column of another one's dtype."""
    return lambda part: np.full((part.stop - part.start, *like.shape[1:]), value, dtype=like.dtype)
