"""Statistics of one column as integer codes: how it drifts between parts, and how much it gives away of a label.

Arrays only: `report.py` joins them to tables and says in sentences what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F64, I64, Floats

_BINS = 10
_CATEGORIES = 50
_NAMES = r"^\s*(0\d+|\d{17,})\s*$"
"""Whole numbers that name something: float64 would make two names one."""


@dataclass(frozen=True)
class Profile:
    """One column as codes `[rows]`: 0 is missing, the others number its distinct values (numbers in rising order)."""

    codes: I64
    values: pa.Array
    """The distinct values; code c stands for `values[c - 1]`."""
    numbers: F64 | None
    """The distinct values as numbers, when all of them are."""

    @property
    def kind(self) -> str:
        """`number` or `text`."""
        return "text" if self.numbers is None else "number"

    def take(self, rows: I64) -> Profile:
        """The column spread over other rows (a user's value on each of the user's events); -1 takes missing."""
        return Profile(np.where(rows < 0, 0, self.codes[rows]), self.values, self.numbers)


def profile(column: pa.Array | pa.ChunkedArray, *, names: bool = False, decimal: str = ".") -> Profile:
    """Encode a column; text that is all numbers counts as numbers, lists count as text.

    Numbers that name things stay text: those with leading zeros, and those too long to differ as float64.

    Args:
        column: as read.
        names: the column holds ids, which are text whatever they look like.
        decimal: mark before the decimals of numbers in text.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or _is_plain(array.type)):
        array = pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    coded = pc.dictionary_encode(array)
    codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    values = coded.dictionary
    if names or (pa.types.is_string(values.type) and pc.any(pc.match_substring_regex(values, _NAMES)).as_py()):
        return Profile(codes, values, None)
    plain = pc.replace_substring(values, decimal, ".") if decimal != "." and pa.types.is_string(values.type) else values
    try:
        numbers: F64 = pc.cast(plain, pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return Profile(codes, values, None)
    numbers, first, place = np.unique(numbers, return_index=True, return_inverse=True)  # "4" and "4.0" are one
    code_of = np.concatenate(([0], np.where(np.isnan(numbers[place]), 0, place + 1)))
    there = ~np.isnan(numbers)
    return Profile(code_of[codes], values.take(pa.array(first[there])), numbers[there])


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def buckets(column: Profile, reference: I64) -> I64:
    """Codes coarse enough to compare shares, `[rows]`: numbers in tenths of `reference`'s rows, text by its top 50.

    Args:
        column: the column.
        reference: row numbers of the part that sets the bounds (train).
    """
    codes = column.codes
    counts = np.bincount(codes[reference], minlength=len(column.values) + 1)
    if column.numbers is not None and len(column.values) > _CATEGORIES:
        below = np.cumsum(counts[1:]) - counts[1:]
        tenth = np.minimum(below * _BINS // max(int(counts[1:].sum()), 1), _BINS - 1) + 1
        return np.concatenate(([0], tenth))[codes]
    frequent = np.argsort(-counts[1:], kind="stable")[:_CATEGORIES] + 1
    coarse = np.full(len(counts), len(frequent) + 1, dtype=np.int64)
    coarse[0] = 0
    coarse[frequent] = np.arange(1, len(frequent) + 1)
    return coarse[codes]


def drift(bucketed: I64, reference: I64, other: I64) -> tuple[float, float]:
    """Total variation (0 same, 1 disjoint) and population stability index of a column between two sets of rows."""
    size = int(bucketed.max(initial=0)) + 1
    p, q = (np.bincount(bucketed[rows], minlength=size) / max(len(rows), 1) for rows in (reference, other))
    floor = 1e-4  # an empty bucket would make the index infinite
    index = np.sum((q - p) * np.log(np.maximum(q, floor) / np.maximum(p, floor)))
    return float(np.abs(p - q).sum() / 2), float(index)


def comes_only_with(column: Profile, label: Floats) -> bool:
    """True when a mostly-zero number is other than 0 nearly only where the label is 1: written after the event?"""
    if column.numbers is None:
        return False
    zero = np.concatenate(([True], column.numbers == 0))[column.codes]
    seen = ~np.isnan(label)
    other = seen & ~zero
    if other.sum() < 20 or zero[seen].mean() < 0.5:
        return False
    positive = label > 0
    return bool(positive[other].mean() > 0.99 and positive[seen].mean() < 0.6)
