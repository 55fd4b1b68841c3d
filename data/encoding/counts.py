"""As-of statistics of a key: how many rows it has had, and the smoothed rate of each task among them.

A training row sees strictly earlier rows only (rows of the same moment excluded); every later part sees the table as
it stood at the end of training, and a request that is answered now sees every row of the log. On logs of a real
platform these few numbers carry most of the quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ...base.arrays import F32, F64, I64, AnyArray, Bool, Floats, Ints
from ...base.counting import STEP, counting_order
from ..batch import Block
from ..schema import CountSpec
from ..vocabulary import FIRST
from .encoders import Encoders, stack

U8 = NDArray[np.uint8]
Labels: TypeAlias = Floats | U8


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


def statistic_names(spec: CountSpec) -> tuple[str, ...]:
    """Feature name of each statistic: `<keys>.n`, then `<keys>.<task>`."""
    return (f"{spec.name}.n", *(f"{spec.name}.{task}" for task in spec.tasks))


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

    def totals(self, values: AnyArray) -> F32:
        """Sum of the values [R] of each key's rows, float32 [M]."""
        running = _running(values, self.rows)
        return np.diff(running[self.starts]).astype(np.float32)

    def begins(self, start: int, stop: int) -> I64:
        """Where the rows of the same key begin, of the rows from one place among `rows` up to another."""
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        bounds = np.clip(self.starts[first : last + 2], start, stop)
        return np.repeat(self.starts[first : last + 1], np.diff(bounds))

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
class CountTable:
    """Statistics of every key, at the end of training or later.

    Attributes:
        spec: keys, tasks, smoothing.
        sizes: rows of each key's vocabulary.
        keys: int64 [M] combined codes, ascending.
        seen: float32 [M] rows of each key.
        rows: float32 [M, t] rows in each task's sample space.
        positives: float32 [M, t] of which positive.
        prior: float32 [t] overall training rate of each task.
    """

    spec: CountSpec
    sizes: tuple[int, ...]
    keys: I64
    seen: F32
    rows: F32
    positives: F32
    prior: F32

    @property
    def names(self) -> tuple[str, ...]:
        """See `statistic_names`."""
        return statistic_names(self.spec)

    @classmethod
    def fit(
        cls,
        spec: CountSpec,
        groups: Groups,
        sizes: tuple[int, ...],
        labels: Sequence[Labels],
        mask: Sequence[Bool],
        training: Bool,
    ) -> CountTable:
        """Count over the training rows.

        Args:
            spec: keys, tasks, smoothing.
            groups: the training rows by key.
            sizes: rows of each key's vocabulary.
            labels: of each of the spec's tasks [R], 0 where masked; see `flags`.
            mask: of each task bool [R].
            training: bool [R] the training rows, those of unknown keys included.
        """
        prior = [
            float(label.sum(where=training, dtype=np.float64)) / max(int((known & training).sum()), 1)
            for label, known in zip(labels, mask, strict=True)
        ]
        return cls._over(spec, groups, sizes, labels, mask, np.array(prior, dtype=np.float32))

    @classmethod
    def _over(
        cls,
        spec: CountSpec,
        groups: Groups,
        sizes: tuple[int, ...],
        labels: Sequence[Labels],
        mask: Sequence[Bool],
        prior: F32,
    ) -> CountTable:
        """Count over the rows of some groups."""
        blank = np.empty((len(groups.keys), 0), dtype=np.float32)
        seen = np.diff(groups.starts).astype(np.float32)
        return cls(
            spec=spec,
            sizes=sizes,
            keys=groups.keys,
            seen=seen,
            rows=np.stack([seen if one.all() else groups.totals(one) for one in mask], axis=1) if mask else blank,
            positives=np.stack([groups.totals(one) for one in labels], axis=1) if labels else blank,
            prior=prior,
        )

    def with_rows(self, codes: Sequence[Ints], labels: Sequence[Labels], mask: Sequence[Bool]) -> CountTable:
        """The table with further rows counted; rates are still smoothed towards those of the training rows.

        Args:
            codes: vocabulary rows of each key, int [R]; a row of an unknown key is counted nowhere.
            labels: of each of the spec's tasks [R], 0 where masked; see `flags`.
            mask: of each task bool [R].
        """
        groups = Groups.of(codes, self.sizes, np.arange(len(codes[0])))
        further = CountTable._over(self.spec, groups, self.sizes, labels, mask, self.prior)
        keys = np.union1d(self.keys, further.keys)

        def sums(own: F32, theirs: F32) -> F32:
            found = np.zeros((len(keys), *own.shape[1:]), dtype=np.float32)
            found[np.searchsorted(keys, self.keys)] = own
            found[np.searchsorted(keys, further.keys)] += theirs
            return found

        return replace(
            self,
            keys=keys,
            seen=sums(self.seen, further.seen),
            rows=sums(self.rows, further.rows),
            positives=sums(self.positives, further.positives),
        )

    def _rate(self, task: int, rows: F32, positives: F32) -> F32:
        """Smoothed rate of one task, float32 [n]."""
        smoothing = self.spec.smoothing
        return np.asarray((positives + smoothing * self.prior[task]) / (rows + smoothing), dtype=np.float32)

    def lookup(self, codes: I64) -> F32:
        """Statistics of combined codes [B] -> float32 [B, 1 + t]; a key never seen has 0 rows and the prior."""
        places = self._places(codes)
        tasks = range(len(self.prior))
        seen = np.append(self.seen, np.float32(0.0))  # place -1 is of a key never seen
        rows, positives = (
            np.append(one, np.zeros((1, len(tasks)), np.float32), 0) for one in (self.rows, self.positives)
        )
        rates = [self._rate(t, rows[:, t], positives[:, t])[places] for t in tasks]
        return np.stack([seen[places], *rates], axis=1).astype(np.float32, copy=False)

    def _places(self, codes: I64) -> Ints:
        """Place of each combined code among the keys, -1 of those that are not: by a table where many are asked."""
        size = math.prod(self.sizes)
        if size < 4 * len(codes) and codes.max(initial=-1) < size:
            table = np.full(size + 1, -1, dtype=np.int32)  # the last entry is of unknown keys, code -1
            table[self.keys] = np.arange(len(self.keys), dtype=np.int32)
            return np.asarray(table[codes])
        if not len(self.keys):
            return np.full(len(codes), -1)
        at = np.minimum(np.searchsorted(self.keys, codes), len(self.keys) - 1)
        return np.where(self.keys[at] == codes, at, -1)

    def as_of(self, groups: Groups, moments: Ints, task: int | None, label: Labels, mask: Bool) -> F32:
        """One statistic of every row, from strictly earlier rows of its key.

        Args:
            groups: the training rows by key.
            moments: int [G] of `groups`.
            task: whose rate; None for the number of rows.
            label: [R] of the task, 0 where masked; see `flags`.
            mask: bool [R] of the task.

        Returns:
            Float32 [R]; rows that are not grouped have the statistic of a key without rows.
        """
        found = np.full(len(label), self._blank(task), dtype=np.float32)
        positives = None if task is None else _running(label, groups.rows)
        rows = None if task is None or mask.all() else _running(mask, groups.rows)  # None: every row counts
        for start in range(0, len(moments), STEP):
            moment, key = moments[start : start + STEP], groups.begins(start, min(start + STEP, len(moments)))
            seen = (moment - key if rows is None else rows[moment] - rows[key]).astype(np.float32)
            if task is not None and positives is not None:
                seen = self._rate(task, seen, (positives[moment] - positives[key]).astype(np.float32))
            found[groups.rows[start : start + STEP]] = seen
        return found

    def _blank(self, task: int | None) -> np.float32:
        """A statistic of a key without rows."""
        nothing = np.zeros(1, dtype=np.float32)
        return np.float32(0.0) if task is None else np.float32(self._rate(task, nothing, nothing)[0])


def flags(values: Floats) -> Labels:
    """Labels [R] as uint8 where all are 0 or 1: their sums are whole numbers; else as they are."""
    found = np.empty(len(values), dtype=np.uint8)
    for start in range(0, len(values), STEP):
        part = values[start : start + STEP]
        found[start : start + STEP] = part == 1
        if not ((part == 0) | (part == 1)).all():
            return values
    return found


def _running(values: AnyArray, rows: Ints) -> AnyArray:
    """Sums of the values [R] of the first 0, 1, ... of the given rows [G], [G + 1]: whole numbers of flags."""
    kind = np.dtype(np.float64 if values.dtype.kind == "f" else np.int32 if len(rows) < 2**31 else np.int64)
    running = np.zeros(len(rows) + 1, dtype=kind)
    for start in range(0, len(rows), STEP):
        running[start + 1 : start + STEP + 1] = values[rows[start : start + STEP]]
    return np.cumsum(running, out=running)


def encode_counts(columns: Sequence[tuple[str, F32]], encoders: Encoders, rows: int) -> Block:
    """Statistics by name -> buckets and scaled numbers, as a block of `rows` rows."""
    return Block(
        stack([encoders.numerics[name].buckets(values) for name, values in columns], rows, torch.int64),
        stack([encoders.numerics[name].scaled(values) for name, values in columns], rows, torch.float32),
    )


@dataclass(frozen=True)
class EncodedCounts:
    """A table with the statistics of every key encoded, so that a request looks its own up and computes none.

    Attributes:
        names: of the statistics, see `CountTable.names`.
        sizes: rows of each key's vocabulary.
        keys: int64 [M] combined codes, ascending.
        block: encoded statistics of the M keys, and in row M those of a key never seen.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    keys: I64
    block: Block

    @classmethod
    def of(cls, table: CountTable, encoders: Encoders) -> EncodedCounts:
        """Encode a table."""
        statistics = table.lookup(np.append(table.keys, -1))
        block = encode_counts(list(zip(table.names, statistics.T, strict=True)), encoders, len(statistics))
        return cls(table.names, table.sizes, table.keys, block)

    def at(self, codes: I64) -> Block:
        """What `encode_counts` makes of `CountTable.lookup`: combined codes [R] -> a block of R rows."""
        never = len(self.keys)
        if not never:
            return self.block.select(torch.zeros(len(codes), dtype=torch.int64))
        found = np.minimum(np.searchsorted(self.keys, codes), never - 1)
        rows = torch.from_numpy(np.where(self.keys[found] == codes, found, never))
        return Block(self.block.categorical.index_select(0, rows), self.block.numeric.index_select(0, rows))
