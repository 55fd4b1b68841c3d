"""Exact search: a blocked matrix product and a top-k, on the CPU or a GPU.

This is the reference that every approximate index is measured against, the search over the few items that a narrow
filter leaves, and the way to search on a GPU without faiss-gpu (where it is fast enough to need no approximation).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...base.arrays import F32, I64, AnyArray, Bool
from ...base.errors import RunError
from ...base.ragged import Ragged
from .base import (
    METRIC,
    Candidates,
    IndexReport,
    SearchPlan,
    as_vectors,
    check_allowed,
    check_delete,
    check_k,
    check_upsert,
    fingerprint,
    unit_length,
)
from .bitmap import Bitmap, ExcludedRows, as_exclusions, as_rows, excluded_pairs
from .store import IndexManifest, commit, read_index_manifest, staged

_QUERY_BLOCK = 64
_SCORES_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 28}  # 16 MB stay in a core's cache; 1 GB feeds a GPU


class ExactIndex:
    """Every item is scored for every query; nothing is approximated.

    Args:
        item_vectors: float32 [N, D].
        device: where the vectors lie and the search runs.
    """

    metric: Literal["inner_product"] = METRIC

    def __init__(self, item_vectors: ArrayLike, device: str | torch.device = "cpu") -> None:
        """Copy the vectors to the device."""
        vectors = as_vectors(item_vectors)
        self.normalised = unit_length(vectors)
        self.vectors_sha256: str | None = None
        self.report: IndexReport | None = None
        self._vectors = torch.tensor(vectors, device=device)
        self._alive: Bool | None = None

    @property
    def size(self) -> int:
        """Number of items that can be returned."""
        return self.num_rows if self._alive is None else int(self._alive.sum())

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included."""
        return len(self._vectors)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._vectors.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self._vectors.device

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """Find the k items with the highest inner product to each query.

        Args:
            queries: float32 [B, D].
            k: items to return per query, at most `size`.
            allowed: items that may be returned; all when None.
            excluded: further rows that single queries must not get.

        Returns:
            `Candidates` [B, k]; a query with fewer than k allowed items is padded.

        Raises:
            ConfigError: k, the queries or the filter do not fit the index.
        """
        wanted = as_vectors(queries, self.dim, "queries")
        check_k(k, self.size)
        mask = self._alive
        if allowed is not None:
            check_allowed(allowed, self.num_rows)
            mask = allowed.mask() if mask is None else allowed.mask() & mask
        rows = None if mask is None else np.flatnonzero(mask)
        drop = None if excluded is None else as_exclusions(excluded, len(wanted))
        return exact_top_k(wanted, self._vectors, k, rows, drop, self.num_rows)

    def stored_vectors(self) -> tuple[I64, F32]:
        """Every item that can be returned: rows int64 [size], ascending, and their vectors [size, D]."""
        rows = np.arange(self.num_rows) if self._alive is None else np.flatnonzero(self._alive)
        return rows, self._vectors.cpu().numpy()[rows]

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Replace the vectors of existing rows and append new rows."""
        at, fresh = as_rows(rows), as_vectors(vectors, self.dim)
        check_upsert(at, fresh, self.num_rows, self.normalised)
        added = int((at >= self.num_rows).sum())
        if added:
            tail = self._vectors.new_zeros((added, self.dim))
            self._vectors = torch.cat([self._vectors, tail])
        self._vectors[torch.from_numpy(at).to(self.device)] = torch.from_numpy(fresh).to(self.device)
        if self._alive is not None:
            self._alive = np.concatenate([self._alive, np.zeros(added, dtype=np.bool_)])
            self._alive[at] = True
        self.vectors_sha256 = None

    def delete(self, rows: ArrayLike) -> None:
        """Take items out of every later answer."""
        at = as_rows(rows)
        check_delete(at, self.num_rows)
        if self._alive is None:
            self._alive = np.ones(self.num_rows, dtype=np.bool_)
        self._alive[at] = False

    def compact(self) -> None:
        """Nothing to reclaim: a replaced vector is overwritten in place and deleted rows stay reserved."""

    def save(self, folder: Path) -> None:
        """Write the vectors and the sidecar `index.json`, whole or not at all."""
        vectors = self._vectors.cpu().numpy()
        staging = {"vectors": staged(folder, "vectors", ".npy", lambda path: _write_array(path, vectors))}
        if self._alive is not None:
            alive = self._alive
            staging["alive"] = staged(folder, "alive", ".npy", lambda path: _write_array(path, alive))
        commit(
            folder,
            IndexManifest(
                kind="exact",
                metric=METRIC,
                dim=self.dim,
                size=self.size,
                num_rows=self.num_rows,
                deleted=self.num_rows - self.size,
                normalised=self.normalised,
                factory="Exact",
                plan=SearchPlan(),
                vectors_sha256=self.vectors_sha256 or fingerprint(vectors),
                files=staging,
                report=self.report,
            ),
        )

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> ExactIndex:
        """Read what `save` wrote; a missing, truncated or altered file is a RunError that names it."""
        manifest = read_index_manifest(folder, "exact")
        vectors = _read_array(folder / manifest.files["vectors"].name)
        if vectors.shape != (manifest.num_rows, manifest.dim):
            raise RunError(
                f"{folder / manifest.files['vectors'].name} holds {list(vectors.shape)} numbers where index.json says "
                f"[{manifest.num_rows}, {manifest.dim}]; rebuild the index"
            )
        index = cls(vectors, device)
        index.normalised, index.report = manifest.normalised, manifest.report
        index.vectors_sha256 = manifest.vectors_sha256
        if "alive" in manifest.files:
            index._alive = _read_array(folder / manifest.files["alive"].name).astype(np.bool_)
        return index


def exact_top_k(
    queries: F32,
    vectors: torch.Tensor,
    k: int,
    rows: I64 | None = None,
    excluded: Ragged | None = None,
    num_rows: int | None = None,
    packed: bool = False,
) -> Candidates:
    """Score every given item for every query in blocks and keep the best k, equal scores by lower row.

    Args:
        queries: float32 [B, D].
        vectors: float32 [N, D] on the device that does the work; [len(rows), D] when `packed`.
        k: items per query.
        rows: item rows that may be returned, ascending; all N when None.
        excluded: rows that single queries must not get.
        num_rows: number of rows that exclusions may name; N when None.
        packed: `vectors` holds the vectors of `rows` only, in their order.

    Returns:
        `Candidates` [B, k].
    """
    device = vectors.device
    count = len(vectors) if rows is None else len(rows)
    total = len(vectors) if num_rows is None else num_rows
    best_rows = np.full((len(queries), k), -1, dtype=np.int64)
    best_scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    drop_query, drop_at = _excluded_positions(excluded, rows, total)
    gather = None if rows is None or packed else torch.from_numpy(rows).to(device)
    at_once = _SCORES_AT_ONCE["cpu" if device.type == "cpu" else "cuda"]
    query_block = _QUERY_BLOCK if device.type == "cpu" else 1024
    for first in range(0, len(queries), query_block):
        block = torch.from_numpy(queries[first : first + query_block]).to(device)
        found: tuple[torch.Tensor, torch.Tensor] | None = None
        lo, hi = np.searchsorted(drop_query, [first, first + len(block)])
        for start, stop in _spans(count, max(at_once // max(len(block), 1), 4 * k)):
            part = vectors[start:stop] if gather is None else vectors[gather[start:stop]]
            scores = block @ part.T  # [b, n]
            here = (drop_at[lo:hi] >= start) & (drop_at[lo:hi] < stop)
            if here.any():
                lines = torch.from_numpy(drop_query[lo:hi][here] - first).to(device)
                scores[lines, torch.from_numpy(drop_at[lo:hi][here] - start).to(device)] = -torch.inf
            found = _merge(found, _block_top_k(scores, k, start), k)
        if found is not None:
            width = found[0].shape[1]
            best_scores[first : first + len(block), :width] = found[0].cpu().numpy()
            best_rows[first : first + len(block), :width] = found[1].cpu().numpy()
    if rows is not None and count:
        best_rows = np.where(best_rows >= 0, rows[best_rows], -1)
    best_rows[np.isneginf(best_scores)] = -1
    return Candidates(best_rows, best_scores)


def _block_top_k(scores: torch.Tensor, k: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k columns of [b, n], as (scores, positions counted from `start`), equal scores by lower position."""
    width = scores.shape[1]
    if width <= k:
        values, columns = scores.sort(dim=1, descending=True, stable=True)
        return values, columns + start
    values, columns = scores.topk(k + 1, dim=1)
    # Which of several equal scores topk takes is arbitrary: where the cut runs through equals, sort to take the lowest.
    torn = (values[:, k - 1] == values[:, k]).nonzero().flatten()
    if len(torn):
        exact, order = scores[torn].sort(dim=1, descending=True, stable=True)
        values[torn], columns[torn] = exact[:, : k + 1], order[:, : k + 1]
    columns, by_column = columns[:, :k].sort(dim=1)
    values, by_score = values[:, :k].gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_score) + start


def _merge(
    found: tuple[torch.Tensor, torch.Tensor] | None, fresh: tuple[torch.Tensor, torch.Tensor], k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join two sorted lists; a stable sort keeps the earlier block (the lower rows) first among equals."""
    if found is None:
        return fresh
    values, order = torch.cat([found[0], fresh[0]], dim=1).sort(dim=1, descending=True, stable=True)
    columns = torch.cat([found[1], fresh[1]], dim=1).gather(1, order)
    return values[:, :k], columns[:, :k]


def _excluded_positions(excluded: Ragged | None, rows: I64 | None, num_rows: int) -> tuple[I64, I64]:
    """(query, position among the searched items) of every exclusion that matters, queries ascending."""
    if excluded is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    query, row = excluded_pairs(excluded, num_rows)
    if rows is None:
        return query, row
    at = np.searchsorted(rows, row)
    present = (at < len(rows)) & (rows[np.minimum(at, len(rows) - 1)] == row) if len(rows) else at < 0
    return query[present], at[present]


def _spans(count: int, width: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, stop) of at most `width`."""
    for start in range(0, count, width):
        yield start, min(start + width, count)


def _write_array(path: Path, array: AnyArray) -> None:
    with path.open("wb") as out:
        np.save(out, array, allow_pickle=False)


def _read_array(path: Path) -> AnyArray:
    try:
        return cast("AnyArray", np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is no readable array ({error}); rebuild the index") from error
