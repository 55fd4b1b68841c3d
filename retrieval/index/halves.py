"""Exact search in half precision: fetch more than asked for, score again in float32, and prove every answer.

A GPU multiplies float16 several times faster than float32 and reads half the bytes, but rounds. How far rounding can
move a score is bounded, so an answer whose last item beats everything that was not fetched by more than the bound is
the exact one. A query without that proof, such as one with equal scores at the end of its list, is searched again in
float32. So the rows are those of a float32 search, never a share of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import F32, I64, Bool
from ...base.device import to_device
from ...base.ragged import Ragged
from ...base.topk import exact_topk

QUERIES = 1024
"""Queries searched at once."""
SCORES = 1 << 28
"""Half scores held at once, in entries."""
PRODUCTS = 1 << 26
"""Products of a second scoring held at once, in entries."""
HALF, SINGLE = 2.0**-11, 2.0**-24
"""Largest relative error of rounding to float16 and to float32."""
SPARE = 64
"""Items fetched beyond k in float32, so that the order of the second scoring decides near the end of the list."""


@dataclass
class Proofs:
    """How often half precision was enough.

    Attributes:
        asked: queries so far.
        repeated: those searched again in float32.
    """

    asked: int = 0
    repeated: int = 0

    @property
    def share(self) -> float:
        """Of queries searched again, 0 to 1."""
        return self.repeated / max(1, self.asked)


class HalfVectors:
    """Item vectors in float32, and beside them in float16, scaled to a largest norm of 1.

    Args:
        vectors: float32 [N, D], N > 0, finite, where the search is to run.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.largest = max(float(vectors.square().sum(1).max().sqrt()), torch.finfo(torch.float32).tiny)
        self.halves = (vectors / self.largest).half()
        self.proofs = Proofs()

    def search(self, queries: F32, k: int, allowed: Bool | None = None, drop: Ragged | None = None) -> tuple[I64, F32]:
        """The k items of highest inner product, equal scores by the lower row.

        Args:
            queries: float32 [B, D], finite.
            k: length of the lists, at most N.
            allowed: bool [N], items that may be returned.
            drop: item rows in [0, N) that single queries must not get.

        Returns:
            Item rows int64 [B, k], best first, -1 where there are fewer; scores float32 [B, k], -inf at the pads.
        """
        rows = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        where = self.vectors.device
        mask = None if allowed is None else to_device(torch.from_numpy(~allowed), where)
        for start in range(0, len(queries), QUERIES):
            block = slice(start, start + QUERIES)
            asked = to_device(torch.from_numpy(np.ascontiguousarray(queries[block])), where)
            dropped = None if drop is None else drop.take(np.arange(start, start + len(asked)))
            found, best, proven = proven_topk(self, asked, k, mask, dropped)
            sure = proven.cpu().numpy()
            rows[block], scores[block] = found.cpu().numpy(), best.cpu().numpy()
            if not sure.all():
                again = np.flatnonzero(~sure)
                left = None if dropped is None else dropped.take(again)
                rows[start + again], scores[start + again] = self._in_float32(asked, again, k, allowed, left)
            self.proofs.asked += len(sure)
            self.proofs.repeated += int((~sure).sum())
        return rows, scores

    def _in_float32(
        self, asked: Tensor, again: I64, k: int, allowed: Bool | None, drop: Ragged | None
    ) -> tuple[I64, F32]:
        where = self.vectors.device
        query = asked.index_select(0, to_device(torch.from_numpy(again), where))
        at = None if allowed is None else np.flatnonzero(allowed)
        items = self.vectors if at is None else self.vectors.index_select(0, to_device(torch.from_numpy(at), where))
        wide = min(k + SPARE, len(self.vectors))
        found, _ = exact_topk(query, items, wide, drop, rows=at, device=where, finite=True)
        rows = to_device(torch.from_numpy(found), where)
        rows, scores = in_order(rows, exact_scores(query, self.vectors, rows), k)
        return rows.cpu().numpy(), scores.cpu().numpy()


def proven_topk(
    items: HalfVectors, query: Tensor, k: int, forbidden: Tensor | None = None, drop: Ragged | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best by half-precision scores, scored again and put in order; and whether each list is the exact one.

    Args:
        items: N of them.
        query: float32 [B, D].
        k: length of the lists.
        forbidden: bool [N], items that may not be returned.
        drop: item rows that single queries must not get.

    Returns:
        rows: int64 [B, k], -1 pads.
        scores: float32 [B, k], -inf at the pads.
        proven: bool [B].
    """
    count, dim = items.vectors.shape
    fetch = min(4 * k, k + 300, count)
    length = query.square().sum(1, keepdim=True).sqrt()
    halved = (query / length.clamp(min=torch.finfo(torch.float32).tiny)).half()
    width = max(fetch, SCORES // max(1, len(query)))
    best = halved.new_empty(len(query), 0)
    rows = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for first in range(0, count, width):
        scores = _half_products(halved, items.halves[first : first + width])
        if forbidden is not None:
            scores.masked_fill_(forbidden[first : first + width], -torch.inf)
        if drop is not None:
            for owner, item in _entries(drop, first, first + width):
                scores[to_device(owner, query.device), to_device(item, query.device)] = -torch.inf
        values, columns = scores.topk(min(fetch, scores.shape[1]), dim=1)
        best, rows = torch.cat([best, values], dim=1), torch.cat([rows, columns + first], dim=1)
        if best.shape[1] > fetch:
            best, columns = best.topk(fetch, dim=1)
            rows = rows.gather(1, columns)
    rows = rows.masked_fill(best == -torch.inf, -1)
    lowest = best.amin(1).float() if fetch < count else best.new_full((len(query),), -torch.inf).float()
    rows, scores = in_order(rows, exact_scores(query, items.vectors, rows), k)
    # Of unit vectors: both operands are rounded to float16, sums are float32 (here, and in the second scoring), and the
    # result is rounded to float16 again, relatively or, near zero, absolutely.
    error = 2 * HALF + 2.0**-20 + 3 * dim * SINGLE
    bound = lowest + 1.001 * HALF * lowest.abs() + SINGLE + error
    proven = (scores[:, -1] > bound * length[:, 0] * items.largest) | (lowest == -torch.inf)
    return rows, scores, proven


def exact_scores(query: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Inner products float32 [B, f] of queries [B, D] and the items at rows int64 [B, f]; -inf where a row is -1.

    One product and one sum for each pair, so that a pair's score does not depend on what else is scored.
    """
    step = max(1, PRODUCTS // max(1, rows.shape[1] * vectors.shape[1]))
    parts = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        taken = vectors.index_select(0, some.clamp(min=0).flatten()).view(*some.shape, -1)
        parts.append((query[start : start + step].unsqueeze(1) * taken).sum(2))
    scores = torch.cat(parts) if parts else query.new_empty(rows.shape)
    return scores.masked_fill(rows < 0, -torch.inf)


def in_order(rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of lists [B, f], by score and then by the lower row."""
    rows, order = rows.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return rows.gather(1, order)[:, :k], scores[:, :k]


def _half_products(query: Tensor, items: Tensor) -> Tensor:
    """Scores float16 [B, n] of float16 [B, D] and [n, D], summed in float32."""
    if query.device.type != "cuda":
        with _float32_sums():
            return (query.float() @ items.float().T).half()
    with _float32_sums():
        return query @ items.T


@contextmanager
def _float32_sums() -> Iterator[None]:
    """No sums in float16 and no rounded float32 operands, whatever the process asked for."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.allow_fp16_reduced_precision_reduction = before[1]


def _entries(lists: Ragged, first: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Row and column, within a tile of items, of the entries that fall into it; nothing where none does."""
    inside = np.flatnonzero((lists.items >= first) & (lists.items < stop))
    if len(inside):
        owner = np.repeat(np.arange(len(lists)), lists.lengths)[inside]
        yield torch.from_numpy(owner), torch.from_numpy(lists.items[inside].astype(np.int64) - first)
