"""Columns of texts (ids, titles, values of vocabularies) that are read where they lie, and searched without a copy.

A column of ten million ids as Python strings takes over a gigabyte, and a dictionary of them another. Here it is an
Arrow column, in memory or mapped from a file, and beside it the order of its rows by text, in which a text is found.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.arrays import I32, I64, AnyArray

BLOCK = 65_536
"""Texts that stand in memory as Python strings while a column is passed over."""
SEARCHED_SINGLY = 1 / 64
"""Share of a column's length up to which texts are searched one by one; more are found by a hash table of all."""
WORD, WORDS = 8, 4
"""Bytes of a word, and words of the longest text whose column is sorted by whole words at a time."""
SORTED_BY_WORDS = 1 << 24
"""Most texts of such a column: their words lie in memory, side by side."""


class Texts(Sequence[str]):
    """A column of n texts, none missing; equal to any sequence of the same texts.

    Args:
        values: the texts: an Arrow column, or any sequence.
        order: int32 [n] rows by text, where it is known already; found at the first search otherwise.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: pa.Array | Sequence[str], order: I32 | None = None) -> None:
        self.array: pa.Array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
        self._given_order = order

    @classmethod
    def of(cls, values: Sequence[str]) -> Texts:
        """Any sequence of texts as a column; a column as it is."""
        return values if isinstance(values, Texts) else cls(values)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            return self.array[index(place)].as_py()
        start, stop, step = place.indices(len(self))
        return Texts(self.array.slice(start, max(stop - start, 0)) if step == 1 else self.array[place])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.array.slice(start, BLOCK).to_numpy(zero_copy_only=False)

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.find(text) >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return bool(self.array.equals(other.array.cast(self.array.type)))
        return isinstance(other, Sequence) and not isinstance(other, str) and self == Texts.of(other)

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self[:3])
        return f"Texts({shown}{', ...' if len(self) > len(self[:3]) else ''}; {len(self)} texts)"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        texts: AnyArray = self.array.to_numpy(zero_copy_only=False)
        return texts.astype(str if dtype is None else dtype)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self.array if type is None else self.array.cast(type)

    @cached_property
    def order(self) -> I32:
        """Rows by text, int32 [n]; of equal texts the first row stands first."""
        if self._given_order is not None:
            return self._given_order
        return order_of(self.array)

    def find(self, text: str) -> int:
        """First row of a text, -1 where no row has it."""
        place = bisect_left(self.order, text, key=self.__getitem__)
        if place == len(self):
            return -1
        row = int(self.order[place])
        return row if self[row] == text else -1

    def beginning(self, prefix: str, after: str = "") -> Iterator[str]:
        """Texts that begin so, in order, those behind another one; read one by one."""
        place = bisect_left(self.order, prefix, key=self.__getitem__)
        if after and after >= prefix:
            place = max(place, bisect_right(self.order, after, key=self.__getitem__))
        while place < len(self) and (text := self[int(self.order[place])]).startswith(prefix):
            yield text
            place += 1

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """First row of a text from `start` on.

        Raises:
            ValueError: no row has it.
        """
        row = self.find(value) if not start and stop is None else super().index(value, start, stop or len(self))
        if row < 0:
            raise ValueError(f"{value!r} is not among the {len(self)} texts")
        return row

    def rows(self, texts: pa.Array) -> I64:
        """Row of each text, int64 [m]; -1 where no row has it, or it is missing."""
        if len(texts) <= SEARCHED_SINGLY * len(self):
            found = (-1 if text is None else self.find(text) for text in texts.to_numpy(zero_copy_only=False))
            return np.fromiter(found, dtype=np.int64, count=len(texts))
        places = pc.index_in(texts.cast(self.array.type), value_set=self.array, skip_nulls=True)
        return np.asarray(pc.fill_null(places, -1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def appended(self, others: Sequence[str]) -> Texts:
        """These texts, and behind them those of another column."""
        return Texts(pa.concat_arrays([self.array, Texts.of(others).array.cast(self.array.type)]))


def order_of(texts: pa.Array) -> I32:
    """Rows of a column by text (by code points, which is by bytes), int32 [n]; of equal texts the first row is first.

    Short texts are compared by eight bytes at a time, as numbers, in a third of the time.
    """
    array = texts.cast(pa.large_string())
    _, offsets, characters = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
    lengths = np.diff(ends)
    words = -(-int(lengths.max(initial=0)) // WORD)
    if words > WORDS or len(array) > SORTED_BY_WORDS or not words:
        return np.asarray(pc.array_sort_indices(array).to_numpy().astype(np.int32))
    bytes_of = np.frombuffer(characters, dtype=np.uint8)
    padded = np.zeros((len(array), WORD * words), dtype=np.uint8)
    for start in range(0, len(array), BLOCK):
        some = lengths[start : start + BLOCK]
        row = np.repeat(np.arange(start, start + len(some)), some)
        column = np.arange(ends[start], ends[start + len(some)]) - ends[row]
        padded[row, column] = bytes_of[ends[start] : ends[start + len(some)]]
    numbers = padded.view(">u8").astype(np.uint64)
    # Where all words are equal, the shorter text ends where the longer one has zero bytes.
    return np.lexsort((lengths, *numbers.T[::-1])).astype(np.int32)


class TextRows(Mapping[str, int]):
    """Row of each text of a column, as a mapping that holds nothing of its own."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def __getitem__(self, text: str) -> int:
        row = self.texts.find(text) if isinstance(text, str) else -1
        if row < 0:
            raise KeyError(text)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


def write_texts(texts: Texts, file: Path) -> None:
    """Write a column as an Arrow IPC file."""
    array = texts.array.cast(pa.large_string())
    with pa.ipc.new_file(file, pa.schema([("text", array.type)])) as writer:
        writer.write_batch(pa.record_batch([array], names=["text"]))


def map_texts(file: Path, order: I32, *, mapped: bool) -> Texts:
    """The column of such a file.

    Args:
        file: what `write_texts` wrote.
        order: of the column, see `Texts.order`.
        mapped: read it where it lies, whenever it is asked, and not now.
    """
    source = pa.memory_map(str(file)) if mapped else pa.py_buffer(file.read_bytes())
    return Texts(pa.ipc.open_file(source).get_batch(0).column(0), order)
