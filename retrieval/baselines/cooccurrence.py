"""How many users two items share, and the most similar items of each, by the cheaper of dense and sparse arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from ...base.arrays import F32, I64
from ...nn.precision import reduced_matmul

BLOCK_ENTRIES = 1 << 26
"""Entries of a block of co-occurrence counts (256 MB)."""
SPARSE_WORK = 1 << 24
"""Pairs of events of one user that a block of rows looks at, where only pairs that meet are."""
DENSE_ADVANTAGE = 50
"""Multiplications a dense product does in the time of one of a sparse product."""

Similarity = Callable[[F32, F32, F32], F32]
"""Users that two items share, and the roots of how many each has -> how similar they are; entry by entry."""


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
    num_items = interactions.shape[1]
    dense = _dense_is_cheaper(interactions)
    by_item = csr_array(interactions.T)
    block = max(1, BLOCK_ENTRIES // max(1, num_items))
    for start in range(0, num_items, block):
        stop = min(start + block, num_items)
        if dense:
            yield start, _dense_rows(interactions, start, stop)
        else:
            yield start, np.asarray((by_item[start:stop] @ interactions).toarray(), dtype=np.float32)


def nearest_items(interactions: csr_array, count: int, similarity: Similarity) -> csr_array:
    """The most similar other items of each item that are similar at all.

    Where few users share items, only pairs that meet are looked at: the cost is that of the users' histories, squared
    and added up, whatever the size of the catalogue.

    Args:
        interactions: X, `[U, N]` of zeros and ones.
        count: most items kept of each.
        similarity: 0 or less for items that are not similar.

    Returns:
        float32 `[N, N]`, at most `count` positive entries a row; ties by an arbitrary fixed rule.
    """
    root = np.sqrt(np.bincount(interactions.indices, minlength=interactions.shape[1])).astype(np.float32)
    blocks = []
    if _dense_is_cheaper(interactions):
        for start, together in cooccurrence_blocks(interactions):
            rows = np.arange(len(together))
            together[rows, rows + start] = 0.0
            blocks.append(top_per_row(similarity(together, root[start : start + len(together), None], root), count))
    else:
        by_item = csr_array(interactions.T)
        work = np.cumsum(by_item @ np.diff(interactions.indptr).astype(np.float64))
        stops = np.unique(np.searchsorted(work, np.arange(SPARSE_WORK, work[-1], SPARSE_WORK))) + 1
        for start, stop in itertools.pairwise([0, *stops.tolist(), len(work)]):
            blocks.append(_nearest_that_meet(by_item[start:stop] @ interactions, start, root, count, similarity))
    return csr_array(vstack(blocks, format="csr"))


def _nearest_that_meet(together: csr_array, start: int, root: F32, count: int, similarity: Similarity) -> csr_array:
    """`nearest_items` of a block of rows that begins at `start`, from the users they share with every item."""
    row = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    column = together.indices
    values = similarity(together.data, root[row + start], root[column])
    some = (values > 0) & (column != row + start)
    row, column, values = row[some], column[some], values[some]
    order = np.lexsort((column, -values, row))
    row, column, values = row[order], column[order], values[order]
    best = np.arange(len(row)) - np.searchsorted(row, row) < count
    return csr_array((values[best], (row[best], column[best])), shape=together.shape)


def _dense_is_cheaper(interactions: csr_array) -> bool:
    num_users, num_items = interactions.shape
    sparse_work = float((np.diff(interactions.indptr).astype(np.float64) ** 2).sum())
    return bool(num_users * num_items**2 < DENSE_ADVANTAGE * sparse_work)


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
