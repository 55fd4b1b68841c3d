"""Whether the rows of a log without times can stand in the order in which they happened."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64
from .profile import profile

SORTED = 0.98
"""Share of the steps from a user's row to the next, in one direction, from which the rows are sorted by item."""
STEPS = 50
"""Fewest steps to tell by; by chance half of them go up."""


def sorted_by_item(users: pa.Array | pa.ChunkedArray, items: pa.Array | pa.ChunkedArray) -> bool:
    """Whether each user's rows go up (or down) through the item ids.

    People take items in no such order: a log like that was sorted when it was written, and each user's last row is the
    one of the highest id.

    Args:
        users: raw user id of each row.
        items: raw item id of each row; numbers are compared as numbers, text as text.
    """
    user, item = profile(users, names=True).codes, _ranks(items)
    order = np.argsort(user, kind="stable")
    same_user = user[order][1:] == user[order][:-1]
    steps = np.diff(item[order])[same_user]
    steps = steps[steps != 0]
    if len(steps) < STEPS:
        return False
    rising = float((steps > 0).mean())
    return max(rising, 1.0 - rising) >= SORTED


def _ranks(column: pa.Array | pa.ChunkedArray) -> I64:
    """Place of each value among the sorted distinct ones, int64 `[rows]`; missing ones come first."""
    coded = profile(column)
    if coded.numbers is not None:
        return coded.codes
    ranks = np.empty(len(coded.values) + 1, dtype=np.int64)
    ranks[0] = 0
    ranks[1 + pc.array_sort_indices(coded.values).to_numpy()] = np.arange(1, len(ranks))
    return ranks[coded.codes]
