"""Matrices that are larger than the processor's caches, and passes over a few of their rows.

On the CPU such a pass costs what its misses cost, of caches and of page tables. PyTorch's `index_select` and
`index_copy_` meet them one after another; the kernels taken here fetch ahead, or move 16 bytes at a time, and the
memory lies on large pages where the system has them. What is read and written is the same, bit for bit (a negative
zero is read as zero). Measured by `benchmarks/speed/table_step.py`.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WIDE = 4  # float32 numbers in 16 bytes
LINE = 16  # float32 numbers in a cache line of 64 bytes
SMALL = 1 << 20
"""Numbers up to which a matrix lies in memory, wherever larger ones lie."""

_folder: Path | None = None
_mapped: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()


@contextmanager
def matrices_on_disk(folder: Path) -> Iterator[None]:
    """Let the large matrices that are made inside lie in files of this folder, which vanish with them.

    The system keeps of them in memory what is used and what it has room for. The folder has to be on a disk.
    """
    global _folder  # noqa: PLW0603 - where memory is taken from is a fact of the process, as the default device is
    before, _folder = _folder, folder
    try:
        yield
    finally:
        _folder = before


def rest_on_disk(matrix: Tensor) -> None:
    """Give the memory back that a matrix takes whose place is on disk; it is read again when it is asked for."""
    mapping = _mapped.get(matrix.untyped_storage().data_ptr())
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)  # of a shared mapping: its pages are the file's, and stay there


def new_matrix(*shape: int) -> Tensor:
    """Uninitialised matrix of the default type on the default device, made for row passes."""
    plain = torch.empty(0)
    if plain.device.type != "cpu" or plain.dtype != torch.float32:
        return torch.empty(*shape)
    size = int(np.prod(shape))
    if _folder is not None and size > SMALL:
        return _in_a_file(size, _folder).view(*shape)
    memory = np.empty(size + LINE, dtype=np.float32)  # NumPy asks for large pages (Linux); torch.empty does not
    start = -(memory.ctypes.data // memory.itemsize) % LINE  # a row of 64 bytes in one line, not in two
    return torch.from_numpy(memory[start : start + size]).view(*shape)


def _in_a_file(size: int, folder: Path) -> Tensor:
    with tempfile.TemporaryFile(dir=folder) as file:  # without a name: it goes when its mapping does
        file.truncate(size * np.dtype(np.float32).itemsize)
        mapping = mmap.mmap(file.fileno(), 0)
    found = torch.from_numpy(np.frombuffer(mapping, dtype=np.float32))
    _mapped[found.data_ptr()] = mapping
    return found


def take_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """Rows of a matrix: float [V, K], int64 [N] -> [N, K]. No gradient."""
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32:
        return matrix.detach().index_select(0, rows)
    return F.embedding_bag(rows.unsqueeze(1), matrix.detach(), mode="sum")  # bags of one: its kernel fetches ahead


def put_rows(matrix: Tensor, rows: Tensor, values: Tensor) -> None:
    """Overwrite rows of a contiguous matrix [V, K] in place by values [N, K]; equal rows need equal values."""
    target = matrix.detach()
    by_16 = target.shape[1] % WIDE == 0 and target.storage_offset() % WIDE == 0
    if target.device.type != "cpu" or target.dtype != torch.float32 or not by_16:
        target.index_copy_(0, rows, values)
        return
    wide = target.view(torch.complex128)  # moved, never computed with
    wide.scatter_(0, rows.unsqueeze(1).expand(-1, wide.shape[1]), values.contiguous().view(torch.complex128))
