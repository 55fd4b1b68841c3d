"""Several values in one cell: text with a separator, or a list as Arrow, Parquet and frames hold it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64
from .columns import as_strings, column_values
from .kinds import is_list
from .tables import Tables
from .texts import texts_of

LISTS = pa.large_list(pa.string())
"""How a column of lists is held once its values are text."""


def as_several(tables: Tables, name: str, column: str) -> pa.Array:
    """A column of several values a cell, for `split_values`: text as it stands, lists as lists of text.

    The values of lists become text as those of other columns do: 4, 4.0 and "4" are one value. A missing list stays
    missing.

    Raises:
        DataError: no such column, or one that holds neither text, numbers nor lists of them.
    """
    cells = column_values(tables, name, column)
    if not is_list(cells.type):
        return as_strings(tables, name, column)
    values, ptr = list_values(cells)
    texts = texts_of(values, f'{tables.origin[name]}: column "{column}"')
    return pa.LargeListArray.from_arrays(pa.array(ptr), texts, mask=pc.is_null(cells)).cast(LISTS)


def list_values(lists: pa.Array) -> tuple[pa.Array, I64]:
    """A column of lists [n] as (values [m], ptr int64 [n + 1]); a missing list has no values."""
    lengths = pc.if_else(pc.is_null(lists), 0, pc.list_value_length(lists)).to_numpy(zero_copy_only=False)
    return pc.list_flatten(lists), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def split_values(column: pa.Array, separator: str) -> tuple[pa.Array, I64]:
    """A column of several values a cell as (values [m], ptr int64 [n + 1]); null and empty text are no values.

    Args:
        column: text, or lists of text (see `as_several`).
        separator: between the values of a text.
    """
    lists = column if is_list(column.type) else pc.split_pattern(pc.fill_null(column, ""), separator)
    flat, offsets = list_values(lists)
    values = pc.fill_null(pc.utf8_trim_whitespace(flat), "")
    present = pc.not_equal(values, "").to_numpy(zero_copy_only=False)
    ptr = np.concatenate([[0], np.cumsum(present)])[offsets]
    return values.filter(pa.array(present)), ptr.astype(np.int64)
