"""Rows of a matrix added up with weights, as arrays: what a history says of items, without a matrix object a request.

The sums are those of a sparse product, in its order of addition: row by row of the matrix, in single precision.
"""

from __future__ import annotations

import threading
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

    @property
    def kinds(self) -> F32:
        """Their weights by kind of weighting, float32 [M, H]."""
        return self.values if self.values.ndim == 2 else self.values[None]

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


def _entries(weighted: WeightedRows, matrix: SparseRows, columns: int) -> tuple[I64, I64, I64]:
    """Every entry of the rows: where it is added, `query * columns + column`, its position in the matrix, and which of
    the H rows it is of: three int64 [E].
    """
    starts = matrix.indptr[weighted.rows]
    lengths = matrix.indptr[weighted.rows + 1] - starts
    positions, _ = spans(starts, lengths)
    place = matrix.indices.take(positions)
    if weighted.queries > 1:
        place = (weighted.owner * columns).repeat(lengths) + place
    return place, positions, np.arange(len(lengths)).repeat(lengths)


def summed(weighted: WeightedRows, matrix: SparseRows, columns: int) -> F32:
    """The weighted sum of each query's rows, float32 [B, columns]."""
    sums = np.zeros(weighted.queries * columns, dtype=np.float32)
    place, positions, row = _entries(weighted, matrix, columns)
    np.add.at(sums, place, matrix.data[positions] * weighted.values[row])
    return sums.reshape(weighted.queries, columns)


def summed_at(weighted: WeightedRows, matrix: SparseRows, columns: int, wanted: AnyArray) -> F32:
    """Some entries of `summed`: of each query the columns int [B, C] -> float32 [B, C], or [M, B, C] of M weightings.

    What is not wanted is left out before it is added up.
    """
    queries, at_once = weighted.queries, max(1, SUMS // max(columns, 1))
    if queries > at_once:
        stops = range(at_once, queries + at_once, at_once)
        blocks = [(weighted.block(stop - at_once, min(stop, queries)), wanted[stop - at_once : stop]) for stop in stops]
        return np.concatenate([summed_at(block, matrix, columns, part) for block, part in blocks], axis=-2)
    asked = wanted.reshape(-1)
    if queries > 1:
        asked = asked + np.arange(0, queries * columns, columns).repeat(wanted.shape[1])
    place, positions, row = _entries(weighted, matrix, columns)
    places = _places.of(queries * columns)
    try:
        places[asked] = np.arange(len(asked), dtype=np.int32)
        target = places.take(place)
        kept = np.flatnonzero(target >= 0)
        target, of, data = target.take(kept), row.take(kept), matrix.data.take(positions.take(kept))
        values = weighted.kinds
        sums = np.zeros((len(values), len(asked)), dtype=np.float32)
        for one, weight in zip(sums, values, strict=True):
            np.add.at(one, target, data * weight.take(of))
        found = sums.take(places.take(asked), axis=1)  # a column asked twice has one place
    finally:
        places[asked] = -1
    return found.reshape(*weighted.values.shape[:-1], *wanted.shape)


def summed_dense(weighted: WeightedRows, matrix: F32) -> F32:
    """The weighted sum of each query's rows of a dense matrix [N, M], float32 [B, M]."""
    import torch

    rows, ptr, values = (torch.from_numpy(part) for part in (weighted.rows, weighted.ptr[:-1], weighted.values))
    sums: F32 = torch.nn.functional.embedding_bag(
        rows, torch.from_numpy(matrix), ptr, mode="sum", per_sample_weights=values
    ).numpy()
    return sums


def summed_dense_at(weighted: WeightedRows, matrix: F32, wanted: AnyArray) -> F32:
    """Some entries of `summed_dense`: of each query the columns int [B, C] -> float32 [B, C], or [M, B, C] of M
    weightings.
    """
    at_once = max(1, SUMS * weighted.queries // max(1, wanted.shape[1] * len(weighted.rows)))
    values = weighted.kinds
    found = np.empty((len(values), *wanted.shape), dtype=np.float32)
    for start in range(0, weighted.queries, at_once):
        block = weighted.block(start, min(start + at_once, weighted.queries))
        parts = matrix[block.rows[:, None], wanted[start : start + at_once][block.owner]]
        own = block._replace(rows=np.arange(len(parts)))
        for place, weight in enumerate(block.kinds):
            found[place, start : start + at_once] = summed_dense(own._replace(values=weight), parts)
    return found.reshape(*weighted.values.shape[:-1], *wanted.shape)
