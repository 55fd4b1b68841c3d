"""What was learned from the training rows to turn raw columns into model inputs; saved with the run as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ...base.arrays import I64, AnyArray, Bool, Ints
from ..batch import Block, SideLayout
from ..feature_spec import FeatureSpec
from ..hashing import HashedVocabulary
from ..ids import id_text
from ..reading.coded import Coded
from ..reading.lists import split_values
from ..vocabulary import FIRST, MISSING, UNKNOWN, Vocabulary
from .numeric import NumericEncoder

Column = Any
"""A raw column: text [n] for categorical (of event rows `Coded`) and multi, float32 [n] numeric, [n, d] vector."""


@dataclass(frozen=True)
class Encoders:
    """What one data set learned.

    Attributes:
        vocabularies: of categorical and multi features.
        numerics: edges and scales of numbers.
        keys: vocabularies of count keys.
        shared: feature -> the feature whose vocabulary it has too.
        hashed: of categorical and multi features with a fixed number of rows.
    """

    vocabularies: Mapping[str, Vocabulary]
    numerics: Mapping[str, NumericEncoder]
    keys: Mapping[str, Vocabulary] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    hashed: Mapping[str, HashedVocabulary] = field(default_factory=dict)

    def codes(self, name: str, values: pa.Array | Coded) -> Ints:
        """Rows of a categorical or multi feature's raw values, int [n]."""
        return rows_of(self.hashed[name] if name in self.hashed else self.vocabularies[name], values)

    def bag(self, spec: FeatureSpec, column: pa.Array | Coded) -> I64:
        """Rows of a feature that has several of each entry, int64 [n, L], 0 pads: of its values, or of its hashes."""
        if spec.kind == "multi":
            values, ptr = split_values(column, spec.separator)
            return padded(self.codes(spec.name, values), ptr, spec.max_length)
        hashed = self.hashed[spec.name]
        if not isinstance(column, Coded):
            return hashed.pairs(column)
        distinct = pa.concat_arrays([column.values, pa.array([None], pa.string())])  # the last one is of code -1
        return hashed.pairs(distinct)[column.codes]

    def sizes(self) -> dict[str, int]:
        """Table rows of every vocabulary, buckets included."""
        values = {name: len(vocabulary) for name, vocabulary in self.vocabularies.items()}
        hashed = {name: len(vocabulary) for name, vocabulary in self.hashed.items()}
        return values | hashed | {name: encoder.size for name, encoder in self.numerics.items()}

    def tables(self, used: Collection[str], sizes: Mapping[str, int]) -> tuple[dict[str, int], dict[str, str]]:
        """Rows of the vocabularies that some columns need, and which of these columns share one.

        Args:
            used: the columns.
            sizes: rows of every vocabulary there is.

        Returns:
            Column -> rows, features that only lend their table included; and column -> the feature it shares with.
        """
        shared = {name: owner for name, owner in self.shared.items() if name in used}
        needed = {*used, *shared.values()}
        return {name: rows for name, rows in sizes.items() if name in needed}, shared

    def missing_row(self, name: str) -> int:
        """Row of a missing value in the vocabulary of a feature, -1 where training rows had none."""
        vocabulary = self.vocabularies.get(name)
        return vocabulary.values.index(MISSING) + FIRST if vocabulary and MISSING in vocabulary.values else -1

    def state(self) -> dict[str, Any]:
        """As JSON, but for the values of the vocabularies, which are columns of texts."""
        hashed = {name: vocabulary.state() for name, vocabulary in self.hashed.items() if name not in self.shared}
        return {
            "vocabularies": {n: v.values for n, v in self.vocabularies.items() if n not in self.shared},
            "numerics": {name: encoder.state() for name, encoder in self.numerics.items()},
            "keys": {name: vocabulary.values for name, vocabulary in self.keys.items()},
            **({"shared": dict(self.shared)} if self.shared else {}),
            **({"hashed": hashed} if hashed else {}),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Encoders:
        """From what `state` gave; values may be any sequences of texts."""
        vocabularies = {name: Vocabulary(values) for name, values in state["vocabularies"].items()}
        hashed = {name: HashedVocabulary.from_state(one) for name, one in state.get("hashed", {}).items()}
        shared = state.get("shared", {})
        return cls(
            vocabularies | {name: vocabularies[owner] for name, owner in shared.items() if owner in vocabularies},
            {name: NumericEncoder.from_state(encoder) for name, encoder in state["numerics"].items()},
            {name: Vocabulary(values) for name, values in state.get("keys", {}).items()},
            shared,
            hashed | {name: hashed[owner] for name, owner in shared.items() if owner in hashed},
        )


def rows_of(vocabulary: Vocabulary | HashedVocabulary, values: pa.Array | Coded) -> Ints:
    """Vocabulary rows of raw values: int64 [n] of texts, int32 [n] of a coded column."""
    if not isinstance(values, Coded):
        return vocabulary.rows(values)
    distinct = pa.concat_arrays([values.values, pa.array([None], pa.string())])  # the last one is of code -1
    rows: Ints = vocabulary.rows(distinct).astype(np.int32)[values.codes]
    return rows


def fill_missing(spec: FeatureSpec, column: Column) -> Column:
    """A raw column with the feature's `fill` where it says nothing; unchanged where the feature has none."""
    if spec.fill is None:
        return column
    if spec.kind == "numeric":
        return np.where(np.isnan(column), np.float32(spec.fill), column)
    if isinstance(column, Coded):
        return column.filled(MISSING, id_text(spec.fill))
    known = pc.if_else(pc.equal(column, MISSING), None, column)
    return pc.fill_null(known, id_text(spec.fill))


def weighed_values(spec: FeatureSpec, column: pa.Array | Coded, weights: I64 | Bool) -> tuple[pa.Array, Ints]:
    """Values [m] of a categorical or multi feature that training rows have, and how many rows have each entry.

    Args:
        spec: the feature.
        column: text [n].
        weights: int [n] training rows each entry stands for; of a coded column bool [n], whether each row is one.
    """
    if isinstance(column, Coded):
        return column.seen(weights.astype(bool, copy=False))
    seen = pa.array(weights > 0)
    weights = weights.astype(np.int64, copy=False)
    if spec.kind == "categorical":
        return column.filter(seen).cast(pa.string()), weights[weights > 0]
    values, ptr = split_values(column.filter(seen), spec.separator)
    return values.cast(pa.string()), np.repeat(weights[weights > 0], np.diff(ptr))


def padded(rows: Ints, ptr: I64, length: int) -> I64:
    """Ragged rows as [n, length], cut after `length` and padded with 0."""
    n = len(ptr) - 1
    out = np.zeros((n, length), dtype=np.int64)
    position = np.arange(len(rows)) - np.repeat(ptr[:-1], np.diff(ptr))
    owner = np.repeat(np.arange(n), np.diff(ptr))
    kept = position < length
    out[owner[kept], position[kept]] = rows[kept]
    return out


def side_layout(specs: Sequence[FeatureSpec], columns: Mapping[str, Column]) -> SideLayout:
    """Order of a table's columns in its block: categorical, then buckets; numbers; bags; vectors."""
    buckets = [spec.name for spec in specs if spec.kind == "numeric" and spec.bins]
    return SideLayout(
        categorical=(*(spec.name for spec in specs if spec.kind == "categorical" and not spec.in_bag), *buckets),
        numeric=tuple(spec.name for spec in specs if spec.kind == "numeric" and spec.scale != "none"),
        bags=tuple(spec.name for spec in specs if spec.in_bag),
        vectors=tuple((spec.name, int(columns[spec.name].shape[1])) for spec in specs if spec.kind == "vector"),
    )


def encode_side(specs: Sequence[FeatureSpec], columns: Mapping[str, Column], encoders: Encoders, rows: int) -> Block:
    """Raw columns of one table -> its block of `rows` rows, in the order of `side_layout`."""
    categorical = [encoders.codes(s.name, columns[s.name]) for s in specs if s.kind == "categorical" and not s.in_bag]
    numeric = []
    for spec in specs:
        if spec.kind == "numeric":
            encoder = encoders.numerics[spec.name]
            if spec.bins:
                categorical.append(encoder.buckets(columns[spec.name]))
            if spec.scale != "none":
                numeric.append(encoder.scaled(columns[spec.name]))
    bags = [torch.from_numpy(encoders.bag(spec, columns[spec.name])) for spec in specs if spec.in_bag]
    vectors = tuple(torch.from_numpy(columns[spec.name]) for spec in specs if spec.kind == "vector")
    return Block(stack(categorical, rows, torch.int64), stack(numeric, rows, torch.float32), tuple(bags), (), vectors)


def stack(columns: Sequence[AnyArray], rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Columns [rows] side by side, [rows, n]; [rows, 0] when there are none."""
    if not columns:
        return torch.empty(rows, 0, dtype=dtype)
    return torch.from_numpy(np.stack(columns, axis=1)).to(dtype).contiguous()


def unknown_block(layout: SideLayout, bags: Sequence[int], rows: int) -> Block:
    """A block of which nothing is known: unknown categories, missing numbers, empty bags of widths `bags`."""
    return Block(
        torch.full((rows, len(layout.categorical)), UNKNOWN, dtype=torch.int64),
        torch.full((rows, len(layout.numeric)), float("nan")),
        tuple(torch.zeros(rows, width, dtype=torch.int64) for width in bags),
        (),
        tuple(torch.zeros(rows, width) for _, width in layout.vectors),
    )
