"""What every candidate index answers with, promises, and records about itself.

An index knows arrays only: item row r is position r of the item-vector matrix, and the caller maps rows to ids. There
is one metric, the inner product; a cosine is the inner product of unit vectors. An index of another metric ranks other
items than the towers were trained for, so it is refused wherever it could come in.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from ...base.arrays import F32, I64
from ...base.errors import ConfigError
from .bitmap import Bitmap, ExcludedRows

METRIC: Literal["inner_product"] = "inner_product"


@dataclass(frozen=True, slots=True)
class Candidates:
    """The items found for each query, highest score first, equal scores by lower row.

    Args:
        rows: int64 [B, k] item rows; -1 pads a query with fewer than k allowed items.
        scores: float32 [B, k] inner products as the index computes them; -inf beside a pad.
    """

    rows: I64
    scores: F32


class CandidateIndex(Protocol):
    """Finds the items with the highest inner product to a query vector.

    Whatever the filter, a query gets k rows as long as k allowed items exist, each allowed, none twice.
    """

    metric: Literal["inner_product"]

    @property
    def size(self) -> int:
        """Number of items that can be returned (deleted ones are not counted)."""

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included: rows are 0..num_rows - 1, the length of a `Bitmap`."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """The k best allowed items of each query, [B, D] -> [B, k]."""

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Replace the vectors of existing rows and append new rows (which continue at `num_rows`)."""

    def delete(self, rows: ArrayLike) -> None:
        """Take items out; their rows stay reserved and can be upserted again."""

    def compact(self) -> None:
        """Reclaim what replaced and deleted items still occupy."""

    def save(self, folder: Path) -> None:
        """Write the index into a folder, whole or not at all."""


class SearchPlan(BaseModel):
    """How hard an approximate index must look, measured at build time and stored with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = 0
    """The cut-off that was tuned; 0 when nothing was."""
    effort: dict[str, int] = {}
    """Search parameters that reach the target recall: nprobe, efSearch, k_factor."""
    filtered: tuple[tuple[float, dict[str, int]], ...] = ()
    """(fraction of the items allowed, search parameters that reach the target recall among them), falling."""

    def effort_for(self, reach: float) -> dict[str, int]:
        """Parameters for a search that must look past unwanted items.

        A filter that allows a tenth of the items makes the k best of them lie as deep as the 10 k best of all, and
        asking for 10 k items does the same; both are one number here.

        Args:
            reach: fraction allowed x (tuned k / asked k); a measured fraction serves down to nine tenths of it.
        """
        if reach >= 0.9 or not self.filtered:
            return self.effort
        return next((effort for fraction, effort in self.filtered if 0.9 * fraction <= reach), self.filtered[-1][1])


NEAR, DEAR = 0.03, 5.0
"""Share of the exact result that may be worth giving up, and how many times faster a search must be then."""


class CurvePoint(BaseModel):
    """One measured point of the recall-latency curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    effort: dict[str, int]
    recall: float
    p50_ms: float


class FilteredPoint(BaseModel):
    """Recall among the allowed items when a random fraction of the catalogue is allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fraction: float
    effort: dict[str, int]
    recall: float


class IndexReport(BaseModel):
    """What the build measured against exact search on held-out queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factory: str
    size: int
    dim: int
    k: int
    queries: int
    """Number of queries behind the recall figure."""
    target_recall: float
    ann_recall: float
    """Mean share of the exact k best that the index returns (an item scoring as high as the k-th counts)."""
    effort: dict[str, int]
    p50_ms: float
    p99_ms: float
    """One query at a time on one thread."""
    build_seconds: float
    file_bytes: int
    curve: tuple[CurvePoint, ...]
    filtered: tuple[FilteredPoint, ...]
    warning: str | None = None

    @property
    def advice(self) -> str | None:
        """Where the last hundredths of the recall cost several times what all before them do: the cheaper target."""
        taken = next((point for point in self.curve if point.effort == self.effort), None)
        if taken is None:
            return None
        near = [point for point in self.curve if taken.recall - NEAR <= point.recall < taken.recall]
        least = min(near, key=lambda point: point.p50_ms, default=taken)
        if taken.p50_ms < DEAR * least.p50_ms:
            return None
        target = math.floor(100 * least.recall) / 100
        return (
            f"a recall of {taken.recall:.3f} takes {taken.p50_ms:.2f} ms and one of {least.recall:.3f} takes "
            f"{least.p50_ms:.2f} ms: with index.target_recall = {target:.2f} answers come sooner"
        )

    def to_json(self) -> dict[str, Any]:
        """The report with the recall under its full name, `ann_recall@<k>`."""
        document = self.model_dump(mode="json")
        return {(f"ann_recall@{self.k}" if key == "ann_recall" else key): value for key, value in document.items()}


def as_vectors(vectors: ArrayLike, dim: int | None = None, what: str = "item vectors") -> F32:
    """Vectors as contiguous float32 [n, D], refused when not finite or of another width."""
    dense = np.ascontiguousarray(vectors, dtype=np.float32)
    if dense.ndim != 2 or (dim is not None and dense.shape[1] != dim):
        expected = f"[n, {dim}]" if dim is not None else "[n, D]"
        raise ConfigError(f"{what} must be {expected} numbers, got {list(dense.shape)}; pass the vectors of one model")
    # One dot product finds any NaN or infinity for the price of a microsecond; only a suspicious sum is looked into.
    if not math.isfinite(float(np.vdot(dense, dense))):
        broken = np.flatnonzero(~np.isfinite(dense).all(axis=1))
        if len(broken):
            raise ConfigError(
                f"{what} hold NaN or infinity in {len(broken)} rows, first in row {broken[0]}; "
                "the model that made them has diverged, train it again"
            )
    return dense


def check_k(k: int, size: int) -> None:
    """Refuse a k that the index cannot answer."""
    if k < 1:
        raise ConfigError(f"k={k} asks for nothing; give k of at least 1")
    if k > size:
        raise ConfigError(f"k={k} exceeds the {size} indexed items; lower k or rebuild the index")


def check_allowed(allowed: Bitmap, num_rows: int) -> None:
    """Refuse a filter that was built for another number of rows."""
    if allowed.size != num_rows:
        raise ConfigError(
            f"the filter speaks about {allowed.size} item rows and the index has {num_rows}; "
            "build the filter from the columns of the indexed items"
        )


def check_upsert(rows: I64, vectors: F32, num_rows: int, normalised: bool) -> None:
    """Refuse rows that repeat or leave a gap, and vectors of another length than the index was built from."""
    if len(rows) != len(vectors):
        raise ConfigError(f"{len(rows)} rows came with {len(vectors)} vectors; give one vector per row")
    if len(np.unique(rows)) != len(rows):
        raise ConfigError("a row stands twice in one upsert; keep its newest vector only")
    fresh = np.sort(rows[rows >= num_rows])
    if len(rows) and rows.min() < 0:
        raise ConfigError(f"row {rows.min()} is negative; rows are 0..{num_rows - 1}, new ones continue at {num_rows}")
    if len(fresh) and (fresh[0] != num_rows or fresh[-1] != num_rows + len(fresh) - 1):
        raise ConfigError(f"new rows must continue at {num_rows} without a gap, got {fresh[0]}..{fresh[-1]}")
    if normalised and len(vectors) and not unit_length(vectors):
        raise ConfigError("the index holds unit vectors and these are not; normalise them as the item tower does")


def check_delete(rows: I64, num_rows: int) -> None:
    """Refuse to delete what was never there."""
    if len(rows) and (rows.min() < 0 or rows.max() >= num_rows):
        worst = rows.min() if rows.min() < 0 else rows.max()
        raise ConfigError(f"row {worst} cannot be deleted: the index has rows 0..{num_rows - 1}")


def in_order(rows: I64, scores: F32) -> Candidates:
    """Candidates with equal scores put by lower row, in place; `scores` [B, k] already fall along each query."""
    equal = scores[:, 1:] == scores[:, :-1]
    if np.count_nonzero(equal):
        lines = np.flatnonzero(equal.any(axis=1))
        order = np.lexsort((rows[lines], -scores[lines]), axis=-1)
        rows[lines], scores[lines] = (
            np.take_along_axis(rows[lines], order, axis=1),
            np.take_along_axis(scores[lines], order, axis=1),
        )
    return Candidates(rows, scores)


def best_of(rows: I64, scores: F32, k: int) -> Candidates:
    """The first k of lists, [B, n] -> [B, at most k]: highest score first, equal scores by lower row, pads last.

    Args:
        rows: int64 [B, n] in any order, -1 pads.
        scores: float32 [B, n], -inf beside a pad.
        k: most that are kept.
    """
    last = np.where(rows < 0, np.iinfo(np.int64).max, rows)
    order = np.lexsort((last, -scores), axis=-1)[:, :k]
    return Candidates(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))


def unit_length(vectors: F32) -> bool:
    """Whether every vector has length 1 (to a thousandth)."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return bool((np.abs(lengths - 1.0) < 1e-3).all())


def fingerprint(vectors: F32) -> str:
    """The sha256 of a vector matrix, its shape included: tells whether an index was built from it."""
    digest = hashlib.sha256(f"{vectors.shape[0]}x{vectors.shape[1]}".encode())
    digest.update(np.ascontiguousarray(vectors, dtype=np.float32).data)
    return digest.hexdigest()
