"""Vectors as numbers: a `vector` column of a table, and files that name raw values and give each a vector."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F32
from ...base.errors import DataError
from ..feature_spec import FeatureSpec
from ..pretrained import Pretrained
from .columns import column_values, report_wrong
from .kinds import is_list
from .lists import as_several, list_values, split_values
from .numbers import numbers_of
from .readers import combined_digest, file_bytes, read
from .tables import BadRows, Tables

TEXT = pa.string()


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


def _read_npy(path: Path) -> tuple[pa.Array, F32, str]:
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


def _numbers(table: pa.Table, name: str, separator: str) -> F32:
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


def _floats(column: pa.Array) -> F32:
    """Text or numbers as float32, NaN where null."""
    numbers: F32 = pc.cast(column, pa.float32()).to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers


def parse_vectors(spec: FeatureSpec, tables: Tables, name: str, bad: BadRows) -> F32:
    """A `vector` column of table `name`, separated numbers or a list column -> float32 [n, d]; missing ones are zero.

    A row with something that is no finite number, or with fewer or more numbers than most rows, is a bad row.
    """
    cells = column_values(tables, name, spec.source)
    if is_list(cells.type):
        values, ptr = list_values(cells)
    else:
        values, ptr = split_values(as_several(tables, name, spec.source), spec.separator)
    lengths = np.diff(ptr)
    try:
        numbers = pc.cast(values, pa.float32()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        found, none = numbers_of(values, float, pa.float64())
        numbers = np.where(False if none is None else none, np.nan, found).astype(np.float32)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    wrong = np.zeros(len(lengths), dtype=bool)
    wrong[owner[~np.isfinite(numbers)]] = True
    widths, counts = np.unique(lengths[lengths > 0], return_counts=True)
    width = int(widths[counts.argmax()]) if len(widths) else 1
    wrong |= (lengths > 0) & (lengths != width)
    report_wrong(bad, tables, name, spec.source, wrong=wrong, expected=f"a vector of {width} numbers")
    out = np.zeros((len(lengths), width), dtype=np.float32)
    good = (lengths > 0) & ~wrong
    out[good] = numbers[good[owner]].reshape(-1, width)
    return out
