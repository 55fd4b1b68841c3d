"""Raw values <-> table rows. Row 0 pads, row 1 is 'unknown', later rows are values in the order they were learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.arrays import I64, Ints
from .texts import Texts

PAD, UNKNOWN, FIRST = 0, 1, 2
MISSING = ""
"""What a missing category is called: absence is a value like any other, if training rows have it."""


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of raw values (text); `values[i]` owns row `i + 2`."""

    values: Texts

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", Texts.of(self.values))

    def __len__(self) -> int:
        """Table rows, padding and unknown included."""
        return len(self.values) + FIRST

    @classmethod
    def fit(cls, values: pa.Array, weights: Ints | None = None, min_count: int = 1) -> Vocabulary:
        """Learn the values seen at least `min_count` times, most frequent first (ties: first seen first).

        Args:
            values: text array [n]; null is the value `""`.
            weights: int [n] training rows each entry stands for; one each when None.
            min_count: rarer values are left to the unknown row, which they train.
        """
        encoded = pc.fill_null(values, MISSING).dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        counts = np.bincount(
            encoded.indices.to_numpy(zero_copy_only=False), weights=weights, minlength=len(encoded.dictionary)
        )
        order = np.argsort(-counts, kind="stable")
        kept = order[counts[order] >= min_count]
        return cls(Texts(encoded.dictionary.take(pa.array(kept))))

    def rows(self, values: pa.Array) -> I64:
        """Rows of raw values, int64 [n]; values never learned get the unknown row."""
        filled = pc.fill_null(values, MISSING)
        filled = filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled
        places = self.values.rows(filled)
        return np.where(places >= 0, places + FIRST, UNKNOWN)

    def grow(self, values: Sequence[str]) -> Vocabulary:
        """This vocabulary with new values appended; old rows stay where they are."""
        fresh = pc.unique(Texts.of(values).array)
        return Vocabulary(self.values.appended(Texts(fresh.filter(pa.array(self.values.rows(fresh) < 0)))))

    def names(self, rows: Sequence[int]) -> list[str]:
        """Raw value of each row; padding and unknown show as themselves."""
        return ["<pad>" if row == PAD else "<unknown>" if row == UNKNOWN else self.values[row - FIRST] for row in rows]
