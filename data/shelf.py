"""Where the columns of a log lie while it is built: in memory, or in files that are mapped and need none.

The files have no name and are gone with the last array that lies in them, whatever ends the process.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike

from ..base.arrays import AnyArray, Ints
from ..base.counting import STEP


class Shelf:
    """Makes and keeps arrays of event rows.

    Args:
        mapped: in files of the folder for temporary files (`TMPDIR`), not in memory.
    """

    def __init__(self, mapped: bool = False) -> None:
        self.mapped = mapped

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
        """An array to be filled."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        if not self.mapped or not size:
            return np.empty(shape, dtype=kind)
        with tempfile.TemporaryFile(prefix="recsys-build-") as file:
            file.truncate(size)
            mapping = mmap.mmap(file.fileno(), size)
        return np.frombuffer(mapping, dtype=kind).reshape(shape)

    def keep(self, array: AnyArray) -> AnyArray:
        """The array, in its place; give the one that was handed in up."""
        if not self.mapped or _mapping(array) is not None:
            self.rest(array)
            return array
        kept = self.empty(array.shape, array.dtype)
        for start in range(0, len(array), STEP):
            kept[start : start + STEP] = array[start : start + STEP]
        self.rest(kept)
        return kept

    def take(self, array: AnyArray, rows: Ints) -> AnyArray:
        """The given rows (int [n], none below 0) of an array, kept."""
        if not self.mapped:
            return array.take(rows, axis=0)
        taken = self.empty((len(rows), *array.shape[1:]), array.dtype)
        for start in range(0, len(rows), STEP):
            taken[start : start + STEP] = array.take(rows[start : start + STEP], axis=0)
        self.rest(taken, array, rows)
        return taken

    def rest(self, *arrays: AnyArray | None) -> None:
        """Let go of the memory that reading or writing these arrays took; what is in them stays."""
        if self.mapped:
            for array in arrays:
                if array is not None:
                    let_go(array)
            pa.default_memory_pool().release_unused()


def let_go(array: AnyArray) -> None:
    """Let go of the memory that reading or writing an array in a mapped file took; what is in it stays."""
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.flush()
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: AnyArray) -> mmap.mmap | None:
    """The file mapping that an array lies in."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, mmap.mmap) else None
