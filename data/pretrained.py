"""Vectors computed elsewhere (of texts, images, another model), by raw value.

A `vector` feature looks its column up in them; a categorical or multi-valued feature starts its rows of the embedding
table from them (`nn.pretrained`), and keeps them there when frozen. The raw value decides, never the order of a file,
so the same file serves every run and every day. `reading.vectors` reads the files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.arrays import F32, I64
from .vocabulary import FIRST, Vocabulary

TEXT = pa.string()


@dataclass(frozen=True)
class Pretrained:
    """A file of vectors.

    Attributes:
        values: raw value of each vector, text [n], none twice.
        vectors: float32 [n, d], finite.
        digest: sha256 of the file.
    """

    values: pa.Array
    vectors: F32
    digest: str

    @property
    def width(self) -> int:
        """d."""
        return int(self.vectors.shape[1])

    def lookup(self, column: pa.Array) -> F32:
        """Vectors of raw values, text [m] -> float32 [m, d]; zero where the file has none."""
        at = pc.fill_null(pc.index_in(column.cast(TEXT), value_set=self.values, skip_nulls=True), -1)
        if isinstance(at, pa.ChunkedArray):
            at = at.combine_chunks()
        places = at.to_numpy(zero_copy_only=False).astype(np.int64)
        found: F32 = self.vectors[np.maximum(places, 0)]
        found[places < 0] = 0.0
        return found

    def rows_of(self, vocabulary: Vocabulary) -> tuple[I64, F32]:
        """Table rows that the file has vectors for, int64 [m] ascending, and these, float32 [m, d]."""
        values = pa.array(vocabulary.values, TEXT)
        known = pc.is_in(values, value_set=self.values).to_numpy(zero_copy_only=False).astype(bool)
        return np.flatnonzero(known) + FIRST, self.lookup(values.filter(pa.array(known)))


@dataclass(frozen=True)
class TableStart:
    """What the rows of one vocabulary start from.

    Attributes:
        source: the vectors.
        vocabulary: whose rows.
        frozen: whether they stay there.
    """

    source: Pretrained
    vocabulary: Vocabulary
    frozen: bool
