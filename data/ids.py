"""Raw ids: text inside, and outside what they were in the tables of the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TEXT = "string"


def id_text(value: object) -> str:
    """A raw id as text, as `as_ids` makes it of a column: 42, 42.0 and "42" are one id."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def id_type(column: pa.ChunkedArray | pa.Array) -> str:
    """Name of the type in which the ids of a column are given back: a number's, or `string` for all that is text."""
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return str(type_) if pa.types.is_integer(type_) or pa.types.is_floating(type_) else TEXT


def id_column(ids: Sequence[str], type_name: str) -> pa.Array:
    """Ids as a column of the type that `id_type` named; of text when one of them is no such number."""
    texts = pa.array(ids, pa.string())
    if type_name == TEXT:
        return texts
    alias = "float64" if type_name == "double" else "float32" if type_name == "float" else type_name
    try:
        return pc.cast(texts, pa.type_for_alias(alias))
    except (pa.ArrowInvalid, ValueError):
        return texts


def ids_as_given(ids: Sequence[str], type_name: str) -> NDArray[Any]:
    """Ids in the type that `id_type` named; as text when one of them is no such number."""
    given: NDArray[Any] = id_column(ids, type_name).to_numpy(zero_copy_only=False)
    return given
