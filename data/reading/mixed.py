"""Columns of a pandas frame that hold values of several types, which no typed table can hold as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from ...base.errors import DataError
from ..ids import id_text

_LISTS = (list, tuple, set, frozenset, np.ndarray)


def mixed_as_text(frame: Any, name: str) -> Any:
    """The frame with numbers and texts of one column as text, so that 7, 7.0 and "7" are one value; so in lists.

    A column that is declared a number or a time then names the row of what is none.

    Args:
        frame: a pandas frame.
        name: of the frame in messages.

    Raises:
        DataError: a column holds lists beside single values, or mappings or bytes; it names a row of each.
    """
    texts = {column: _texts(frame[column], f'{name}, column "{column}"') for column in _mixed(frame)}
    return frame.assign(**texts)


def _mixed(frame: Any) -> list[str]:
    """Columns that Arrow has no type for."""
    mixed = []
    for column in frame.columns:
        try:
            pa.Array.from_pandas(frame[column])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            mixed.append(column)
    return mixed


def _texts(column: Any, where: str) -> list[Any]:
    """The values of a pandas column as text, missing ones as None."""
    rows = np.flatnonzero(column.notna().to_numpy())
    values = [column.iloc[row] for row in rows]
    lists = all(isinstance(value, _LISTS) for value in values)
    if not lists and any(isinstance(value, (*_LISTS, dict, bytes)) for value in values):
        first = {type(value).__name__: row for row, value in zip(rows[::-1], values[::-1], strict=True)}
        kinds = " and ".join(f"{kind} (row {row + 1})" for kind, row in sorted(first.items(), key=lambda pair: pair[1]))
        raise DataError(f"{where} holds {kinds}; give every row a text or a number, or every row a list of them")
    texts: list[Any] = [None] * len(column)
    for row, value in zip(rows, values, strict=True):
        texts[row] = [id_text(part) for part in value] if lists else id_text(value)
    return texts
