"""The candidate index: the k best items for a query vector, by inner product, with filters.

One contract (`CandidateIndex`) and two kinds: `ExactIndex` scores everything and is the reference; `FaissIndex`
looks at a part and says, measured, what it misses. `index_tuning.build_index` makes either one, tuned and checked;
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
from .store import check_expected, read_index_manifest

logger = logging.getLogger(__name__)

__all__ = [
    "Bitmap",
    "CandidateIndex",
    "Candidates",
    "ExactIndex",
    "FaissIndex",
    "IndexReport",
    "SearchPlan",
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
) -> ExactIndex | FaissIndex | None:
    """Load an index of either kind.

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
    manifest = read_index_manifest(folder, verify=False)
    if manifest.kind == "faiss" and not has_faiss():
        check_expected(folder, manifest, dim, normalised, vectors_sha256)
        logger.warning(
            "the index is of FAISS (%s), which is not installed, so each search scores all %d items exactly; run %s",
            manifest.factory,
            manifest.size,
            install_hint("cpu"),
        )
        return None
    if manifest.kind == "faiss":
        index: ExactIndex | FaissIndex = FaissIndex.load(
            folder, dim=dim, normalised=normalised, vectors_sha256=vectors_sha256
        )
        return on_device(index, device)
    check_expected(folder, manifest, dim, normalised, vectors_sha256)
    return ExactIndex.load(folder, device)
