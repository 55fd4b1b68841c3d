"""Several files of one table: a column that they hold in different types becomes one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ...base.errors import DataError
from .kinds import is_list


def one_type(tables: Sequence[pa.Table], names: Sequence[str]) -> list[pa.Table]:
    """Tables of the same columns with one type for each column: that of all, whole numbers, numbers, or else text.

    An id is text whatever it was written as, so int64 in one file and text in the next are one column; whole floats
    lose their ".0" on the way, because a missing id beside them is all that made them floats.

    Args:
        tables: with the same columns, in any order.
        names: of their files, for messages.

    Raises:
        DataError: one file holds lists or records where another holds single values.
    """
    changed = list(tables)
    for column in tables[0].column_names:
        columns = [_plain(table.column(column)) for table in tables]
        if len({values.type for values in columns}) > 1:
            columns = _together(columns, column, names)
        for place, values in enumerate(columns):
            table = changed[place]
            changed[place] = table.set_column(table.column_names.index(column), column, values)
    return changed


def plain_types(table: pa.Table) -> pa.Table:
    """The table in types that every column function knows.

    Views and run-end encoding become what they stand for, bytes of text (as some writers leave strings) become text,
    and decimals that are all whole lose their zeros, because 1.00 and 1 are one id. Bytes that are no text stay: a
    column that nobody reads is no fault.
    """
    for place, field in enumerate(table.schema):
        kind = field.type
        values = table.column(place)
        if pa.types.is_run_end_encoded(kind):
            values = pa.chunked_array([pc.run_end_decode(chunk) for chunk in values.chunks], kind.value_type)
        elif _is_bytes(kind):
            with contextlib.suppress(pa.ArrowInvalid):
                values = values.cast(pa.string())
        elif pa.types.is_decimal(kind) and kind.scale > 0:
            values = _whole_decimals(values)
        if values.type != kind:
            table = table.set_column(place, field.name, values)
    return table


def _is_bytes(kind: pa.DataType) -> bool:
    """Bytes, or texts in a form that few functions take."""
    forms = (
        pa.types.is_string_view,
        pa.types.is_binary_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
    )
    return any(form(kind) for form in forms) and not pa.types.is_decimal(kind)


def _whole_decimals(values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return values.cast(pa.decimal128(values.type.precision, 0))
    except pa.ArrowInvalid:
        return values


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of a dictionary as they are."""
    return pc.cast(values, values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _together(columns: list[pa.ChunkedArray], name: str, files: Sequence[str]) -> list[pa.ChunkedArray]:
    present = [values for values in columns if not pa.types.is_null(values.type)]
    types = [values.type for values in present]
    if all(map(pa.types.is_temporal, types)) or all(map(pa.types.is_boolean, types)) or all(map(is_list, types)):
        return columns  # Arrow finds what holds both
    if any(map(pa.types.is_nested, types)):
        place = next(i for i, values in enumerate(columns) if pa.types.is_nested(values.type))
        other = next(i for i, values in enumerate(columns) if values.type in types and not is_list(values.type))
        raise DataError(
            f'column "{name}" holds {columns[place].type} in {files[place]} and {columns[other].type} in '
            f"{files[other]}; write it the same way in both"
        )
    whole = [_whole(values) for values in columns]
    if all(map(_is_number, types)):
        if all(pa.types.is_integer(values.type) or pa.types.is_null(values.type) for values in whole):
            return _as(whole, pa.int64(), columns)
        return _as(columns, pa.float64(), columns)
    return [values.cast(pa.string()) for values in whole]


def _as(columns: list[pa.ChunkedArray], kind: pa.DataType, given: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    try:
        return [values.cast(kind) for values in columns]
    except pa.ArrowInvalid:  # whole numbers beyond this type keep their digits as text
        return [_whole(values).cast(pa.string()) for values in given]


def _whole(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats that are all whole or missing as whole numbers, other values as they are."""
    if not pa.types.is_floating(values.type):
        return values
    try:
        return pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())
    except pa.ArrowInvalid:
        return values


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
