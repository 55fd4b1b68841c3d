"""Rows of a matrix added up with weights, as arrays: what a history says of items, without a matrix object a request.

The sums are those of a sparse product, in its order of addition: row by row of the matrix, in single precision.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

import numpy as np

from ...base.arrays import F32, I64, AnyArray
from ...base.ragged import offsets, spans

SUMS = 1 << 20
"""Sums held at once while pairs are picked out of whole rows (4 MB a thread), or as many as there are columns."""


class SparseRows(Protocol):
    """A sparse matrix by rows, such as scipy's: row r has `data[indptr[r]:indptr[r + 1]]` in the columns `indices`."""

    data: AnyArray
    indices: AnyArray
    indptr: AnyArray


class WeightedRows(NamedTuple):
    """Weighted rows of a matrix for each of B queries, one query behind the other."""

    queries: int
    """B."""
    owner: I64
    """int64 [H] query of each row, ascending."""
    rows: I64
    """int64 [H] rows of the matrix."""
    values: F32
    """float32 [H] their weights."""

    @property
    def ptr(self) -> I64:
        """Where each query's rows begin, int64 [B + 1]."""
        return offsets(np.bincount(self.owner, minlength=self.queries))

    def block(self, start: int, stop: int) -> WeightedRows:
        """The queries `start` to `stop`."""
        if stop - start == self.queries:
            return self
        first, last = np.searchsorted(self.owner, [start, stop])
        return WeightedRows(
            stop - start, self.owner[first:last] - start, self.rows[first:last], self.values[first:last]
        )


class _Sums(threading.local):
    """One buffer a thread, zero between uses."""

    buffer: F32 = np.zeros(0, dtype=np.float32)

    def of(self, size: int) -> F32:
        if len(self.buffer) < size:
            self.buffer = np.zeros(max(size, SUMS), dtype=np.float32)
        return self.buffer


_sums = _Sums()


def _entries(weighted: WeightedRows, matrix: SparseRows, columns: int) -> tuple[I64, F32]:
    """Where each entry of the rows is added, `query * columns + column` int64 [E], and what, float32 [E]."""
    starts = matrix.indptr[weighted.rows]
    lengths = matrix.indptr[weighted.rows + 1] - starts
    positions, _ = spans(starts, lengths)
    place = (weighted.owner * columns).repeat(lengths) + matrix.indices[positions]
    return place, matrix.data[positions] * weighted.values.repeat(lengths)


def summed(weighted: WeightedRows, matrix: SparseRows, columns: int) -> F32:
    """The weighted sum of each query's rows, float32 [B, columns]."""
    sums = np.zeros(weighted.queries * columns, dtype=np.float32)
    np.add.at(sums, *_entries(weighted, matrix, columns))
    return sums.reshape(weighted.queries, columns)


def summed_at(weighted: WeightedRows, matrix: SparseRows, columns: int, wanted: AnyArray) -> F32:
    """Some entries of `summed`: of each query the columns int [B, C] -> float32 [B, C]."""
    queries, at_once = weighted.queries, max(1, SUMS // max(columns, 1))
    if queries > at_once:
        stops = range(at_once, queries + at_once, at_once)
        blocks = [(weighted.block(stop - at_once, min(stop, queries)), wanted[stop - at_once : stop]) for stop in stops]
        return np.concatenate([summed_at(block, matrix, columns, part) for block, part in blocks])
    place, values = _entries(weighted, matrix, columns)
    asked = wanted if queries == 1 else wanted + np.arange(0, queries * columns, columns)[:, None]
    sums = _sums.of(queries * columns)
    try:
        np.add.at(sums, place, values)
        found: F32 = sums[asked]
    finally:
        sums[place] = 0.0
    return found


def summed_dense(weighted: WeightedRows, matrix: F32) -> F32:
    """The weighted sum of each query's rows of a dense matrix [N, M], float32 [B, M]."""
    import torch

    rows, ptr, values = (torch.from_numpy(part) for part in (weighted.rows, weighted.ptr[:-1], weighted.values))
    sums: F32 = torch.nn.functional.embedding_bag(
        rows, torch.from_numpy(matrix), ptr, mode="sum", per_sample_weights=values
    ).numpy()
    return sums


def summed_dense_at(weighted: WeightedRows, matrix: F32, wanted: AnyArray) -> F32:
    """Some entries of `summed_dense`: of each query the columns int [B, C] -> float32 [B, C]."""
    at_once = max(1, SUMS * weighted.queries // max(1, wanted.shape[1] * len(weighted.rows)))
    found = np.empty(wanted.shape, dtype=np.float32)
    for start in range(0, weighted.queries, at_once):
        block = weighted.block(start, min(start + at_once, weighted.queries))
        parts = matrix[block.rows[:, None], wanted[start : start + at_once][block.owner]]
        found[start : start + at_once] = summed_dense(block._replace(rows=np.arange(len(parts))), parts)
    return found
