"""Values of any type as text: whole floats lose their ".0", so that 4, 4.0 and "4" are one id."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.errors import DataError


def texts_of(values: pa.Array, where: str) -> pa.Array:
    """Values as text, see `as_strings`; `where` begins the message about values that have no text."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        whole = _whole(values)
        values = pc.if_else(pc.is_nan(values), None, values) if whole is None else whole
    if pa.types.is_string(values.type):
        return values
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise no_text(values.type, where) from None


def no_text(kind: pa.DataType, where: str) -> DataError:
    """What to say of values that have no text; `where` begins it."""
    return DataError(
        f'{where} holds {kind}, expected text or numbers; declare its feature kind = "multi" (several '
        'values) or "vector" (numbers of one length), or leave the column out'
    )


def _whole(values: pa.Array) -> pa.Array | None:
    """Floats that are all whole (or missing) as int64, else None."""
    plain = values.to_numpy(zero_copy_only=False).astype(np.float64)
    there = ~np.isnan(plain)
    if not np.array_equal(plain[there], np.trunc(plain[there])) or np.any(np.abs(plain[there]) > 2**53):
        return None
    return pa.array(np.where(there, plain, 0).astype(np.int64), mask=~there)
