"""Kinds of Arrow types that several readers ask for."""

from __future__ import annotations

import pyarrow as pa


def is_text(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether a column holds text."""
    return is_string(values.type)


def is_string(kind: pa.DataType) -> bool:
    """Whether a type is that of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a type holds lists, of any length or of one."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
