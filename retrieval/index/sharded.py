"""One index in several parts, searched at the same time and merged exactly.

An item belongs to the part that the hash of its row names, so parts are of like size however the catalogue is sorted,
and a row never moves. Each part is an ordinary index with a search effort of its own. The k best of all are among the k
best of each part: the merged answer is exact where the parts are, and else finds at least what the worst of them finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...base.arrays import F32, I64
from ...base.errors import ConfigError
from ...base.ragged import Ragged
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
)
from .bitmap import Bitmap, ExcludedRows, as_exclusions, as_rows
from .exact import ExactIndex
from .faiss import FaissIndex
from .store import commit, manifest_of

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: neighbouring rows land far apart


def shard_of(rows: I64, shards: int) -> I64:
    """The part of each row, int64 [n], the same on every machine."""
    mixed = rows.astype(np.uint64) * _MIX
    mixed ^= mixed >> np.uint64(32)
    return (mixed % np.uint64(shards)).astype(np.int64)


class ShardedIndex:
    """An index in parts; see the module.

    Args:
        shards: the parts, of which the s-th holds the rows that `shard_of` sends there, in their order.
    """

    metric: Literal["inner_product"] = METRIC

    def __init__(self, shards: Sequence[ExactIndex | FaissIndex]) -> None:
        """Put the parts together; nothing is copied."""
        self.shards = tuple(shards)
        self.normalised = all(shard.normalised for shard in shards)
        for shard in shards:
            shard.normalised = self.normalised  # a part with few items may hold unit vectors by chance
        self.report: IndexReport | None = None
        self.vectors_sha256: str | None = None
        self._cut: tuple[Bitmap, list[Bitmap]] | None = None
        self._number(sum(shard.num_rows for shard in shards))

    def _number(self, rows: int) -> None:
        """Say which part, and which place in it, each of so many rows has."""
        part = shard_of(np.arange(rows), len(self.shards))
        self._rows = [np.flatnonzero(part == number) for number in range(len(self.shards))]
        self._part, self._place = part, np.empty(rows, dtype=np.int64)
        for own in self._rows:
            self._place[own] = np.arange(len(own))
        if any(len(own) != shard.num_rows for own, shard in zip(self._rows, self.shards, strict=True)):
            found = [shard.num_rows for shard in self.shards]
            raise ConfigError(f"parts of {found} rows are not the parts of {rows} rows; build the index anew")

    @property
    def size(self) -> int:
        """Number of items that can be returned."""
        return sum(shard.size for shard in self.shards)

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included."""
        return len(self._part)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return self.shards[0].dim

    @property
    def factory(self) -> str:
        """Of the parts, such as `4 x IVF256,SQ8`."""
        kinds = sorted({shard.factory if isinstance(shard, FaissIndex) else "Exact" for shard in self.shards})
        return f"{len(self.shards)} x {' and '.join(kinds)}"

    @property
    def plan(self) -> SearchPlan:
        """None of its own: the parts have theirs."""
        return SearchPlan()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(len(self.shards), thread_name_prefix="shard")

    def search(
        self, queries: ArrayLike, k: int, allowed: Bitmap | None = None, excluded: ExcludedRows | None = None
    ) -> Candidates:
        """Find the k items with the highest inner product to each query; see `CandidateIndex.search`.

        Raises:
            ConfigError: k, the queries or the filter do not fit the index.
        """
        wanted = as_vectors(queries, self.dim, "queries")
        check_k(k, self.size)
        filters: Sequence[Bitmap | None] = [None] * len(self.shards)
        if allowed is not None:
            check_allowed(allowed, self.num_rows)
            filters = self._cut_filter(allowed)
        drop = None if excluded is None else as_exclusions(excluded, len(wanted))
        waiting = [
            self._pool.submit(shard.search, wanted, min(k, shard.size), filters[number], self._cut_lists(drop, number))
            for number, shard in enumerate(self.shards)
            if shard.size
        ]
        owners = [own for own, shard in zip(self._rows, self.shards, strict=True) if shard.size]
        rows, scores = [], []
        for own, one in zip(owners, waiting, strict=True):
            found = one.result()
            rows.append(np.where(found.rows >= 0, own[found.rows], -1))
            scores.append(found.scores)
        return best_of(np.concatenate(rows, axis=1), np.concatenate(scores, axis=1), k)

    def _cut_filter(self, allowed: Bitmap) -> list[Bitmap]:
        """The filter of each part; kept for the next query under the same filter."""
        if self._cut is None or self._cut[0] is not allowed:
            mask = allowed.mask()
            self._cut = allowed, [Bitmap.from_mask(mask[own]) for own in self._rows]
        return self._cut[1]

    def _cut_lists(self, drop: Ragged | None, number: int) -> Ragged | None:
        """What single queries must not get, among the rows of one part."""
        if drop is None:
            return None
        known = (drop.items >= 0) & (drop.items < self.num_rows)
        own = drop.select(known & (self._part[np.where(known, drop.items, 0)] == number))
        return Ragged(self._place[own.items], own.ptr)

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Replace the vectors of existing rows and append new rows, each in its part."""
        at, fresh = as_rows(rows), as_vectors(vectors, self.dim)
        check_upsert(at, fresh, self.num_rows, self.normalised)
        order = np.argsort(at)
        at, fresh = at[order], fresh[order]
        total = max(self.num_rows, int(at.max(initial=-1)) + 1)
        part = shard_of(np.arange(total), len(self.shards))
        place = np.empty(total, dtype=np.int64)
        for number, shard in enumerate(self.shards):
            own = np.flatnonzero(part == number)
            place[own] = np.arange(len(own))
            mine = part[at] == number
            shard.upsert(place[at[mine]], fresh[mine])
        self._number(total)
        self._cut = self.vectors_sha256 = None

    def delete(self, rows: ArrayLike) -> None:
        """Take items out of every later answer; their rows stay reserved."""
        at = as_rows(rows)
        check_delete(at, self.num_rows)
        for number, shard in enumerate(self.shards):
            shard.delete(self._place[at[self._part[at] == number]])
        self.vectors_sha256 = None

    def compact(self) -> None:
        """Reclaim what replaced and deleted items still occupy, part by part."""
        for shard in self.shards:
            shard.compact()

    def stored_vectors(self) -> tuple[I64, F32]:
        """Every item that can be returned: rows int64 [size], ascending, and their stored vectors [size, D]."""
        parts = [shard.stored_vectors() for shard in self.shards]
        rows = np.concatenate([own[at] for own, (at, _) in zip(self._rows, parts, strict=True)])
        order = np.argsort(rows)
        return rows[order], np.concatenate([vectors for _, vectors in parts])[order]

    def file_bytes(self) -> int:
        """Size of the parts, without writing them."""
        sizes = (s.file_bytes() if isinstance(s, FaissIndex) else 4 * s.num_rows * s.dim for s in self.shards)
        return sum(sizes)

    def save(self, folder: Path) -> None:
        """Write the files of all parts beside each other, and `index.json`, whole or not at all."""
        parts = tuple(shard.stage(folder) for shard in self.shards)
        commit(folder, manifest_of(self, "sharded", {}, shards=parts))
