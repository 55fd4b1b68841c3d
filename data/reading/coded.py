"""Columns of text as numbers: each distinct text once, and its number in every row.

The distinct values of a column become text, not its rows: an id, a category or a key is read by the type it has in the
file, and 4, 4.0 and "4" are one value all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I32, AnyArray, Bool, Ints
from ...base.counting import STEP, first_places, tallies
from .texts import texts_of

WIDE = 4
"""A range of whole numbers this many times wider than the rows is looked up by hashing, a narrower one in a table."""


@dataclass(frozen=True)
class Coded:
    """A column of text.

    Attributes:
        values: the distinct texts, in the order in which they first appear.
        codes: int32 [rows] place among them; -1 where nothing stands.
    """

    values: pa.Array
    codes: I32

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Ints) -> Coded:
        """The given rows; nothing where the row is -1."""
        if not len(self.codes):
            return Coded(self.values, np.full(len(rows), -1, dtype=np.int32))
        taken = self.codes.take(rows, mode="clip")
        taken[rows < 0] = -1
        return Coded(self.values, taken)

    def texts(self) -> pa.Array:
        """One text a row, null where nothing stands."""
        return self.values.take(pa.array(self.codes, mask=self.codes < 0))

    def says(self, words: Sequence[str]) -> Bool:
        """Rows whose text is one of the words, bool [rows]."""
        among = pc.is_in(self.values, value_set=pa.array(words, pa.string())).to_numpy(zero_copy_only=False)
        found: Bool = np.append(among, False)[self.codes]
        return found

    def filled(self, missing: str, text: str) -> Coded:
        """The column with a text where nothing stands, or the text that means it."""
        values = self.values.to_numpy(zero_copy_only=False)
        places = np.arange(len(values) + 1, dtype=np.int32)  # the last one is of code -1
        new = np.flatnonzero(values == text)
        place = int(new[0]) if len(new) else len(values)
        places[-1] = place
        places[:-1][values == missing] = place
        joined = self.values if len(new) else pa.concat_arrays([self.values, pa.array([text], pa.string())])
        return Coded(joined, places[self.codes])

    def seen(self, rows: AnyArray | None = None) -> tuple[pa.Array, Ints]:
        """Texts that the given rows have, in the order in which they first appear there, and how many rows have each.

        Nothing is the empty text.

        Args:
            rows: int or bool [n], all by default.
        """
        codes = self.codes if rows is None else self.codes[rows]
        size = len(self.values)
        counts, first = tallies(codes, size), first_places(codes, size)
        missing = len(codes) - int(counts.sum())
        counts = np.append(counts, missing)
        first = np.append(first, np.argmax(codes < 0) if missing else len(codes))
        there = np.flatnonzero(counts)
        there = there[np.argsort(first[there])]
        return pa.concat_arrays([self.values, pa.array([""], pa.string())]).take(pa.array(there)), counts[there]


def coded(column: pa.ChunkedArray, where: str) -> Coded:
    """A column of any type whose values have a text, see `texts_of`; `where` begins the message about others."""
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
        places = pa.chunked_array([chunk.indices for chunk in column.chunks], column.type.index_type)
        distinct, codes = _distinct(places)
        values = column.chunk(0).dictionary.take(distinct) if column.num_chunks else pa.array([], pa.string())
    elif pa.types.is_nested(column.type):
        values, codes = column.combine_chunks(), np.empty(0, dtype=np.int32)  # refused below
    else:
        values, codes = _distinct(column)
    texts = texts_of(values, where).cast(pa.string())
    encoded = texts.dictionary_encode()  # 0.0 and -0.0 have one text, NaN has none
    if texts.null_count or len(encoded.dictionary) < len(texts):
        places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        codes = np.append(places, -1).astype(np.int32)[codes]
    return Coded(encoded.dictionary, codes)


def _distinct(column: pa.ChunkedArray) -> tuple[pa.Array, I32]:
    """Distinct values in the order in which they first appear, and each row's place among them, -1 of null."""
    codes = np.empty(len(column), dtype=np.int32)
    if pa.types.is_integer(column.type) and len(column) > column.null_count:
        low, high = (bound.as_py() for bound in pc.min_max(column).values())
        if high - low < max(WIDE * len(column), 1 << 16):
            return _in_table(column, low, high, codes), codes
    encoded = column.dictionary_encode()
    at = 0
    for chunk in encoded.chunks:
        codes[at : at + len(chunk)] = pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False)
        at += len(chunk)
    return encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], column.type), codes


def _in_table(column: pa.ChunkedArray, low: int, high: int, codes: I32) -> pa.Array:
    """Fill the places of whole numbers between two bounds by a table of all of these; returns the distinct values."""
    table = np.full(high - low + 1, -1, dtype=np.int32)
    found: list[Ints] = []
    count = at = 0
    for whole in column.chunks:
        for start in range(0, len(whole), STEP):
            chunk = whole.slice(start, STEP)
            part = codes[at : at + len(chunk)]
            at += len(chunk)
            missing = pc.is_null(chunk).to_numpy(zero_copy_only=False) if chunk.null_count else None
            numbers = pc.fill_null(chunk, low) if missing is not None else chunk
            numbers = numbers.to_numpy(zero_copy_only=False) - np.asarray(low, dtype=column.type.to_pandas_dtype())
            np.take(table, numbers, out=part, mode="clip")
            new = part < 0 if missing is None else (part < 0) & ~missing
            if new.any():
                fresh = pc.unique(pa.array(numbers[new])).to_numpy(zero_copy_only=False)
                table[fresh] = np.arange(count, count + len(fresh), dtype=np.int32)
                count += len(fresh)
                found.append(fresh)
                np.take(table, numbers, out=part, mode="clip")
            if missing is not None:
                part[missing] = -1
    values = np.concatenate(found).astype(np.int64) if low >= -(2**62) and high < 2**62 else np.concatenate(found)
    return pa.array([], column.type) if not found else pa.array(values + low).cast(column.type)
