"""Exact search: a blocked matrix product and a top-k, on the CPU; on a GPU in half precision, proven (`halves`).

This is the reference that every approximate index is measured against, the search over the few items that a narrow
filter leaves, and the way to search on a GPU without faiss-gpu (where it is fast enough to need no approximation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...base.arrays import F32, I64, AnyArray, Bool
from ...base.errors import RunError
from ...base.topk import exact_topk
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
from .bitmap import Bitmap, ExcludedRows, as_exclusions, as_rows
from .halves import HalfVectors, Proofs
from .store import IndexManifest, commit, manifest_of, read_index_manifest, staged_array


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
        self._vectors = torch.from_numpy(vectors.copy()).to(device)
        self._halves: HalfVectors | None = None
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
    def factory(self) -> str:
        """Its name in a configuration."""
        return "Exact"

    @property
    def plan(self) -> SearchPlan:
        """None: it looks at everything."""
        return SearchPlan()

    @property
    def device(self) -> torch.device:
        """Where the search runs."""
        return self._vectors.device

    @property
    def proofs(self) -> Proofs:
        """Of searches on a GPU since the last write: how many had to be repeated in float32."""
        return Proofs() if self._halves is None else self._halves.proofs

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
        on_cpu = self.device.type == "cpu"
        if (rows is None or not on_cpu) and drop is not None:
            drop = drop.select((drop.items >= 0) & (drop.items < self.num_rows))
        if not on_cpu and self.num_rows:
            self._halves = self._halves or HalfVectors(self._vectors)
            return Candidates(*self._halves.search(wanted, k, mask, drop))
        items = self._vectors if rows is None else self._vectors.index_select(0, torch.from_numpy(rows).to(self.device))
        return Candidates(*exact_topk(wanted, items, k, drop, rows=rows, device=self.device, finite=True))

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
        self.vectors_sha256 = self._halves = None

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
        commit(folder, self.stage(folder))

    def stage(self, folder: Path) -> IndexManifest:
        """Write the vectors; nothing refers to them until the manifest is committed."""
        vectors = self._vectors.cpu().numpy()
        files = {"vectors": staged_array(folder, "vectors", vectors)}
        if self._alive is not None:
            files["alive"] = staged_array(folder, "alive", self._alive)
        manifest = manifest_of(self, "exact", files)
        return manifest.model_copy(update={"vectors_sha256": self.vectors_sha256 or fingerprint(vectors)})

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> ExactIndex:
        """Read what `save` wrote; a missing, truncated or altered file is a RunError that names it."""
        return cls.of(folder, read_index_manifest(folder, "exact"), device)

    @classmethod
    def of(cls, folder: Path, manifest: IndexManifest, device: str | torch.device = "cpu") -> ExactIndex:
        """Read the files of a checked manifest."""
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


def _read_array(path: Path) -> AnyArray:
    try:
        return cast("AnyArray", np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is no readable array ({error}); rebuild the index") from error
