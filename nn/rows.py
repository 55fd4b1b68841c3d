"""Matrices that are larger than the processor's caches, and passes over a few of their rows.

On the CPU such a pass costs what its misses cost, of caches and of page tables. PyTorch's `index_select` and
`index_copy_` meet them one after another; the kernels taken here fetch ahead, or move 16 bytes at a time, and the
memory lies on large pages where the system has them. What is read and written is the same, bit for bit (a negative
zero is read as zero). Measured by `benchmarks/speed/table_step.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WIDE = 4  # float32 numbers in 16 bytes
LINE = 16  # float32 numbers in a cache line of 64 bytes


def new_matrix(*shape: int) -> Tensor:
    """Uninitialised matrix of the default type on the default device, made for row passes."""
    plain = torch.empty(0)
    if plain.device.type != "cpu" or plain.dtype != torch.float32:
        return torch.empty(*shape)
    size = int(np.prod(shape))
    memory = np.empty(size + LINE, dtype=np.float32)  # NumPy asks for large pages (Linux); torch.empty does not
    start = -(memory.ctypes.data // memory.itemsize) % LINE  # a row of 64 bytes in one line, not in two
    return torch.from_numpy(memory[start : start + size]).view(*shape)


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
