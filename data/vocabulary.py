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
MANY = 1_000_000
"""Values of a vocabulary beyond which those of one training row share the unknown row, unless a key says otherwise."""
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
    def fit(
        cls, values: pa.Array, weights: Ints | None = None, min_count: int = 1, max_rows: int = 0, many: int = MANY
    ) -> Vocabulary:
        """Learn the values seen at least `min_count` times, most frequent first (ties: first seen first).

        Args:
            values: text array [n]; null is the value `""`.
            weights: int [n] training rows each entry stands for; one each when None.
            min_count: rarer values are left to the unknown row, which they train; 0: 1, or 2 of more than `many`
                values.
            max_rows: the most frequent so many values stay; 0: all.
            many: see `min_count`.
        """
        encoded = pc.fill_null(values, MISSING).dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        counts = np.bincount(
            encoded.indices.to_numpy(zero_copy_only=False), weights=weights, minlength=len(encoded.dictionary)
        )
        floor = min_count or (1 if np.count_nonzero(counts) <= many else 2)
        order = np.argsort(-counts, kind="stable")
        kept = order[counts[order] >= floor]
        kept = kept[:max_rows] if max_rows else kept
        return cls(Texts(encoded.dictionary.take(pa.array(kept))))

    def rows(self, values: pa.Array) -> I64:
        """Rows of raw values, int64 [n]; values never learned get the unknown row."""
        filled = pc.fill_null(values, MISSING)
        filled = filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled
        places = self.values.rows(filled)
        return np.where(places >= 0, places + FIRST, UNKNOWN)

    def grow(self, values: Sequence[str], max_rows: int = 0) -> Vocabulary:
        """This vocabulary with new values appended; old rows stay where they are.

        Args:
            values: the most frequent first; known ones are passed over.
            max_rows: as of `fit`; new values have the places that are left (`encoding/eviction` frees some). 0: all.
        """
        fresh = pc.unique(Texts.of(values).array)
        fresh = fresh.filter(pa.array(self.values.rows(fresh) < 0))
        fresh = fresh.slice(0, max(max_rows - len(self.values), 0)) if max_rows else fresh
        return Vocabulary(self.values.appended(Texts(fresh)))

    def names(self, rows: Sequence[int]) -> list[str]:
        """Raw value of each row; padding and unknown show as themselves."""
        return ["<pad>" if row == PAD else "<unknown>" if row == UNKNOWN else self.values[row - FIRST] for row in rows]
