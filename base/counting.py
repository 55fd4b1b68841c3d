"""Orders of rows by small whole numbers, in time that grows with their number alone."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from .arrays import I64, AnyArray, Bool, Ints

STEP = 1 << 20
"""Rows that are looked at together where a copy of a whole column would cost its memory once more."""


def counting_order(codes: Ints, size: int) -> Ints:
    """Rows in the order of their codes, rows of equal codes as they stand: a stable counting sort.

    Args:
        codes: int [n] from 0 to `size - 1`.
        size: number of codes there may be.

    Returns:
        int [n]: int32 where that counts the rows.
    """
    rows = len(codes)
    kind = np.int32 if max(rows, size) < 2**31 - 1 else np.int64
    # Row r of a matrix with its one entry in column codes[r]: turned into columns, the entries are counted into place.
    entries: tuple[AnyArray, AnyArray, AnyArray] = (
        np.ones(rows, dtype=np.int8),
        codes.astype(kind, copy=False),
        np.arange(rows + 1, dtype=kind),
    )
    order: Ints = csr_array(entries, shape=(rows, size)).tocsc().indices
    return order


def rises(values: AnyArray, rows: Ints | None = None) -> bool:
    """Whether no value is smaller than the one before it.

    Args:
        values: [n].
        rows: int [m] which values, in which order; all of them as they stand when None.
    """
    for start in range(0, len(values) if rows is None else len(rows), STEP):
        part = slice(start, start + STEP + 1)
        ordered = values[part] if rows is None else values[rows[part]]
        if (ordered[1:] < ordered[:-1]).any():
            return False
    return True


def first_places(codes: Ints, size: int) -> I64:
    """Where each code from 0 to `size - 1` stands first, int64 [size]; the number of rows where it stands nowhere.

    Args:
        codes: int [n]; below 0 is none.
        size: number of codes there may be.
    """
    found = np.full(size + 1, len(codes), dtype=np.int64)  # the last entry takes what is below 0
    for start in reversed(range(0, len(codes), STEP)):
        part = codes[start : start + STEP][::-1]
        found[part] = np.arange(start + len(part) - 1, start - 1, -1)  # backwards: the first one is written last
    return found[:-1]


def tallies(codes: Ints, size: int, rows: Bool | None = None) -> I64:
    """How many rows have each code from 0 to `size - 1`, int64 [size].

    Args:
        codes: int [n]; below 0 is none.
        size: number of codes there may be.
        rows: bool [n] rows that count; all by default.
    """
    found = np.zeros(size + 1, dtype=np.int64)
    for start in range(0, len(codes), STEP):
        part = codes[start : start + STEP]
        part = part if rows is None else part[rows[start : start + STEP]]
        found += np.bincount(np.where(part < 0, size, part), minlength=size + 1)
    return found[:-1]
