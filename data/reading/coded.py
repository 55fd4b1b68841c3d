"""Columns of text as numbers: each distinct text once, and its number in every row.

The distinct values of a column become text, not its rows: an id, a category or a key is read by the type it has in the
file, and 4, 4.0 and "4" are one value all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I32, AnyArray, Bool, Ints
from ...base.counting import first_places, tallies
from .texts import no_text, texts_of

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


def coded(parts: Callable[[], Iterator[pa.Array]], kind: pa.DataType, rows: int, where: str) -> Coded:
    """A column of any type whose values have a text, see `texts_of`.

    Args:
        parts: gives the column, part by part; it may be asked twice.
        kind: type of the column.
        rows: of the column.
        where: begins the message about values that have no text.
    """
    if pa.types.is_nested(kind):
        raise no_text(kind, where)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    codes = np.empty(rows, dtype=np.int32)
    bounds = _bounds(parts()) if pa.types.is_integer(kind) else None
    if bounds is not None and bounds[1] - bounds[0] < max(WIDE * rows, 1 << 16):
        values = _in_table(parts(), kind, bounds, codes)
    else:
        values = _hashed(parts(), kind, codes)
    texts = texts_of(values, where).cast(pa.string())
    encoded = texts.dictionary_encode()  # 0.0 and -0.0 have one text, NaN has none
    if texts.null_count or len(encoded.dictionary) < len(texts):
        places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        codes = np.append(places, -1).astype(np.int32)[codes]
    return Coded(encoded.dictionary, codes)


def _bounds(parts: Iterator[pa.Array]) -> tuple[int, int] | None:
    """Smallest and largest of whole numbers; None where there are none."""
    pairs = [[bound.as_py() for bound in pc.min_max(_plain(part)).values()] for part in parts]
    lows, highs = ([pair[place] for pair in pairs if pair[place] is not None] for place in (0, 1))
    return (min(lows), max(highs)) if lows else None


def _plain(part: pa.Array) -> pa.Array:
    return part.dictionary_decode() if pa.types.is_dictionary(part.type) else part


def _hashed(parts: Iterator[pa.Array], kind: pa.DataType, codes: I32) -> pa.Array:
    """Fill the place of each value among the distinct ones in the order in which they first appear, -1 of null.

    Returns:
        The distinct values.
    """
    known, at = pa.array([], kind), 0
    for part in parts:
        encoded = part if pa.types.is_dictionary(part.type) else part.dictionary_encode()
        own = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        there = _first_seen(own, len(encoded.dictionary))
        values = encoded.dictionary.take(pa.array(there))
        places = pc.index_in(values, value_set=known) if len(known) else pa.nulls(len(values), pa.int32())
        new = pc.is_null(places).to_numpy(zero_copy_only=False)
        rows = pc.fill_null(places, -1).to_numpy(zero_copy_only=False).copy()
        rows[new] = np.arange(len(known), len(known) + new.sum())
        if new.any():
            known = pa.concat_arrays([known, values.filter(pa.array(new))])
        table = np.full(len(encoded.dictionary) + 1, -1, dtype=np.int32)
        table[there] = rows
        codes[at : at + len(part)] = table[own]
        at += len(part)
    return known


def _first_seen(codes: Ints, size: int) -> Ints:
    """The codes that appear, in the order in which they first do."""
    first = first_places(codes, size)
    there = np.flatnonzero(first < len(codes))
    return there[np.argsort(first[there])]


def _in_table(parts: Iterator[pa.Array], kind: pa.DataType, bounds: tuple[int, int], codes: I32) -> pa.Array:
    """As `_hashed`, of whole numbers between two bounds, by a table of all of these."""
    low, high = bounds
    table = np.full(high - low + 1, -1, dtype=np.int32)
    found: list[Ints] = [np.empty(0, dtype=np.int64)]
    count = at = 0
    for given in parts:
        chunk = _plain(given)
        part = codes[at : at + len(chunk)]
        at += len(chunk)
        missing = pc.is_null(chunk).to_numpy(zero_copy_only=False) if chunk.null_count else None
        numbers = pc.fill_null(chunk, low) if missing is not None else chunk
        numbers = numbers.to_numpy(zero_copy_only=False)
        numbers = (numbers - numbers.dtype.type(low)).astype(np.int64, copy=False)
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
    distinct = np.concatenate(found)
    return pa.array(distinct.astype(kind.to_pandas_dtype()) + kind.to_pandas_dtype()(low), kind)
