"""Rows of a log key by key, and sums over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import F64, I64, AnyArray, Bool, Ints, Labels
from ...base.counting import STEP, counting_order
from ..vocabulary import FIRST

U8 = NDArray[np.uint8]


def combine(codes: Sequence[Ints], sizes: tuple[int, ...]) -> I64:
    """One code per row from one or two key columns; -1 where any key is unknown.

    Args:
        codes: vocabulary rows of each key (1 = unknown), broadcastable against one another.
        sizes: rows of each key's vocabulary.
    """
    known = codes[0] >= FIRST
    combined = codes[0].astype(np.int64)
    for column, size in zip(codes[1:], sizes[1:], strict=True):
        known = known & (column >= FIRST)
        combined = combined * size + column
    return np.where(known, combined, -1)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Rows of a log key by key.

    Attributes:
        rows: int [G] rows whose key is known, those of a key from the earliest to the latest.
        starts: int64 [M + 1] where the rows of each key begin.
        keys: int64 [M] combined codes, ascending.
    """

    rows: Ints
    starts: I64
    keys: I64

    @classmethod
    def of(cls, codes: Sequence[Ints], sizes: tuple[int, ...], in_time: Ints) -> Groups:
        """Group by one or two key columns, by a counting sort for each.

        Args:
            codes: vocabulary rows of each key, int [R].
            sizes: rows of each key's vocabulary.
            in_time: int [n] rows that count, from the earliest to the latest.
        """
        rows = in_time
        for column in codes:
            known = column[rows] >= FIRST
            rows = rows if known.all() else rows[known]
        for column, size in zip(reversed(codes), reversed(sizes), strict=True):
            rows = rows[counting_order(column[rows], size)]
        new = np.zeros(len(rows), dtype=bool)
        new[:1] = True
        for column in codes:
            ordered = column[rows]
            new[1:] |= ordered[1:] != ordered[:-1]
        first = np.flatnonzero(new)
        at = rows[first]
        return cls(rows=rows, starts=np.append(first, len(rows)), keys=combine([column[at] for column in codes], sizes))

    def totals(self, values: AnyArray) -> AnyArray:
        """Sum of the values [R] of each key's rows, [M]: whole numbers of flags."""
        return np.diff(running(values, self.rows)[self.starts])

    def numbers(self, start: int, stop: int) -> Ints:
        """Place among `keys` of the rows from one place among `rows` up to another."""
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        bounds = np.clip(self.starts[first : last + 2], start, stop)
        return np.repeat(np.arange(first, last + 1), np.diff(bounds))

    def moments(self, times: F64) -> Ints:
        """Where among `rows` the rows of the same key and moment begin, of each: int [G]."""
        begins: Ints = np.zeros(len(self.rows), dtype=np.int32 if len(self.rows) < 2**31 else np.int64)
        begins[self.starts[:-1]] = self.starts[:-1]
        for start in range(1, len(begins), STEP):
            time = times[self.rows[start - 1 : start + STEP]]
            later = np.flatnonzero(time[1:] != time[:-1]) + start
            begins[later] = later
        np.maximum.accumulate(begins, out=begins)
        return begins


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What statistics are made of, from which a later data set counts on.

    Attributes:
        seen: int [M] training rows of each key.
        rows: int [M, t] training rows in each task's sample space.
        positives: int [M, t] sum of their labels; numbers of any kind where labels are no flags.
        overall: float64 [2, t] rows and labels of all training rows, those of unknown keys included.
    """

    seen: AnyArray
    rows: AnyArray
    positives: AnyArray
    overall: F64

    @classmethod
    def of(cls, groups: Groups, labels: Sequence[Labels], mask: Sequence[Bool], training: Bool) -> Sums:
        """Count the training rows; arguments as of `CountTable.fit`."""
        blank = np.empty((len(groups.keys), 0), dtype=np.int32)
        seen = np.diff(groups.starts)
        overall = [
            (float((known & training).sum()), float(label.sum(where=training, dtype=np.float64)))
            for label, known in zip(labels, mask, strict=True)
        ]
        return cls(
            seen=_narrowed(seen),
            rows=_narrowed(np.stack([seen if one.all() else groups.totals(one) for one in mask], axis=1))
            if mask
            else blank,
            positives=_narrowed(np.stack([groups.totals(one) for one in labels], axis=1)) if labels else blank,
            overall=np.array(overall, dtype=np.float64).reshape(len(overall), 2).T,
        )

    def at(self, places: Ints) -> Sums:
        """The sums of the given places [n], 0 where there is none (-1)."""
        here = places >= 0

        def taken(values: AnyArray) -> AnyArray:
            found = np.zeros((len(places), *values.shape[1:]), dtype=values.dtype)
            found[here] = values[places[here]]
            return found

        return replace(self, seen=taken(self.seen), rows=taken(self.rows), positives=taken(self.positives))

    def __add__(self, other: Sums) -> Sums:
        """Sums of the same keys together."""
        names = ("seen", "rows", "positives")
        both = {name: (getattr(self, name), getattr(other, name)) for name in names}
        wide = {name: one.astype(np.result_type(one, np.int64)) + another for name, (one, another) in both.items()}
        return Sums(**{name: _narrowed(values) for name, values in wide.items()}, overall=self.overall + other.overall)

    @property
    def exact(self) -> bool:
        """Whether all are whole numbers: only these can be counted on to the last bit."""
        return bool(self.positives.dtype.kind == "i")


def flags(values: Labels) -> Labels:
    """Labels [R] as uint8 where all are 0 or 1: their sums are whole numbers; else as they are."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values, dtype=np.uint8)
    found = np.empty(len(values), dtype=np.uint8)
    for start in range(0, len(values), STEP):
        part = values[start : start + STEP]
        found[start : start + STEP] = part == 1
        if not ((part == 0) | (part == 1)).all():
            return values
    return found


def places_among(keys: I64, codes: I64) -> Ints:
    """Place of each code [n] among ascending keys, -1 of those that are not there."""
    if not len(keys):
        return np.full(len(codes), -1)
    at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
    return np.where(keys[at] == codes, at, -1)


def together(keys: I64, sums: Sums, more_keys: I64, more: Sums) -> tuple[I64, Sums]:
    """Sums of the rows of two lists of keys, both ascending."""
    both = np.sort(np.concatenate([keys, more_keys]), kind="stable")  # two rising runs are merged
    all_keys: I64 = both[np.append(True, both[1:] != both[:-1])[: len(both)]]
    return all_keys, sums.at(places_among(keys, all_keys)) + more.at(places_among(more_keys, all_keys))


def _narrowed(values: AnyArray) -> AnyArray:
    """Whole numbers as int32 where it holds them."""
    small = values.dtype.kind == "i" and int(values.max(initial=0)) < 2**31
    return values.astype(np.int32) if small else values


def running(values: AnyArray, rows: Ints) -> AnyArray:
    """Sums of the values [R] of the first 0, 1, ... of the given rows [G], [G + 1]: whole numbers of flags."""
    kind = np.dtype(np.float64 if values.dtype.kind == "f" else np.int32 if len(rows) < 2**31 else np.int64)
    sums = np.zeros(len(rows) + 1, dtype=kind)
    for start in range(0, len(rows), STEP):
        sums[start + 1 : start + STEP + 1] = values[rows[start : start + STEP]]
    return np.cumsum(sums, out=sums)
