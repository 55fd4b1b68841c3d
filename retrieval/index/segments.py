"""An index that is never written to, and items that changed since it was built, searched exactly beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...base.arrays import F32, I64, Bool
from ...base.topk import exact_topk
from .base import METRIC, CandidateIndex, Candidates, as_vectors, check_k
from .bitmap import Bitmap, ExcludedRows, as_exclusions


class SegmentedIndex:
    """A main segment, of which the changed rows count as dead, and a small one of the changed rows.

    Args:
        main: of the first `main.num_rows` rows; it may be shared and mapped.
        vectors: float32 [N, D] of all rows, written by whoever changes an item.
        living: bool [N], rows that may be found, likewise.
    """

    metric: Literal["inner_product"] = METRIC

    def __init__(self, main: CandidateIndex, vectors: F32, living: Bool) -> None:
        self.main, self.vectors, self.living = main, vectors, living
        self.changed = np.zeros(len(vectors), dtype=np.bool_)
        self.changed[main.num_rows :] = True

    @property
    def size(self) -> int:
        """See `CandidateIndex.size`."""
        return int(self.living.sum())

    @property
    def num_rows(self) -> int:
        """See `CandidateIndex.num_rows`."""
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """See `CandidateIndex.dim`."""
        return self.main.dim

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """See `CandidateIndex.upsert`; there is room for `num_rows` rows."""
        at = np.asarray(rows, dtype=np.int64)
        self.vectors[at] = as_vectors(vectors, self.dim)
        self.changed[at], self.living[at] = True, True

    def delete(self, rows: ArrayLike) -> None:
        """See `CandidateIndex.delete`."""
        self.living[np.asarray(rows, dtype=np.int64)] = False

    def compact(self) -> None:
        """Nothing: what was changed is taken up by the index of the next run."""

    def save(self, folder: Path) -> None:
        """See `CandidateIndex.save`; only the main segment is a file."""
        self.main.save(folder)

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """See `CandidateIndex.search`; both segments by one exact score, equal ones by the lower row."""
        asked = as_vectors(queries, self.dim, "query vectors")
        check_k(k, self.num_rows)
        wanted = self.living if allowed is None else self.living & allowed.mask()
        barred = None if excluded is None else as_exclusions(excluded, len(asked))
        size = self.main.num_rows
        rest = wanted[:size] & ~self.changed[:size]
        parts: list[tuple[I64, F32]] = []
        if rest.any():
            among = None if rest.all() and self.main.size == size else Bitmap.from_mask(rest)
            found = self.main.search(asked, min(k, self.main.size), among, barred).rows
            scores = np.einsum("bkd,bd->bk", self.vectors[found], asked)
            parts.append((found, np.where(found >= 0, scores, -np.inf).astype(np.float32)))
        moved = np.flatnonzero(wanted & self.changed)
        if len(moved):
            parts.append(exact_topk(asked, self.vectors[moved], min(k, len(moved)), barred, rows=moved))
        return _merged(parts, len(asked), k)


def _merged(parts: list[tuple[I64, F32]], queries: int, k: int) -> Candidates:
    """The k best of several lists, highest score first, equal scores by lower row."""
    rows = np.concatenate([np.full((queries, k), -1), *(named for named, _ in parts)], axis=1)
    scores = np.concatenate([np.full((queries, k), -np.inf, np.float32), *(values for _, values in parts)], axis=1)
    order = np.lexsort((rows, rows < 0, -scores), axis=-1)[:, :k]
    return Candidates(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))
