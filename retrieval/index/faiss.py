"""Approximate search with FAISS that keeps exact promises.

FAISS alone may return fewer than k items: a graph search under a selective filter dries up, a clustered one finds too
few allowed items in the clusters it probes. Here a narrow filter is answered exactly over the items that it leaves, a
wider one searches as hard as the build measured to be needed for that width, and a query that still comes back short is
scanned through. Updates append and leave tombstones (`SlotMap`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...base.arrays import F32, I64
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
    in_order,
    unit_length,
)
from .bitmap import Bitmap, ExcludedRows, as_exclusions, as_rows, excluded_pairs
from .families import Family, bytes_of, call, faiss_module, read_raw, selector
from .slots import SlotMap, read_slots, write_slots
from .store import IndexManifest, commit, manifest_of, read_index_manifest, staged

EXACT_FRACTION = 0.0125
"""Below this share of allowed items they are all scored: at a million items of width 64 and 1 % allowed, 0.4 ms a query
when the filter repeats and 8 ms when it is new, against 2.5 ms for probing past the others; a batch gains eightfold."""
EXACT_ROWS = 2048
_BLOCK = 65_536
_NO_ROWS = np.empty(0, dtype=np.int64)
_FOUND_AT_ONCE = 1 << 22
_GPU_LIMIT = 2048  # largest k and nprobe of FAISS on a GPU


def exact_limit(size: int, k: int) -> int:
    """Up to how many allowed items they are all scored instead of searched for."""
    return int(max(EXACT_ROWS, 2 * k, EXACT_FRACTION * size))


class FaissIndex:
    """A FAISS index of one of the offered families over item rows.

    One thread may write (`upsert`, `delete`, `compact`) while no other searches; searches may run side by side.
    Make one with `FaissIndex.build`, `FaissIndex.load` or, tuned and checked, `build_index`.
    """

    metric: Literal["inner_product"] = METRIC

    def __init__(self, index: Any, family: Family, slots: SlotMap, normalised: bool) -> None:
        """Wrap a trained and filled FAISS index of the inner product."""
        self.family = family
        self.normalised = normalised
        self.vectors_sha256: str | None = None
        self.report: IndexReport | None = None
        self._index = index
        self._slots = slots
        self._plan = SearchPlan()
        self._mapped = False
        self._gpu: Any = None
        self._living: Any = None  # search parameters that select the slots which are no tombstones
        self._dim = int(index.d)
        self._decoded: tuple[Bitmap | None, I64, Any] | None = None

    @classmethod
    def build(cls, item_vectors: ArrayLike, factory: str, seed: int = 0) -> FaissIndex:
        """Train and fill an index; its search effort is whatever FAISS starts with until `use_plan`.

        Args:
            item_vectors: float32 [N, D].
            factory: a family (see `index_families`), e.g. `IVF1024,SQ8`.
            seed: chooses the training sample and the first centroids. (HNSW links are the same again only with the
                same thread count of one, since FAISS inserts in parallel.)
        """
        vectors = as_vectors(item_vectors)
        family = Family.of(factory, *vectors.shape)
        index = cls(family.make(vectors, seed), family, SlotMap(len(vectors)), unit_length(vectors))
        index.vectors_sha256 = fingerprint(vectors)
        index.use_plan(SearchPlan(effort=family.widest(len(vectors))))
        return index

    @property
    def size(self) -> int:
        """Number of items that can be returned."""
        return self._slots.size

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included."""
        return self._slots.num_rows

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self._dim

    @property
    def factory(self) -> str:
        """The FAISS factory string, with the number of clusters filled in."""
        return self.family.factory

    @property
    def plan(self) -> SearchPlan:
        """How hard it looks."""
        return self._plan

    @property
    def dead_fraction(self) -> float:
        """Share of the slots that tombstones occupy; `compact` pays above a fifth or so."""
        return self._slots.dead / max(self._slots.num_slots, 1)

    @property
    def raw(self) -> Any:
        """The FAISS index itself, for measurements; its ids are slots, which are rows until something is replaced."""
        return self._index

    def use_plan(self, plan: SearchPlan) -> None:
        """Search with these measured parameters from now on."""
        self._plan = plan
        self.family.apply(self._index, plan.effort)
        self._gpu = self._living = None

    def use_gpu(self, clone: Any, resources: Any) -> None:
        """Send plain searches to a FAISS copy of this index on a GPU, until the next write (see `index_device`)."""
        self._gpu = clone, resources  # FAISS does not keep the resources of a copy alive

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """Find the k items with the highest inner product to each query.

        Args:
            queries: float32 [B, D].
            k: items to return per query, at most `size`.
            allowed: items that may be returned; all when None.
            excluded: further rows that single queries must not get (the user's history).

        Returns:
            `Candidates` [B, k]; padded only where fewer than k allowed items exist.

        Raises:
            ConfigError: k, the queries or the filter do not fit the index.
        """
        wanted = as_vectors(queries, self._dim, "queries")
        check_k(k, self._slots.size)
        if allowed is None and excluded is None and k <= self._plan.k:
            scores, rows = self._plain(wanted, self._asked(k))
            if self.family.refined:
                scores, rows = np.ascontiguousarray(scores[:, :k]), np.ascontiguousarray(rows[:, :k])
            if not len(rows) or (rows[0, -1] if len(rows) == 1 else rows[:, -1].min()) >= 0:
                return in_order(rows, scores)
        if allowed is not None:
            check_allowed(allowed, self._slots.num_rows)
        drop = None if excluded is None else as_exclusions(excluded, len(wanted))
        return self._guarded(wanted, k, allowed, drop)

    def _guarded(self, queries: F32, k: int, allowed: Bitmap | None, drop: Ragged | None) -> Candidates:
        """Search under a filter, exclusions or tombstones, and see to it that no query comes back short."""
        slots = self._slots
        count = slots.size if allowed is None else slots.count(allowed)
        if count <= exact_limit(slots.size, k):
            return self._exact(queries, k, allowed, drop)
        bits = None if allowed is None and slots.pristine else slots.bits(allowed)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        query, row = excluded_pairs(drop, slots.num_rows) if drop is not None else (_NO_ROWS, _NO_ROWS)
        keys, barred = query * slots.num_rows + row, np.bincount(query, minlength=len(queries))
        # Of the w best allowed items, those that are not excluded are the best of what is left: so a query is fetched
        # ever wider, by its own need alone (the same in a batch), until k are left or nothing more can come.
        todo, width = np.arange(len(queries)), k
        while len(todo):
            now = todo if width > k else todo[barred == 0]
            if len(now):
                step = max(1, _FOUND_AT_ONCE // width)
                effort = self._plan.effort_for(count / slots.size * min(1.0, max(self._plan.k, 1) / width))
                # Of a list that does not depend on how much of it is asked for, no more than can be needed.
                asked = min(width, k + int(barred[now].max())) if self.family.nested else width
                for part in (now[start : start + step] for start in range(0, len(now), step)):
                    found = self._probe(queries[part], asked, bits, effort)
                    rows[part], scores[part] = self._kept(*found, part, k, keys)
                    short = part[(rows[part, -1] < 0) & ((barred[part] + k <= width) | (width == count))]
                    if len(short):
                        found = self._scan(queries[short], width, bits)
                        rows[short], scores[short] = self._kept(*found, short, k, keys)
                todo = todo[(rows[todo, -1] < 0) & (barred[todo] + k > width) & (width < count)]
            width = min(2 * width, count)
        return in_order(rows, scores)

    def _kept(self, scores: F32, found: I64, queries: I64, k: int, keys: I64) -> tuple[I64, F32]:
        """The first k rows of each query that are neither pads nor excluded, and their scores: two [b, k]."""
        rows = self._slots.rows(found)
        good = rows >= 0
        if len(keys):
            asked = queries[:, None] * self._slots.num_rows + rows
            at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
            good &= keys[at] != asked
        if len(rows) == 1 and len(chosen := np.flatnonzero(good[0])[:k]) == k:
            return rows[:, chosen], scores[:, chosen]
        if rows.shape[1] != k or not good.all():
            order = np.argsort(~good, axis=1, kind="stable")[:, :k]
            rows = np.where(np.take_along_axis(good, order, axis=1), np.take_along_axis(rows, order, axis=1), -1)
            scores = np.where(rows >= 0, np.take_along_axis(scores, order, axis=1), np.float32(-np.inf))
        return rows, scores

    def _asked(self, k: int) -> int:
        """What to ask FAISS for: a refinement re-scores a multiple of it, and that was tuned at the plan's k."""
        return max(k, self._plan.k) if self.family.refined else k

    def _plain(self, queries: F32, k: int) -> tuple[F32, I64]:
        """The bare FAISS call with the tuned parameters, past tombstones: (scores, rows) [B, k]."""
        if self._gpu is not None and k <= _GPU_LIMIT:
            scores, found = self._gpu[0].search(queries, k)
            return scores, found
        if self._slots.pristine:
            return call(self._index, queries, k)
        if self._living is None:
            bits = self._slots.bits(None)
            self._living = self.family.parameters(self._plan.effort, selector(bits))
        scores, found = call(self._index, queries, k, self._living)
        return scores, self._slots.rows(found)

    def _probe(self, queries: F32, k: int, bits: NDArray[np.uint8] | None, effort: dict[str, int]) -> tuple[F32, I64]:
        """Search with an effort among the slots in `bits`."""
        scores, found = call(self._index, queries, self._asked(k), self.family.parameters(effort, selector(bits)))
        return scores[:, :k], found[:, :k]

    def _scan(self, queries: F32, k: int, bits: NDArray[np.uint8] | None) -> tuple[F32, I64]:
        """Look at every stored vector among the slots in `bits`: always finds k if there are k."""
        return call(self.family.stored(self._index), queries, k, self.family.scan_parameters(selector(bits)))

    def _exact(self, queries: F32, k: int, allowed: Bitmap | None, drop: Ragged | None) -> Candidates:
        """Score every allowed item; their vectors are kept for the next query under the same filter."""
        import torch

        from ...base.topk import exact_topk

        decoded = self._decoded
        if decoded is None or decoded[0] is not allowed:
            rows = self._slots.alive_rows() if allowed is None else self._slots.among(allowed)
            decoded = (allowed, rows, torch.from_numpy(self._vectors(rows)))
            self._decoded = decoded
        return Candidates(*exact_topk(queries, decoded[2], k, drop, rows=decoded[1], finite=True))

    def _vectors(self, rows: I64) -> F32:
        """The vectors of rows as the index stores them (rounded, if its codes are): float32 [n, D]."""
        if not len(rows):
            return np.empty((0, self.dim), dtype=np.float32)
        vectors: F32 = self.family.stored(self._index).reconstruct_batch(self._slots.slots(rows))
        return vectors

    def probe(self, queries: F32, k: int, allowed: Bitmap | None, effort: dict[str, int]) -> Candidates:
        """Search at one effort with nothing to make up for a short answer: for measurements."""
        bits = None if allowed is None and self._slots.pristine else self._slots.bits(allowed)
        scores, found = self._probe(queries, k, bits, effort)
        return Candidates(self._slots.rows(found), scores)

    def file_bytes(self) -> int:
        """Size of the FAISS file, without writing it."""
        return bytes_of(self._index)

    def stored_vectors(self) -> tuple[I64, F32]:
        """Every item that can be returned: rows int64 [size], ascending, and their stored vectors [size, D]."""
        rows = self._slots.alive_rows()
        return rows, self._vectors(rows)

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Replace the vectors of existing rows (deleted ones too) and append new rows, without a rebuild.

        Args:
            rows: int64 [n], distinct; rows from `num_rows` on must continue it without a gap.
            vectors: float32 [n, D].
        """
        at, fresh = as_rows(rows), as_vectors(vectors, self.dim)
        check_upsert(at, fresh, self.num_rows, self.normalised)
        if not len(at):
            return
        order = np.argsort(at)
        self._make_writable()
        self._index.add(np.ascontiguousarray(fresh[order]))
        self._slots.append(at[order])
        self._changed()

    def delete(self, rows: ArrayLike) -> None:
        """Take items out of every later answer; their rows stay reserved."""
        at = as_rows(rows)
        check_delete(at, self.num_rows)
        self._slots.delete(at)
        self._changed()

    def compact(self) -> None:
        """Drop all tombstones: the remaining vectors move, as they are stored, into a fresh index trained alike."""
        faiss = faiss_module()
        if not self._slots.dead:
            return
        self._make_writable()
        rows = self._slots.alive_rows()
        fresh = faiss.clone_index(self._index)
        fresh.reset()
        for start in range(0, len(rows), _BLOCK):
            fresh.add(self._vectors(rows[start : start + _BLOCK]))
        identity = len(rows) == self.num_rows
        self._slots = SlotMap(len(rows)) if identity else SlotMap.from_array(rows, self.num_rows)
        self._index = fresh
        self.family.prepare(fresh)
        self.family.apply(fresh, self._plan.effort)
        self._changed()

    def save(self, folder: Path) -> None:
        """Write `index-*.faiss`, the slot map when items were changed, and `index.json`, whole or not at all."""
        commit(folder, self.stage(folder))

    def stage(self, folder: Path) -> IndexManifest:
        """Write the files; nothing refers to them until the manifest is committed."""
        faiss = faiss_module()
        files = {"index": staged(folder, "index", ".faiss", lambda path: faiss.write_index(self._index, str(path)))}
        row_of = self._slots.to_array()
        if row_of is not None:
            files["slots"] = staged(folder, "slots", ".i64", lambda path: write_slots(path, row_of))
        return manifest_of(self, "faiss", files)

    @classmethod
    def load(cls, folder: Path, mmap: bool = True) -> FaissIndex:
        """Read what `save` wrote; a missing, truncated or altered file is a RunError that names it.

        Args:
            folder: the index folder.
            mmap: map the codes instead of reading them (the first write then reads them).
        """
        return cls.of(folder, read_index_manifest(folder, "faiss"), mmap)

    @classmethod
    def of(cls, folder: Path, manifest: IndexManifest, mmap: bool = True) -> FaissIndex:
        """Read the files of a checked manifest."""
        path = folder / manifest.files["index"].name
        raw = read_raw(path, mmap)
        family = Family.of(manifest.factory, max(manifest.num_rows, 1 << 40), manifest.dim)
        if "slots" in manifest.files:
            slots = SlotMap.from_array(read_slots(folder / manifest.files["slots"].name), manifest.num_rows)
        else:
            slots = SlotMap(manifest.num_rows)
        if (raw.d, raw.ntotal, slots.size) != (manifest.dim, slots.num_slots, manifest.size):
            raise RunError(
                f"{path} holds {raw.ntotal} vectors of width {raw.d}, index.json says {slots.num_slots} of width "
                f"{manifest.dim}; rebuild the index"
            )
        index = cls(raw, family, slots, manifest.normalised)
        index.vectors_sha256, index.report, index._mapped = manifest.vectors_sha256, manifest.report, mmap
        index.use_plan(manifest.plan)
        return index

    def _make_writable(self) -> None:
        """Bring a memory-mapped index into memory: FAISS ends the process when told to write to a mapped one."""
        faiss = faiss_module()
        if self._mapped:
            self._index = faiss.deserialize_index(faiss.serialize_index(self._index))
            self.family.prepare(self._index)
            self.family.apply(self._index, self._plan.effort)
            self._mapped = False

    def _changed(self) -> None:
        """Forget what was derived from the former items."""
        self._decoded = self._gpu = self._living = None
        self.vectors_sha256 = None
