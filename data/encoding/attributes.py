"""What is known of each item, as it stood in the tables: the columns that a filter at serving time may ask about.

The models see encoded features; people ask for `genres = "Comedy" and year < 1995`. So the raw values of the item
features, of the id and the title, and of the further columns that `data.attributes` names, stay with the data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F64, I32, I64, Bool
from ..reading.lists import split_values
from ..texts import Texts


@dataclass(frozen=True)
class TextColumn:
    """Texts of N items, any number each, every distinct text kept once.

    Attributes:
        values: the distinct texts, V of them.
        codes: int32 [E] place of each entry in `values`, item by item.
        ptr: int64 [N + 1] item n's entries are `codes[ptr[n]:ptr[n + 1]]`; none where nothing is known.
    """

    values: Texts
    codes: I32
    ptr: I64

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", Texts.of(self.values))

    def __len__(self) -> int:
        """N."""
        return len(self.ptr) - 1

    @classmethod
    def single(cls, texts: pa.Array) -> TextColumn:
        """One text per item; null and empty text are nothing."""
        filled = pc.fill_null(texts, "")
        kept = pc.not_equal(filled, "")
        ptr = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])
        return cls._coded(filled.filter(kept), ptr)

    @classmethod
    def several(cls, texts: pa.Array, separator: str) -> TextColumn:
        """Several texts per item: separated in one text, or a list."""
        return cls._coded(*split_values(texts, separator))

    @classmethod
    def _coded(cls, entries: pa.Array, ptr: I64) -> TextColumn:
        encoded = entries.dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        return cls(Texts(encoded.dictionary), codes, ptr.astype(np.int64))

    def where(self, passed: Bool) -> Bool:
        """Items with an entry among the distinct texts that `passed`, bool [V], marks: bool [N]."""
        running = np.concatenate([[0], np.cumsum(passed[self.codes])])
        return np.asarray(running[self.ptr[1:]] > running[self.ptr[:-1]])

    def replaced(self, rows: I64, entries: Sequence[Sequence[str]]) -> TextColumn:
        """The column with other texts of some items.

        Args:
            rows: int64 [n] items, ascending.
            entries: the texts of each.
        """
        fresh = dict.fromkeys(text for texts in entries for text in texts if text not in self.values)
        places = {text: len(self.values) + place for place, text in enumerate(fresh)}
        lengths = np.diff(self.ptr)
        stays = np.ones(len(self), dtype=np.bool_)
        stays[rows] = False
        kept = self.codes[np.repeat(stays, lengths)]
        lengths[rows] = [len(texts) for texts in entries]
        ptr = np.concatenate([[0], np.cumsum(lengths)])
        codes = np.empty(ptr[-1], dtype=np.int32)
        own = np.repeat(stays, lengths)
        codes[own] = kept
        codes[~own] = [places[t] if t in places else self.values.find(t) for texts in entries for t in texts]
        values = self.values.appended(list(fresh)) if fresh else self.values
        return TextColumn(values, codes, ptr.astype(np.int64))

    def first(self, count: int) -> TextColumn:
        """The first `count` items."""
        ptr = self.ptr[: count + 1]
        return TextColumn(self.values, self.codes[: ptr[-1]], ptr)


Attribute = TextColumn | F64
"""Texts, or one number per item (NaN where nothing is known)."""


def numbers_or_texts(texts: pa.Array) -> Attribute:
    """A column without a declared kind: numbers where every value is one, texts otherwise."""
    try:
        numbers = pc.cast(pc.if_else(pc.equal(texts, ""), None, texts), pa.float64())
    except pa.ArrowInvalid:
        return TextColumn.single(texts)
    if numbers.null_count == len(numbers):
        return TextColumn.single(texts)
    found: F64 = pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)
    return np.array(found)


def identities(texts: Sequence[str]) -> TextColumn:
    """A column in which every item has a text, such as the ids."""
    return TextColumn.single(pa.array(texts, pa.string()))


def value_of(attribute: Attribute, row: int) -> Any:
    """A raw value of an item as JSON has it; None where it is missing."""
    if isinstance(attribute, TextColumn):
        codes = attribute.codes[attribute.ptr[row] : attribute.ptr[row + 1]]
        return [attribute.values[code] for code in codes.tolist()]
    number = float(attribute[row])
    return number if math.isfinite(number) else None
