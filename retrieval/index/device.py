"""Search on a GPU: FAISS where faiss-gpu is installed, else exact search by torch. The same items either way.

FAISS on a GPU ignores selectors and knows neither graphs nor refinement, so only plain searches of Flat and IVF indexes
go there; everything with a filter stays with the index that keeps the promise.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from ...base.device import CPU, kept_device
from .exact import ExactIndex
from .faiss import FaissIndex

logger = logging.getLogger(__name__)

_GPU_CODES = ("Flat", "SQ8", "SQfp16")
_GPU_PROBES = 2048


CROSSOVER = 100_000
"""Items from which `auto` takes a GPU: an estimate, until `benchmarks/gpu.py` has drawn the crossover on one."""


def index_device(name: str, size: int) -> torch.device:
    """The device of `[index] device` for a catalogue of so many items; the CPU where the GPU is not there."""
    return CPU if name == "auto" and size < CROSSOVER else kept_device(name, "the index")


def has_faiss_gpu() -> bool:
    """Whether the installed FAISS was built for GPUs and sees one."""
    import faiss

    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def on_device(index: ExactIndex | FaissIndex, device: str | torch.device) -> ExactIndex | FaissIndex:
    """Bring an index to a device.

    Args:
        index: built or loaded.
        device: `cpu` leaves it as it is; `cuda` moves its plain searches to the GPU.

    Returns:
        The same index with a copy on the GPU, or, without faiss-gpu or for a family that it does not know, an
        `ExactIndex` over the stored vectors there.
    """
    where = torch.device(device)
    if where.type == "cpu":
        return index
    if isinstance(index, ExactIndex):
        return index if index.device.type == where.type else _exact_copy(index, where)
    family, probes = index.family, index.plan.effort.get("nprobe", 1)
    fits = family.kind != "hnsw" and not family.refined and family.factory.endswith(_GPU_CODES)
    if where.type == "cuda" and fits and probes <= _GPU_PROBES and has_faiss_gpu():
        import faiss

        resources = faiss.StandardGpuResources()
        index.use_gpu(faiss.index_cpu_to_gpu(resources, where.index or 0, index.raw), resources)
        return index
    logger.info("searching %d items exactly on %s", index.size, where)
    return _exact_copy(index, where)


def _exact_copy(index: ExactIndex | FaissIndex, device: torch.device) -> ExactIndex:
    """An exact index on the device over every row; rows without an item are deleted there too."""
    rows, stored = index.stored_vectors()
    vectors = np.zeros((index.num_rows, index.dim), dtype=np.float32)
    vectors[rows] = stored
    exact = ExactIndex(vectors, device)
    exact.normalised, exact.report, exact.vectors_sha256 = index.normalised, index.report, index.vectors_sha256
    if len(rows) < index.num_rows:
        exact.delete(np.setdiff1d(np.arange(index.num_rows), rows))
    return exact
