"""The candidate index: the k best items for a query vector, by inner product, with filters.

One contract (`CandidateIndex`) and four kinds: `ExactIndex` scores everything and is the reference; `FaissIndex`
looks at a part and says, measured, what it misses; `ShardedIndex` is several of these, searched at the same time;
`StoreIndex` keeps its vectors in a vector database. `tuning.build_index` makes any of them, tuned and checked;
`load_index` reads what `save` wrote.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ...base.package import install_hint
from .base import CandidateIndex, Candidates, IndexReport, SearchPlan, fingerprint
from .bitmap import Bitmap
from .device import index_device, on_device
from .exact import ExactIndex
from .faiss import FaissIndex
from .families import has_faiss
from .sharded import ShardedIndex
from .store import IndexManifest, check_expected, read_index_manifest
from .stored import StoreIndex

logger = logging.getLogger(__name__)

BuiltIndex = ExactIndex | FaissIndex | ShardedIndex | StoreIndex
"""What a run can keep."""

__all__ = [
    "Bitmap",
    "BuiltIndex",
    "CandidateIndex",
    "Candidates",
    "ExactIndex",
    "FaissIndex",
    "IndexReport",
    "SearchPlan",
    "ShardedIndex",
    "StoreIndex",
    "fingerprint",
    "index_device",
    "load_index",
    "on_device",
]


def load_index(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dim: int | None = None,
    normalised: bool | None = None,
    vectors_sha256: str | None = None,
) -> BuiltIndex | None:
    """Load an index of any kind.

    Args:
        folder: what `save` wrote.
        device: where to search; see `on_device`.
        dim: width of the model's vectors, checked when given.
        normalised: whether the model makes unit vectors, checked when given.
        vectors_sha256: `fingerprint` of the item vectors in use, checked when given.

    Returns:
        The index; None where it is one of FAISS and FAISS is not installed. The caller then scores every item vector,
        which finds the same items or better ones; a warning says so.

    Raises:
        RunError: the folder holds no whole index, or one that belongs to another model.
    """
    manifest = read_index_manifest(folder)
    check_expected(folder, manifest, dim, normalised, vectors_sha256)
    parts = manifest.shards or (manifest,)
    if any(part.kind == "faiss" for part in parts) and not has_faiss():
        logger.warning(
            "the index is of FAISS (%s), which is not installed, so each search scores all %d items exactly; run %s",
            manifest.factory,
            manifest.size,
            install_hint("cpu"),
        )
        return None
    if manifest.kind == "store":
        return StoreIndex.of(folder, manifest)
    if not manifest.shards:
        return _one(folder, manifest, device)
    index = ShardedIndex([_one(folder, part, device) for part in parts])
    index.report, index.vectors_sha256 = manifest.report, manifest.vectors_sha256
    return index


def _one(folder: Path, manifest: IndexManifest, device: str | torch.device) -> ExactIndex | FaissIndex:
    """An index that is no sum of others, from the files of a checked manifest."""
    if manifest.kind == "faiss":
        return on_device(FaissIndex.of(folder, manifest), device)
    return ExactIndex.of(folder, manifest, device)
