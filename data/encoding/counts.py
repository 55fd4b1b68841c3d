"""As-of statistics of a key: how many rows it has had, and the smoothed rate of each task among them.

A training row sees strictly earlier rows only (rows of the same moment excluded); every later part sees the table as
it stood at the end of training, and a request that is answered now sees every row of the log. On logs of a real
platform these few numbers carry most of the quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...base.arrays import F32, F64, I64, Bool, Ints, Labels
from ...base.counting import STEP
from ..batch import Block
from ..schema import CountSpec
from .encoders import Encoders, stack
from .groups import Groups, Sums, combine, places_among, running, together


def statistic_names(spec: CountSpec) -> tuple[str, ...]:
    """Feature name of each statistic: `<keys>.n`, then `<keys>.<task>`."""
    return (f"{spec.name}.n", *(f"{spec.name}.{task}" for task in spec.tasks))


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
        sums: the same in whole numbers; None where labels are none, and in data sets of earlier versions.
    """

    spec: CountSpec
    sizes: tuple[int, ...]
    keys: I64
    seen: F32
    rows: F32
    positives: F32
    prior: F32
    sums: Sums | None = None

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
        before: CountTable | None = None,
    ) -> CountTable:
        """Count over the training rows.

        Args:
            spec: keys, tasks, smoothing.
            groups: the training rows by key.
            sizes: rows of each key's vocabulary.
            labels: of each of the spec's tasks [R], 0 where masked; see `flags`.
            mask: of each task bool [R].
            training: bool [R] the training rows, those of unknown keys included.
            before: of earlier rows, which are counted on; its vocabularies have grown to `sizes`.
        """
        keys, sums = groups.keys, Sums.of(groups, labels, mask, training)
        if before is not None and before.sums is not None:
            keys, sums = together(before.keys_under(sizes), before.sums, keys, sums)
        rows, positives = sums.overall
        prior = (positives / np.maximum(rows, 1)).astype(np.float32)
        return cls._summed(spec, sizes, keys, sums, prior)

    @classmethod
    def _summed(cls, spec: CountSpec, sizes: tuple[int, ...], keys: I64, sums: Sums, prior: F32) -> CountTable:
        return cls(
            spec=spec,
            sizes=sizes,
            keys=keys,
            seen=sums.seen.astype(np.float32),
            rows=sums.rows.astype(np.float32),
            positives=sums.positives.astype(np.float32),
            prior=prior,
            sums=sums if sums.exact else None,
        )

    def with_rows(self, codes: Sequence[Ints], labels: Sequence[Labels], mask: Sequence[Bool]) -> CountTable:
        """The table with further rows counted; rates are still smoothed towards those of the training rows.

        Args:
            codes: vocabulary rows of each key, int [R]; a row of an unknown key is counted nowhere.
            labels: of each of the spec's tasks [R], 0 where masked; see `flags`.
            mask: of each task bool [R].
        """
        groups = Groups.of(codes, self.sizes, np.arange(len(codes[0])))
        further = Sums.of(groups, labels, mask, np.ones(len(codes[0]), dtype=bool))
        own = self.sums or Sums(seen=self.seen, rows=self.rows, positives=self.positives, overall=further.overall * 0)
        keys, sums = together(self.keys, own, groups.keys, further)
        return self._summed(self.spec, self.sizes, keys, sums, self.prior)

    def keys_under(self, sizes: tuple[int, ...]) -> I64:
        """Its combined codes as they are where vocabularies have so many rows, int64 [M], ascending."""
        columns, rest = [], self.keys
        for size in reversed(self.sizes[1:]):
            rest, column = np.divmod(rest, size)
            columns.append(column)
        return combine([rest, *reversed(columns)], sizes)

    def earlier(self, groups: Groups, sizes: tuple[int, ...]) -> Sums | None:
        """Its sums of the keys of later rows; see `as_of`."""
        return None if self.sums is None else self.sums.at(places_among(self.keys_under(sizes), groups.keys))

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

    def sums_of(self, codes: I64) -> F64:
        """Of combined codes [B] the rows, the rows in the sample space of each task and its positives: [B, 1 + 2t]."""
        blank = np.zeros((2, len(self.prior)))
        own = self.sums or Sums(seen=self.seen, rows=self.rows, positives=self.positives, overall=blank)
        found = own.at(self._places(codes))
        return np.column_stack([found.seen, found.rows, found.positives]).astype(np.float64)

    def statistics(self, sums: F64) -> F32:
        """Statistics of such sums, as `lookup` has them: float32 [B, 1 + t]."""
        found, tasks = sums.astype(np.float32), range(len(self.prior))
        rates = [self._rate(t, found[:, 1 + t], found[:, 1 + len(tasks) + t]) for t in tasks]
        return np.stack([found[:, 0], *rates], axis=1).astype(np.float32, copy=False)

    def _places(self, codes: I64) -> Ints:
        """Place of each combined code among the keys, -1 of those that are not: by a table where many are asked."""
        size = math.prod(self.sizes)
        if size < 4 * len(codes) and codes.max(initial=-1) < size:
            table = np.full(size + 1, -1, dtype=np.int32)  # the last entry is of unknown keys, code -1
            table[self.keys] = np.arange(len(self.keys), dtype=np.int32)
            return np.asarray(table[codes])
        return places_among(self.keys, codes)

    def as_of(
        self, groups: Groups, moments: Ints, task: int | None, label: Labels, mask: Bool, earlier: Sums | None = None
    ) -> F32:
        """One statistic of every row, from strictly earlier rows of its key.

        Args:
            groups: the training rows by key.
            moments: int [G] of `groups`.
            task: whose rate; None for the number of rows.
            label: [R] of the task, 0 where masked; see `flags`.
            mask: bool [R] of the task.
            earlier: sums of each of the groups' keys over rows before all of these.

        Returns:
            Float32 [R]; rows that are not grouped have the statistic of a key without rows.
        """
        found = np.full(len(label), self._blank(task), dtype=np.float32)
        positives = None if task is None else running(label, groups.rows)
        rows = None if task is None or mask.all() else running(mask, groups.rows)  # None: every row counts
        for start in range(0, len(moments), STEP):
            moment, group = moments[start : start + STEP], groups.numbers(start, min(start + STEP, len(moments)))
            key = groups.starts[group]
            count = moment - key if rows is None else rows[moment] - rows[key]
            if earlier is not None:
                count = count + (earlier.seen[group] if task is None else earlier.rows[group, task])
            seen = count.astype(np.float32)
            if task is not None and positives is not None:
                sums = positives[moment] - positives[key]
                sums = sums if earlier is None else sums + earlier.positives[group, task]
                seen = self._rate(task, seen, sums.astype(np.float32))
            found[groups.rows[start : start + STEP]] = seen
        return found

    def _blank(self, task: int | None) -> np.float32:
        """A statistic of a key without rows."""
        nothing = np.zeros(1, dtype=np.float32)
        return np.float32(0.0) if task is None else np.float32(self._rate(task, nothing, nothing)[0])


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
        keys, first = self.keys, np.int64(0)
        if len(codes) > 1:  # pairs of one user are neighbours among the keys: few are looked at where one user asks
            first, last = keys.searchsorted((codes.min(), codes.max() + 1))
            keys = keys[first:last]
        found = np.minimum(keys.searchsorted(codes) + first, never - 1)
        rows = torch.from_numpy(np.where(self.keys.take(found) == codes, found, never))
        return Block(self.block.categorical.index_select(0, rows), self.block.numeric.index_select(0, rows))
