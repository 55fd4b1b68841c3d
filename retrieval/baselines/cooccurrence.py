"""How many users two items share, in blocks of rows, by whichever of dense and sparse arithmetic is cheaper."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_array

from ...base.arrays import F32, I64
from ...nn.precision import reduced_matmul

BLOCK_ENTRIES = 1 << 26
"""Entries of a block of co-occurrence counts (256 MB)."""
DENSE_ADVANTAGE = 50
"""Multiplications a dense product does in the time of one of a sparse product."""


def interaction_matrix(users: I64, items: I64, num_users: int, num_items: int) -> csr_array:
    """Users by items, 1.0 where the user met the item at least once, float32 `[U, N]`."""
    matrix = csr_array((np.ones(len(users), dtype=np.float32), (users, items)), shape=(num_users, num_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def cooccurrence_blocks(interactions: csr_array) -> Iterator[tuple[int, F32]]:
    """Rows of `X^T X`, exact.

    Args:
        interactions: X, `[U, N]` of zeros and ones.

    Yields:
        First item of the block, and float32 `[block, N]` counts, the caller's to change.
    """
    num_users, num_items = interactions.shape
    sparse_work = float((np.diff(interactions.indptr).astype(np.float64) ** 2).sum())
    dense = num_users * num_items**2 < DENSE_ADVANTAGE * sparse_work
    by_item = csr_array(interactions.T)
    block = max(1, BLOCK_ENTRIES // max(1, num_items))
    for start in range(0, num_items, block):
        stop = min(start + block, num_items)
        if dense:
            yield start, _dense_rows(interactions, start, stop)
        else:
            yield start, np.asarray((by_item[start:stop] @ interactions).toarray(), dtype=np.float32)


def _dense_rows(interactions: csr_array, start: int, stop: int) -> F32:
    """Rows `start` to `stop` of `X^T X`; bfloat16 holds 0 and 1 exactly and sums are float32, so counts are exact."""
    num_users, num_items = interactions.shape
    counts = torch.zeros(stop - start, num_items)
    step = max(1, BLOCK_ENTRIES // (4 * max(1, num_items)))
    with reduced_matmul():
        for first in range(0, num_users, step):
            part = torch.from_numpy(interactions[first : first + step].toarray())
            counts.addmm_(part[:, start:stop].t(), part)
    return counts.numpy()


def top_per_row(values: F32, count: int) -> csr_array:
    """The `count` largest positive entries of each row, as a sparse matrix; ties by an arbitrary fixed rule."""
    count = min(count, values.shape[1])
    best, columns = torch.from_numpy(values).topk(count, dim=1)
    rows = np.repeat(np.arange(len(values)), count)
    data, indices = best.numpy().ravel(), columns.numpy().ravel()
    kept = data > 0
    return csr_array((data[kept], (rows[kept], indices[kept])), shape=values.shape)
