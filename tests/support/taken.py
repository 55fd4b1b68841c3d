"""Answers of requests that ask for one item each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recsys.base.arrays import Bool


def taken_at(columns: ArrayLike, width: int) -> Bool:
    """Bool [Q, width] of requests that took the candidate in a column, or none where it is -1."""
    return np.asarray(np.arange(width) == np.asarray(columns)[:, None])
