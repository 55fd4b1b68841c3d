"""Rows of a matrix added up with weights, as arrays: what a history says of items, without a matrix object a request.

The sums are those of a sparse product, in its order of addition: row by row of the matrix, in single precision.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ...base.arrays import F32, I32, I64, AnyArray
from ...base.ragged import offsets, spans

SUMS = 1 << 20
"""Columns of queries held at once while pairs are picked out of whole rows (4 MB a thread), or those of one query."""


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
    """float32 [H] their weights, or [M, H] of M weightings."""

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
            stop - start, self.owner[first:last] - start, self.rows[first:last], self.values[..., first:last]
        )


class RowSum(NamedTuple):
    """A score that is the weighted sum of a matrix's rows, those of the items of a history."""

    matrix: SparseRows | F32
    """[N, N]"""
    last: int | None
    """Only the last so many events count; none: all."""
    decay: float
    """Factor per event of age."""


class _Places(threading.local):
    """One buffer a thread, -1 between uses."""

    buffer: I32 = np.zeros(0, dtype=np.int32)

    def of(self, size: int) -> I32:
        if len(self.buffer) < size:
            self.buffer = np.full(max(size, SUMS), -1, dtype=np.int32)
        return self.buffer


_places = _Places()


def _entries(rows: I64, matrix: SparseRows) -> tuple[I64, I64, I64]:
    """Every entry of rows [H] of a matrix: its column, its position in the matrix, and which of the H rows it is of."""
    starts = matrix.indptr[rows]
    lengths = matrix.indptr[rows + 1] - starts
    positions, _ = spans(starts, lengths)
    return matrix.indices.take(positions), positions, np.arange(len(lengths)).repeat(lengths)


def summed(weighted: WeightedRows, matrix: SparseRows, columns: int) -> F32:
    """The weighted sum of each query's rows, float32 [B, columns]."""
    sums = np.zeros(weighted.queries * columns, dtype=np.float32)
    column, positions, row = _entries(weighted.rows, matrix)
    np.add.at(sums, weighted.owner[row] * columns + column, matrix.data[positions] * weighted.values[row])
    return sums.reshape(weighted.queries, columns)


def summed_at(
    weighted: WeightedRows, matrices: Sequence[SparseRows], of: Sequence[int], columns: int, wanted: AnyArray
) -> F32:
    """Some entries of `summed`, by several matrices: what is not wanted is left out before it is added up.

    Args:
        weighted: with M weightings, `values` [M, H].
        matrices: of as many columns.
        of: which matrix each weighting is of, M of them, rising.
        columns: of each matrix.
        wanted: int [B, C] columns of each query.

    Returns:
        float32 [M, B, C].
    """
    queries, at_once = weighted.queries, max(1, SUMS // max(columns, 1))
    if queries > at_once:
        found = np.empty((len(of), *wanted.shape), dtype=np.float32)
        for start in range(0, queries, at_once):
            part = slice(start, min(start + at_once, queries))
            found[:, part] = summed_at(weighted.block(part.start, part.stop), matrices, of, columns, wanted[part])
        return found
    asked = wanted.reshape(-1)
    if queries > 1:
        asked = asked + np.arange(0, queries * columns, columns).repeat(wanted.shape[1])
    sums = np.zeros((len(of), len(asked)), dtype=np.float32)
    places = _places.of(queries * columns)
    places[asked] = np.arange(len(asked), dtype=np.int32)
    try:
        read = -1
        for one, weights, which in zip(sums, weighted.values, of, strict=True):
            if which != read:
                matrix, read = matrices[which], which
                column, positions, row = _entries(weighted.rows, matrix)
                target = places.take(column if queries == 1 else weighted.owner[row] * columns + column)
                kept = (target >= 0).nonzero()[0]
                target, row, data = target.take(kept), row.take(kept), matrix.data.take(positions.take(kept))
            np.add.at(one, target, data * weights.take(row))
        again = places.take(asked)  # a column asked twice has one place
    finally:
        places[asked] = -1
    return sums.take(again, axis=1).reshape(len(of), *wanted.shape)


def summed_dense(weighted: WeightedRows, matrix: F32) -> F32:
    """The weighted sum of each query's rows of a dense matrix [N, M], float32 [B, M]."""
    import torch

    rows, ptr, values = (torch.from_numpy(part) for part in (weighted.rows, weighted.ptr[:-1], weighted.values))
    sums: F32 = torch.nn.functional.embedding_bag(
        rows, torch.from_numpy(matrix), ptr, mode="sum", per_sample_weights=values
    ).numpy()
    return sums


def summed_dense_at(weighted: WeightedRows, matrix: F32, wanted: AnyArray) -> F32:
    """Some entries of `summed_dense` for M weightings, `values` [M, H]: of each query the columns int [B, C] ->
    float32 [M, B, C].
    """
    at_once = max(1, SUMS * weighted.queries // max(1, wanted.shape[1] * len(weighted.rows)))
    found = np.empty((len(weighted.values), *wanted.shape), dtype=np.float32)
    for start in range(0, weighted.queries, at_once):
        block = weighted.block(start, min(start + at_once, weighted.queries))
        parts = matrix[block.rows[:, None], wanted[start : start + at_once][block.owner]]
        own = block._replace(rows=np.arange(len(parts)))
        for one, weights in zip(found, block.values, strict=True):
            one[start : start + at_once] = summed_dense(own._replace(values=weights), parts)
    return found
