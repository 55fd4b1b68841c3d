"""Types of numpy arrays, one name one meaning; shapes stand in the docstrings of what takes and returns them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

Floats = NDArray[np.floating[Any]]
"""Real numbers of any width."""
Ints = NDArray[np.integer[Any]]
"""Whole numbers of any width, signed or not."""
Labels = NDArray[np.uint8] | NDArray[np.floating[Any]]
"""What was observed of tasks: a byte each where all of them are binary."""
AnyArray = NDArray[Any]
"""Values of any type, text included."""
