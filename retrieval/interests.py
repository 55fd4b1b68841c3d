"""Searching with several vectors per user: an item's score is the best of its products (ComiRec, KDD 2020)."""

from __future__ import annotations

import numpy as np

from ..base.arrays import F32, I64
from ..base.ragged import Ragged
from ..base.topk import exact_topk
from .index.base import CandidateIndex
from .index.bitmap import Bitmap


def smooth_best(products: F32) -> F32:
    """The score training gives pairs: log of the summed exponentials over the last axis, [B, C, M] -> [B, C]."""
    if products.shape[-1] == 1:
        return np.asarray(products[..., 0], dtype=np.float32)
    top = products.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.exp(products - top).sum(axis=-1)), dtype=np.float32)


def search_exactly(
    item_vectors: F32,
    queries: F32,
    k: int,
    allowed: Bitmap | None = None,
    excluded: Ragged | None = None,
    device: str = "cpu",
    *,
    finite: bool = False,
) -> I64:
    """The k items of the best products without an index.

    Args:
        item_vectors: float32 [N, D].
        queries: float32 [B, D], or [B, M, D] of M interests.
        k: items per request.
        allowed: items that may be found.
        excluded: rows that single requests must not get.
        device: where to compute.
        finite: as in `exact_topk`.

    Returns:
        int64 [B, k] item rows, best first, -1 pads.
    """
    if allowed is not None and finite and 2 * allowed.count > len(item_vectors):
        # To score all and forget some takes less than to copy most.
        bias = np.where(allowed.mask(), np.float32(0.0), np.float32(-np.inf))
        return exact_topk(queries, item_vectors, k, excluded, bias=bias, device=device, finite=True)[0]
    rows = None if allowed is None else allowed.rows
    items = item_vectors if rows is None else item_vectors[rows]
    return exact_topk(queries, items, k, excluded, rows=rows, device=device, finite=finite)[0]


def search_interests(
    index: CandidateIndex,
    queries: F32,
    k: int,
    allowed: Bitmap | None = None,
    excluded: Ragged | None = None,
) -> I64:
    """The k items of the best products: an item among the k best of all is among the k best of its own interest.

    Args:
        index: of the item vectors.
        queries: float32 [B, D], or [B, M, D] of M interests.
        k: items per request.
        allowed: items that may be found.
        excluded: rows that single requests must not get.

    Returns:
        int64 [B, k] item rows, best first, -1 pads.
    """
    if queries.ndim == 2:
        return index.search(queries, k, allowed, excluded).rows
    count, several, _ = queries.shape
    repeated = None if excluded is None else excluded.take(np.repeat(np.arange(count), several))
    found = index.search(queries.reshape(count * several, -1), k, allowed, repeated)
    rows, scores = found.rows.reshape(count, -1), found.scores.reshape(count, -1)
    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    # Of an item found by several interests the first, best place stands.
    by_row = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, by_row, axis=1)
    again = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(again, by_row[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    usable = (rows >= 0) & ~again
    place = np.cumsum(usable, axis=1) - 1
    best = np.full((count, k), -1, dtype=np.int64)
    kept = usable & (place < k)
    request = np.nonzero(kept)[0]
    best[request, place[kept]] = rows[kept]
    return best
