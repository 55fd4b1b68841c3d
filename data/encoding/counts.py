"""As-of statistics of a key: how many rows it has had, and the smoothed rate of each task among them.

A training row sees strictly earlier rows only (rows of the same moment excluded); every later part sees the table as
it stood at the end of training. On logs of a real platform these few numbers carry most of the quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...base.arrays import F32, F64, I64, Bool
from ..batch import Block
from ..schema import CountSpec
from ..vocabulary import FIRST
from .encoders import Encoders, stack


def combine(codes: list[I64], sizes: tuple[int, ...]) -> I64:
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
class CountTable:
    """Statistics of every key at the end of training.

    Attributes:
        spec: keys, tasks, smoothing.
        sizes: rows of each key's vocabulary.
        keys: int64 [M] combined codes, ascending.
        seen: float32 [M] training rows of each key.
        rows: float32 [M, t] training rows in each task's sample space.
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
        """Feature name of each statistic: `<keys>.n`, then `<keys>.<task>`."""
        return (f"{self.spec.name}.n", *(f"{self.spec.name}.{task}" for task in self.spec.tasks))

    @classmethod
    def fit(cls, spec: CountSpec, codes: I64, sizes: tuple[int, ...], labels: F32, mask: Bool) -> CountTable:
        """Count over the training rows.

        Args:
            codes: int64 [R] combined codes of the training rows.
            sizes: rows of each key's vocabulary.
            labels: float32 [R, t] labels of the spec's tasks, 0 where masked.
            mask: bool [R, t].
        """
        keys, inverse = np.unique(codes, return_inverse=True)

        def total(values: NDArray[np.generic]) -> F32:
            return np.bincount(inverse, weights=values, minlength=len(keys)).astype(np.float32)

        tasks = range(labels.shape[1])
        rows = np.stack([total(mask[:, t]) for t in tasks], axis=1) if tasks else np.empty((len(keys), 0), np.float32)
        positives = np.stack([total(labels[:, t]) for t in tasks], axis=1) if tasks else rows
        prior = (labels.sum(0) / np.maximum(mask.sum(0), 1)).astype(np.float32)
        known = keys >= 0
        seen = total(np.ones(len(codes)))
        return cls(
            spec=spec,
            sizes=sizes,
            keys=keys[known],
            seen=seen[known],
            rows=rows[known],
            positives=positives[known],
            prior=prior,
        )

    def _statistics(self, seen: F32, rows: F32, positives: F32) -> F32:
        rate = (positives + self.spec.smoothing * self.prior) / (rows + self.spec.smoothing)
        return np.concatenate([seen[:, None], rate], axis=1).astype(np.float32)

    def lookup(self, codes: I64) -> F32:
        """Frozen statistics of combined codes [B] -> float32 [B, 1 + t]; a key never seen has 0 rows and the prior."""
        if not len(self.keys):
            blank = np.zeros((len(codes), self.rows.shape[1]), np.float32)
            return self._statistics(np.zeros(len(codes), np.float32), blank, blank)
        at = np.minimum(np.searchsorted(self.keys, codes), len(self.keys) - 1)
        known = self.keys[at] == codes
        return self._statistics(
            np.where(known, self.seen[at], 0.0).astype(np.float32),
            np.where(known[:, None], self.rows[at], 0.0).astype(np.float32),
            np.where(known[:, None], self.positives[at], 0.0).astype(np.float32),
        )

    def as_of(self, codes: I64, times: F64, labels: F32, mask: Bool) -> F32:
        """Statistics of each training row from strictly earlier training rows of its key: float32 [R, 1 + t].

        Args:
            codes: int64 [R] combined codes.
            times: float64 [R] seconds.
            labels: float32 [R, t] labels, 0 where masked.
            mask: bool [R, t].
        """
        order = np.lexsort((times, codes))
        code, time = codes[order], times[order]
        new_key = np.append(True, code[1:] != code[:-1])
        new_moment = new_key | np.append(True, time[1:] != time[:-1])
        key_start = np.maximum.accumulate(np.where(new_key, np.arange(len(code)), 0))
        moment_start = np.maximum.accumulate(np.where(new_moment, np.arange(len(code)), 0))

        def before(values: NDArray[np.generic]) -> F32:
            running = np.concatenate(
                [np.zeros((1, values.shape[1])), np.cumsum(values[order], axis=0, dtype=np.float64)]
            )
            earlier = (running[moment_start] - running[key_start]).astype(np.float32)
            earlier[code < 0] = 0.0
            unsorted = np.empty_like(earlier)
            unsorted[order] = earlier
            return np.asarray(unsorted, dtype=np.float32)

        seen = before(np.ones((len(codes), 1)))[:, 0]
        return self._statistics(np.asarray(seen, dtype=np.float32), before(mask), before(labels))


def encode_counts(columns: Sequence[tuple[str, F32]], encoders: Encoders, rows: int) -> Block:
    """Statistics by name -> buckets and scaled numbers, as a block of `rows` rows."""
    return Block(
        stack([encoders.numerics[name].buckets(values) for name, values in columns], rows, torch.int64),
        stack([encoders.numerics[name].scaled(values) for name, values in columns], rows, torch.float32),
    )


@dataclass(frozen=True)
class EncodedCounts:
    """A frozen table with the statistics of every key encoded, so that a request looks its own up and computes none.

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
