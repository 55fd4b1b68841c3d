"""The index contract over a vector database, which by itself may answer too little, wrongly filtered, or approximately.

A filter never reaches the database. It is asked for more than is wanted; what comes is checked here; and where not
enough comes, the rest is found exactly over the vectors of what is allowed. So a query gets k rows as long as k allowed
items exist, each allowed, none twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...base.arrays import F32, I64, Bool
from ...base.errors import RunError
from ...base.ragged import Ragged
from ...base.topk import exact_topk
from ...training.progress import track
from .base import (
    METRIC,
    Candidates,
    IndexReport,
    SearchPlan,
    as_vectors,
    best_of,
    check_allowed,
    check_delete,
    check_k,
    check_upsert,
    fingerprint,
    unit_length,
)
from .bitmap import Bitmap, ExcludedRows, as_exclusions, as_rows, excluded_pairs
from .faiss import exact_limit
from .store import IndexManifest, commit, manifest_of, staged_array
from .stores import StoreAddress, VectorStore, open_store

BLOCK = 4096
"""Vectors that are written or read in one message."""
TIES = 8
"""Rows asked for beyond what is wanted, so that equal scores at the end of a list are seen."""


class StoreIndex:
    """An index whose vectors lie in a vector database.

    Args:
        store: the collection.
        address: of the collection, None where it cannot be opened again.
        alive: bool [N] rows that can be returned.
        dim: width D of the vectors.
        normalised: whether every vector has length 1.
    """

    metric: Literal["inner_product"] = METRIC

    def __init__(
        self, store: VectorStore, address: StoreAddress | None, alive: Bool, dim: int, normalised: bool
    ) -> None:
        """Nothing is asked of the store yet."""
        self.store, self.address = store, address
        self.normalised = normalised
        self.report: IndexReport | None = None
        self.vectors_sha256: str | None = None
        self._alive, self._dim = alive, dim
        self._decoded: tuple[Bitmap, F32] | None = None

    @property
    def size(self) -> int:
        """Number of items that can be returned."""
        return int(self._alive.sum())

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included."""
        return len(self._alive)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    @property
    def factory(self) -> str:
        """The collection's name behind the database's."""
        return "store" if self.address is None else f"{self.address.kind}/{self.address.name}"

    @property
    def plan(self) -> SearchPlan:
        """None: the database has its own."""
        return SearchPlan()

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """Find the k items with the highest inner product to each query; see `CandidateIndex.search`.

        Raises:
            ConfigError: k, the queries or the filter do not fit the index.
        """
        wanted = as_vectors(queries, self.dim, "queries")
        check_k(k, self.size)
        mask = self._alive
        if allowed is not None:
            check_allowed(allowed, self.num_rows)
            mask = allowed.mask() & mask
        count = self.size if allowed is None else int(mask.sum())
        drop = None if excluded is None else as_exclusions(excluded, len(wanted))
        with self._answering():
            if count <= exact_limit(self.size, k):
                return self._exactly(wanted, k, np.flatnonzero(mask), drop, allowed)
            return self._asked(wanted, k, mask, drop)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Failures of the store in a sentence."""
        try:
            yield
        except self.store.failures as error:
            raise RunError(
                f"{self.address or 'the store'} does not answer ({type(error).__name__}); start it, "
                "or run `recsys build-index` for an index in the run itself"
            ) from error

    def _asked(self, queries: F32, k: int, mask: Bool, drop: Ragged | None) -> Candidates:
        """Ask the database, ever wider, and complete exactly what it does not find."""
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        query, row = excluded_pairs(drop, self.num_rows) if drop is not None else (np.empty(0, np.int64),) * 2
        keys = query * self.num_rows + row
        barred = np.bincount(query, minlength=len(queries))
        most = min(self.store.most, self.size)
        todo = np.arange(len(queries))
        width = min(k + int(barred.max(initial=0)) + TIES, most)
        while len(todo):
            found, products = self.store.nearest(queries[todo], width)
            good = found >= 0
            good[good] = mask[found[good]]
            if len(keys):
                asked = todo[:, None] * self.num_rows + found
                at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
                good &= keys[at] != asked
            best = best_of(np.where(good, found, -1), np.where(good, products, np.float32(-np.inf)), k)
            rows[todo, : best.rows.shape[1]], scores[todo, : best.rows.shape[1]] = best.rows, best.scores
            # A list is whole when its last score is above all that was not looked at.
            whole = (rows[todo, -1] >= 0) & ((scores[todo, -1] > products[:, -1]) | (width == self.size))
            todo = todo[~whole]
            if width == most:
                break
            width = min(2 * width, most)
        short = todo[rows[todo, -1] < 0]
        if len(short):
            lists = None if drop is None else drop.take(short)
            exact = self._exactly(queries[short], k, np.flatnonzero(mask), lists, None)
            rows[short], scores[short] = exact.rows, exact.scores
        return Candidates(rows, scores)

    def _exactly(self, queries: F32, k: int, rows: I64, drop: Ragged | None, allowed: Bitmap | None) -> Candidates:
        """The k best of some rows, whose vectors are fetched block by block; those of a filter are kept for a while."""
        if allowed is None:
            parts = ((part, self.store.fetch(part)) for part in _blocks(rows))
        else:
            if self._decoded is None or self._decoded[0] is not allowed:
                self._decoded = allowed, self._fetched(rows)
            parts = ((some, vectors) for some, vectors in [(rows, self._decoded[1])])
        best = Candidates(
            np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
        )
        for part, vectors in parts:
            found = exact_topk(queries, vectors, k, drop, rows=part, finite=True)
            rows_of_both, scores = np.hstack([best.rows, found[0]]), np.hstack([best.scores, found[1]])
            best = best_of(rows_of_both, scores, k)
        return best

    def stored_vectors(self) -> tuple[I64, F32]:
        """Every item that can be returned: rows int64 [size], ascending, and their vectors [size, D]."""
        rows = np.flatnonzero(self._alive)
        return rows, self._fetched(rows)

    def _fetched(self, rows: I64) -> F32:
        none = np.empty((0, self.dim), dtype=np.float32)
        return np.concatenate([none, *(self.store.fetch(part) for part in _blocks(rows))])

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Replace the vectors of existing rows and append new rows, in the collection that everybody searches."""
        at, fresh = as_rows(rows), as_vectors(vectors, self.dim)
        check_upsert(at, fresh, self.num_rows, self.normalised)
        with self._answering():
            for part in _blocks(np.arange(len(at))):
                self.store.put(at[part], fresh[part])
        added = max(int(at.max(initial=-1)) + 1 - self.num_rows, 0)
        self._alive = np.concatenate([self._alive, np.zeros(added, dtype=np.bool_)])
        self._alive[at] = True
        self._decoded = self.vectors_sha256 = None

    def delete(self, rows: ArrayLike) -> None:
        """Take items out of the collection; their rows stay reserved."""
        at = as_rows(rows)
        check_delete(at, self.num_rows)
        gone = np.unique(at[self._alive[at]])
        with self._answering():
            for part in _blocks(gone):
                self.store.remove(part)
        self._alive = self._alive.copy()
        self._alive[gone] = False
        self._decoded = self.vectors_sha256 = None

    def compact(self) -> None:
        """Nothing: the database reclaims by itself."""

    def file_bytes(self) -> int:
        """Size of the vectors, which lie elsewhere."""
        return 4 * self.size * self.dim

    def save(self, folder: Path) -> None:
        """Write where the collection is and which rows it has; the vectors stay there.

        Raises:
            RunError: the collection is in memory only.
        """
        if self.address is None:
            raise RunError("a store in memory cannot be kept with a run; build the index with an address")
        files = {"alive": staged_array(folder, "alive", self._alive)}
        commit(folder, manifest_of(self, "store", files, address=str(self.address)))

    @classmethod
    def of(cls, folder: Path, manifest: IndexManifest) -> StoreIndex:
        """Connect to the collection of a checked manifest.

        Raises:
            ConfigError: the client is not installed.
            RunError: nothing answers, or the collection does not hold what the run says.
        """
        address = StoreAddress.of(manifest.address)
        store = open_store(address)
        if not store.exists():
            raise RunError(f"{address} is gone from its store; run `recsys build-index` again")
        if (count := store.count()) != manifest.size:
            raise RunError(
                f"{address} holds {count} items, the run says {manifest.size}; run `recsys build-index` again"
            )
        alive = np.load(folder / manifest.files["alive"].name, allow_pickle=False)
        index = cls(store, address, alive, manifest.dim, manifest.normalised)
        index.report, index.vectors_sha256 = manifest.report, manifest.vectors_sha256
        return index


def fill_store(vectors: F32, address: StoreAddress, parts: int) -> StoreIndex:
    """Write item vectors into a collection of their own, named after what they are, and look whether they are there.

    The name of the address does not mean it yet: `StoreIndex.store.publish` does that.

    Args:
        vectors: float32 [N, D].
        address: of the store, with the name that is asked for; the collection is called that and the hash of `vectors`.
        parts: shards of the database's own.

    Raises:
        RunError: the store does not hold what was written.
    """
    digest = fingerprint(vectors)
    own = address.named(f"{address.name}_{digest[:12]}")
    store = open_store(own)
    store.create(vectors.shape[1], parts)
    for part in track(list(_blocks(np.arange(len(vectors)))), f"writing {own.name}"):
        store.put(part, vectors[part])
    if (count := store.count()) != len(vectors):
        raise RunError(f"{own} holds {count} items after {len(vectors)} were written; look at the log of the store")
    some = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), BLOCK)).astype(np.int64))
    if not np.allclose(store.fetch(some), vectors[some], rtol=0, atol=1e-6 * max(1.0, float(np.abs(vectors).max()))):
        raise RunError(f"{own} gives back other vectors than were written; it may keep them rounded, or normalise them")
    alive = np.ones(len(vectors), dtype=np.bool_)
    index = StoreIndex(store, own, alive, vectors.shape[1], unit_length(vectors))
    index.vectors_sha256 = digest
    return index


def _blocks(rows: I64) -> Iterator[I64]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
