"""Times that some rows do not have: when an item came out, when a user signed up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F64
from .columns import as_time, column_values
from .tables import BadRows, Tables


def as_seconds(tables: Tables, name: str, column: str, bad: BadRows) -> F64:
    """A time column as seconds since 1970 UTC, float64 `[rows]`, NaN where nothing stands; see `as_time`."""
    values = column_values(tables, name, column)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    if missing.all():
        return np.full(len(missing), np.nan)
    first = values[int(np.flatnonzero(~missing)[0])]  # stands in for the missing ones, so that rows keep their places
    whole = pc.if_else(pa.array(missing), first, values)
    alone: dict[str, Any] = {name: pa.table({column: whole})}
    times = as_time(replace(tables, **alone), name, column, bad)
    return np.where(missing, np.nan, times / 1000.0)
