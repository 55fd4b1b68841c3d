"""Vectors computed elsewhere (of texts, images, another model), by raw value: for vector features and for tables.

A file names raw values and gives each a vector. A `vector` feature looks its column up in it; a categorical or
multi-valued feature starts its rows of the embedding table from it (`nn.pretrained`), and keeps them there when frozen.
The raw value decides, never the order of a file, so the same file serves every run and every day.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import DataError
from .readers import combined_digest, file_bytes, read
from .vocabulary import FIRST, Vocabulary

Floats = NDArray[np.float32]
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
    vectors: Floats
    digest: str

    @property
    def width(self) -> int:
        """d."""
        return int(self.vectors.shape[1])

    def lookup(self, column: pa.Array) -> Floats:
        """Vectors of raw values, text [m] -> float32 [m, d]; zero where the file has none."""
        at = pc.fill_null(pc.index_in(column.cast(TEXT), value_set=self.values, skip_nulls=True), -1)
        if isinstance(at, pa.ChunkedArray):
            at = at.combine_chunks()
        places = at.to_numpy(zero_copy_only=False).astype(np.int64)
        found: Floats = self.vectors[np.maximum(places, 0)]
        found[places < 0] = 0.0
        return found

    def rows_of(self, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], Floats]:
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


def read_pretrained(path: Path, separator: str = "|") -> Pretrained:
    """Read a file of vectors.

    Args:
        path: a table (CSV, CSV.gz or Parquet) whose first column holds the raw values and whose other columns hold the
            numbers: one column of lists (in text files: of separated numbers), or a column per number. Or an .npy
            array [n, d] with the raw values, one a line, in a file of the same name ending in .txt.
        separator: between the numbers of a text column.

    Raises:
        DataError: no such file, a value twice or missing, or anything that is no finite number.
    """
    if path.suffix == ".npy":
        values, vectors, digest = _read_npy(path)
    else:
        raw = read(path, table="vectors")
        values, vectors, digest = _values(raw.table), _numbers(raw.table, path.name, separator), raw.digest
    if values.null_count or len(pc.unique(values)) < len(values):
        twice = pc.value_counts(values).filter(pc.greater(pc.value_counts(values).field("counts"), 1))
        shown = "nothing" if values.null_count else f'"{twice.field("values")[0]}" more than once'
        raise DataError(f"{path.name} names {shown} as the value of a vector; give every value one vector")
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise DataError(f'{path.name}: the vector of "{values[int(odd[0])]}" is not of finite numbers; mend the file')
    return Pretrained(values, vectors, digest)


def _read_npy(path: Path) -> tuple[pa.Array, Floats, str]:
    names = path.with_suffix(".txt")
    data, text = file_bytes(path), file_bytes(names)
    try:
        vectors = np.load(path, allow_pickle=False)
        lines = text.decode("utf-8").splitlines()
    except (ValueError, EOFError) as error:
        raise DataError(f"{path.name} or {names.name} cannot be read ({error}); write it again") from None
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or len(lines) != len(vectors):
        raise DataError(
            f"{path.name} is {list(vectors.shape)} of {vectors.dtype} and {names.name} has {len(lines)} lines; "
            "expected numbers [n, d] and n raw values, one a line"
        )
    digest = combined_digest(hashlib.sha256(part).hexdigest() for part in (data, text))
    return pa.array(lines, TEXT), np.ascontiguousarray(vectors, dtype=np.float32), digest


def _values(table: pa.Table) -> pa.Array:
    return table.column(0).combine_chunks().cast(TEXT)


def _numbers(table: pa.Table, name: str, separator: str) -> Floats:
    """The columns behind the first as float32 [n, d]."""
    columns = [column.combine_chunks() for column in table.columns[1:]]
    if not columns:
        raise DataError(f"{name} has one column, expected raw values and their vectors")
    try:
        if len(columns) > 1:
            return np.stack([_floats(column) for column in columns], axis=1)
        lists = columns[0]
        if pa.types.is_string(lists.type) or pa.types.is_large_string(lists.type):
            lists = pc.split_pattern(lists.cast(TEXT), separator)
        lengths = pc.unique(pc.fill_null(pc.list_value_length(lists), 0)).to_pylist()
        if len(lengths) != 1 or lengths[0] == 0:
            raise DataError(f"{name} holds vectors of {sorted(lengths)[:3]} numbers, expected all of one width above 0")
        return _floats(pc.list_flatten(lists)).reshape(-1, int(lengths[0]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name} holds something that is no number ({str(error).splitlines()[0]}); mend it") from None


def _floats(column: pa.Array) -> Floats:
    """Text or numbers as float32, NaN where null."""
    numbers: Floats = pc.cast(column, pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers
