"""Which values of a full vocabulary leave for new ones: those that were last seen the longest ago.

A vocabulary with `max_rows` that goes on over days would otherwise keep its first values for ever. A value of a
training row of the day never leaves; of the others the least recent ones do, as many as there are new values for. The
freed rows stand for the new values, and what still names an old one is `unknown` from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ...base.arrays import F64, I64, AnyArray, Bool, Ints
from ...base.counting import STEP
from ..dataset import Dataset
from ..feature_spec import FeatureSpec, Side
from ..packed import Packed
from ..shelf import Shelf
from ..split import Part
from ..texts import Texts
from ..vocabulary import FIRST, UNKNOWN, Vocabulary
from .encoders import Column, Encoders
from .raw_columns import RawColumns
from .settled import Settled

Members: TypeAlias = Sequence[tuple[FeatureSpec, Column]]


@dataclass(frozen=True)
class Renewed:
    """A vocabulary on a later day.

    Attributes:
        vocabulary: values that stay have the rows they had.
        freed: int64 [F] rows that stand for another value than before, ascending.
        since: the latest moment at which one of those that left was seen; -inf where none left or none was seen.
    """

    vocabulary: Vocabulary
    freed: I64
    since: float = -np.inf

    @classmethod
    def of(cls, before: Vocabulary, wide: Vocabulary, last: F64, begins: float, limit: int) -> Renewed:
        """Make room for new values.

        Args:
            before: of the earlier day.
            wide: the same with the new values behind, the most frequent first.
            last: float64 [len(wide)] when each was last seen, -inf where it was not.
            begins: the earliest moment of the day's training rows.
            limit: most values.
        """
        fresh = np.flatnonzero(last[len(before) :] >= begins) + len(before)
        stale = np.flatnonzero(last[FIRST : len(before)] < begins) + FIRST
        stale = stale[np.argsort(last[stale], kind="stable")]
        places = max(limit - len(before.values), 0)
        freed = np.sort(stale[: max(len(fresh) - places, 0)])
        rows = np.arange(FIRST, len(before))
        rows[freed - FIRST] = fresh[: len(freed)]
        rows = np.concatenate([rows, fresh[len(freed) : len(freed) + places]])
        since = float(last[freed].max(initial=-np.inf))
        return cls(Vocabulary(Texts(wide.values.array.take(rows - FIRST))), freed, since)

    @property
    def moved(self) -> I64:
        """Row that each earlier row's value has now, `UNKNOWN` where it left; rows behind are not asked for."""
        rows = np.arange(len(self.vocabulary))
        rows[self.freed] = UNKNOWN
        return rows


@dataclass(frozen=True)
class LastSeen:
    """When values were last seen, in the training rows of the day and in all that was before.

    Attributes:
        raw: columns by row.
        old: the earlier data set.
        settled: rows of it that are not in the log.
        known: bool [R] rows that what is learned may know.
        kept: side -> row of the earlier data set that each row's values are taken from, -1 for its own.
        theirs: side -> the earlier data set's row of each user or item, -1 for new ones.
    """

    raw: RawColumns
    old: Dataset
    settled: Settled | None
    known: Bool
    kept: Mapping[Side, I64]
    theirs: Mapping[Side, I64]

    @property
    def begins(self) -> float:
        """The earliest moment of the day's training rows."""
        events = self.raw.events
        return float(events.times.min(where=events.parts == Part.TRAIN, initial=np.inf))

    def of(self, members: Members, vocabulary: Vocabulary) -> F64:
        """Moment of each value, float64 [V], -inf where none is known.

        Args:
            members: features of the vocabulary, with their columns.
            vocabulary: the earlier one with further values behind.
        """
        last = np.full(len(vocabulary), -np.inf)
        for spec, column in members:
            codes, kept = _coded(spec, column, vocabulary), self.kept[spec.side]
            if spec.side == "context":
                self._add_earlier_rows(last, spec)
                _raise_to(last, codes, self.raw.events.times, self.known & (kept < 0))
                continue
            if not self.raw.is_id(spec):
                at = np.flatnonzero(kept >= 0)
                codes[at] = _codes_of(self.old, spec, kept[at])
            _raise_to(last, codes, self._of_entities(spec.side))
        return last

    def _add_earlier_rows(self, last: F64, spec: FeatureSpec) -> None:
        """Values of a context feature in event rows of the earlier data set."""
        kept = self.kept["context"]
        carried = kept[kept >= 0] if self.settled is None else None
        for start in range(0, len(self.old.events) if carried is None else len(carried), STEP):
            stop = min(start + STEP, len(self.old.events))
            rows = np.arange(start, stop) if carried is None else carried[start : start + STEP]
            _raise_to(last, _codes_of(self.old, spec, rows), self.old.events.times[rows])
            self.raw.rest()

    def _of_entities(self, side: Side) -> F64:
        """When each user or item was last seen, float64 [U] or [N]."""
        events, earlier, theirs = self.raw.events, self.old.events, self.theirs[side]
        found = np.full(len(theirs), -np.inf)
        _raise_to(found, events.users if side == "user" else events.items, events.times, self.known)
        if self.settled is not None:
            before = np.full(max(self.old.num_users, len(self.old.item_ids)), -np.inf)
            _raise_to(before, earlier.users if side == "user" else earlier.items, earlier.times)
            found = np.maximum(found, np.where(theirs >= 0, before[np.maximum(theirs, 0)], -np.inf))
        return found


def _raise_to(last: F64, codes: Ints, times: F64, rows: Bool | None = None) -> None:
    """The latest of the times [n] at which each code [n] or [n, L] stands, of the given rows (bool [n])."""
    for start in range(0, len(codes), STEP):
        part = slice(start, start + STEP)
        code, time = codes[part], times[part]
        time = np.where(np.isnan(time) if rows is None else ~rows[part] | np.isnan(time), -np.inf, time)
        time = np.broadcast_to(time if code.ndim == 1 else time[:, None], code.shape)
        np.maximum.at(last, code[code >= 0], time[code >= 0])


def _coded(spec: FeatureSpec, column: Column, vocabulary: Vocabulary) -> Ints:
    """Rows of a raw column, int [n], or [n, L] of several values."""
    encoders = Encoders({spec.name: vocabulary}, {})
    return encoders.bag(spec, column) if spec.in_bag else encoders.codes(spec.name, column)


def _codes_of(dataset: Dataset, spec: FeatureSpec, rows: I64) -> Ints:
    """Rows of a vocabulary in some rows of an encoded data set, int [n] or [n, L]."""
    if spec.after_event:
        return dataset.event_codes[spec.name][rows]
    tables = {"user": dataset.users, "item": dataset.items, "context": dataset.row_query}
    table, layout = tables[spec.side], dataset.sides[spec.side]
    if spec.in_bag:
        return table.bags[layout.bags.index(spec.name)][rows]
    return table.codes(layout.categorical.index(spec.name), rows)


def recoded(dataset: Dataset, moved: Mapping[str, I64], shelf: Shelf) -> Dataset:
    """A data set whose rows name other rows of some vocabularies.

    Args:
        dataset: encoded; its arrays stay as they are.
        moved: feature -> the new row of each row of its vocabulary.
        shelf: keeps the new arrays.
    """
    tables: dict[str, Packed] = {}
    sides: tuple[tuple[str, Side], ...] = (("users", "user"), ("items", "item"), ("row_query", "context"))
    for name, side in sides:
        table, layout = getattr(dataset, name), dataset.sides[side]
        arrays = {True: table.small, False: table.wide}
        for narrow, array in arrays.items():
            columns = {
                table.narrow[:place].count(narrow): moved[feature]
                for place, feature in enumerate(layout.categorical)
                if feature in moved and table.narrow[place] == narrow
            }
            arrays[narrow] = _with_columns(array, columns, shelf)
        bags = tuple(
            _with_columns(bag, dict.fromkeys(range(bag.shape[1]), moved[feature]), shelf) if feature in moved else bag
            for feature, bag in zip(layout.bags, table.bags, strict=True)
        )
        tables[name] = replace(table, small=arrays[True], wide=arrays[False], bags=bags)
    events = {
        name: _with_columns(codes[:, None], {0: moved[name]}, shelf)[:, 0] if name in moved else codes
        for name, codes in dataset.event_codes.items()
    }
    return replace(dataset, **tables, event_codes=events)  # type: ignore[arg-type]


def _with_columns(array: AnyArray, columns: Mapping[int, I64], shelf: Shelf) -> AnyArray:
    """An array [n, c] with the codes of some columns replaced; the array itself where there are none."""
    if not columns:
        return array
    found = shelf.empty(array.shape, array.dtype)
    for start in range(0, len(array), STEP):
        part = slice(start, start + STEP)
        found[part] = array[part]
        for place, rows in columns.items():
            found[part, place] = rows[array[part, place]]
    shelf.rest(found, array)
    return found
