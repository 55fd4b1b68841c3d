"""FAISS index families by factory string: which are offered, how they are trained, and which knob buys recall.

Offered: `Flat`, `SQ8` and `SQfp16`, alone or behind `IVF<n>,`; `HNSW<m>`, also with `,SQ8` or `,SQfp16`; and
`IVF<n>,PQ<m>x4fs`. `,RFlat` or `,Refine(SQ8)` re-scores what coarse codes found; PQ must have it (its codes alone rank
too coarsely, and FAISS 1.15 cannot decode them after loading) and must have clusters (FAISS filters it only there).
`IVF,SQ8` without a number chooses its clusters by catalogue size. Every index is made with the inner product.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import F32, I64
from ...base.errors import ConfigError, RunError
from ...base.package import install_hint

POINTS_PER_CLUSTER = 39
"""What k-means needs to place a centroid (FAISS warns below it); an index never gets more clusters than N / 39."""
_TRAINING_POINTS_PER_CLUSTER = 64  # more makes the training slower and, measured at a million items, nothing better
_TRAINING_POINTS = 65_536  # for the ranges and codebooks of a quantiser
_HNSW_BUILD_EFFORT = 80

_FACTORY = re.compile(
    r"(?:HNSW(?P<links>\d+)(?:,(?P<graph_code>Flat|SQ8|SQfp16))?"
    r"|(?:(?P<coarse>IVF)(?P<lists>\d*),)?(?P<code>Flat|SQ8|SQfp16|PQ(?P<parts>\d+)x4fs))"
    r"(?:,(?P<refine>RFlat|Refine\((?:SQ8|SQfp16|Flat)\)))?"
)
_OFFERED = (
    "auto, Exact, Flat, SQ8, IVF<n>,Flat, IVF<n>,SQ8, IVF<n>,SQfp16, IVF<n>,PQ<m>x4fs,RFlat, HNSW<m>, HNSW<m>,SQ8"
)


def has_faiss() -> bool:
    """Whether FAISS can be imported; without it every search is exact (`ExactIndex`)."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def faiss_module() -> Any:
    """FAISS, imported where it is first needed; untyped, since its stubs lack what its Python wrappers add.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"FAISS cannot be imported ({error}); run {install_hint('cpu')}, or search exactly with "
            'index.factory = "Exact"'
        ) from error
    return faiss


@dataclass(frozen=True)
class Family:
    """A factory string, read and made fit for a catalogue."""

    factory: str
    kind: Literal["flat", "ivf", "hnsw"]
    lists: int
    refined: bool
    approximate: bool
    """Whether a plain search can miss items that a scan of all codes finds."""

    @property
    def nested(self) -> bool:
        """Whether a list of k begins with that of any smaller k: what is looked at does not depend on k."""
        return self.kind != "hnsw" and not self.refined

    @classmethod
    def of(cls, factory: str, size: int, dim: int) -> Family:
        """Read a factory string for `size` items of width `dim`.

        Raises:
            ConfigError: the family is not offered, or the catalogue is too small to train it.
        """
        match = _FACTORY.fullmatch(factory.replace(" ", ""))
        if match is None:
            raise ConfigError(f"index factory {factory!r} is not offered; choose one of {_OFFERED}")
        text, lists = match.group(0), 0
        if match["coarse"]:
            lists = int(match["lists"] or cluster_count(size))
            if lists < 1 or lists * POINTS_PER_CLUSTER > size:
                fitting = f"IVF{size // POINTS_PER_CLUSTER} or fewer, or Flat" if size >= POINTS_PER_CLUSTER else "Flat"
                raise ConfigError(
                    f"IVF{lists} needs {lists * POINTS_PER_CLUSTER} items to place its clusters "
                    f"({POINTS_PER_CLUSTER} each) and there are {size}; use {fitting}"
                )
            text = re.sub(r"^IVF\d*", f"IVF{lists}", text)
        if match["parts"]:
            parts = int(match["parts"])
            if not (match["refine"] and match["coarse"]):
                raise ConfigError(f"{text}: PQ codes need clusters and a refinement; use IVF<n>,PQ{parts}x4fs,RFlat")
            if parts < 1 or dim % parts:
                raise ConfigError(f"PQ{parts} cannot split vectors of width {dim}; use a divisor of {dim}")
            if size < 16 * POINTS_PER_CLUSTER:
                raise ConfigError(
                    f"PQ codebooks need {16 * POINTS_PER_CLUSTER} items and there are {size}; use SQ8 or Flat"
                )
        if match["links"] and not 2 <= int(match["links"]) <= 256:
            raise ConfigError(f"HNSW{match['links']} is out of range; use 2..256 links, 16 or 32 as a rule")
        kind: Literal["flat", "ivf", "hnsw"] = "hnsw" if match["links"] else ("ivf" if match["coarse"] else "flat")
        refined = match["refine"] is not None
        return cls(text, kind, lists, refined, approximate=kind != "flat" or refined)

    def make(self, vectors: F32, seed: int) -> Any:
        """Train an index of this family on a sample of [N, D] vectors and add them all, slot = row."""
        faiss = faiss_module()
        index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        base = self.base(index)
        if self.kind == "hnsw":
            base.hnsw.efConstruction = _HNSW_BUILD_EFFORT
        if self.kind == "ivf":
            base.cp.seed = seed + 1
        if not index.is_trained:
            wanted = max(_TRAINING_POINTS, self.lists * _TRAINING_POINTS_PER_CLUSTER)
            sample = vectors
            if wanted < len(vectors):
                chosen = np.random.default_rng(seed).choice(len(vectors), wanted, replace=False)
                sample = vectors[np.sort(chosen)]
            index.train(np.ascontiguousarray(sample))
        index.add(vectors)
        self.prepare(index)
        return index

    def prepare(self, index: Any) -> None:
        """Make the stored vectors of a clustered index addressable by slot (8 bytes an item)."""
        if self.kind == "ivf" and not self.refined:
            base = self.base(index)
            if base.direct_map.type == base.direct_map.NoMap:
                base.make_direct_map()

    def base(self, index: Any) -> Any:
        """The index that is probed: behind the refinement, if there is one."""
        faiss = faiss_module()
        return faiss.downcast_index(index.base_index) if self.refined else index

    def stored(self, index: Any) -> Any:
        """The part that holds every vector and can be scanned through: refinement, graph storage, or the index."""
        faiss = faiss_module()
        if self.refined:
            return faiss.downcast_index(index.refine_index)
        return faiss.downcast_index(index.storage) if self.kind == "hnsw" else index

    def apply(self, index: Any, effort: dict[str, int]) -> None:
        """Set the search parameters on the index itself, so that a plain call uses them at no cost."""
        base = self.base(index)
        if "nprobe" in effort:
            base.nprobe = effort["nprobe"]
        if "efSearch" in effort:
            base.hnsw.efSearch = effort["efSearch"]
        if "k_factor" in effort:
            index.k_factor = effort["k_factor"]

    def parameters(self, effort: dict[str, int], selector: Any) -> Any:
        """The same parameters, with a selector of slots, for one call."""
        faiss = faiss_module()
        only = {} if selector is None else {"sel": selector}
        if self.kind == "ivf":
            probe = faiss.SearchParametersIVF(nprobe=effort.get("nprobe", 1), **only)
        elif self.kind == "hnsw":
            probe = faiss.SearchParametersHNSW(efSearch=effort.get("efSearch", 16), **only)
        else:
            probe = faiss.SearchParameters(**only)
        if not self.refined:
            return probe
        return faiss.IndexRefineSearchParameters(k_factor=effort.get("k_factor", 1), base_index_params=probe)

    def scan_parameters(self, selector: Any) -> Any:
        """Parameters with which the stored part looks at every code."""
        faiss = faiss_module()
        only = {} if selector is None else {"sel": selector}
        if self.kind == "ivf" and not self.refined:
            return faiss.SearchParametersIVF(nprobe=self.lists, **only)
        return faiss.SearchParameters(**only)

    def ladder(self, size: int) -> list[dict[str, int]]:
        """Rising efforts of the first knob: clusters probed, or the width of the graph search."""
        if self.kind == "ivf":
            return [{"nprobe": step} for step in _steps(1, self.lists)]
        if self.kind == "hnsw":
            return [{"efSearch": step} for step in _steps(16, min(2048, max(size, 16)))]
        return [{}]

    def widest(self, size: int) -> dict[str, int]:
        """The greatest effort of every knob."""
        return self.ladder(size)[-1] | ({"k_factor": self.refinements()[-1]} if self.refined else {})

    def refinements(self) -> list[int]:
        """Rising efforts of the second knob: how many times k compressed candidates are re-scored."""
        return [1, 2, 4, 8, 16, 32] if self.refined else []


def cluster_count(size: int) -> int:
    """Clusters for a catalogue: the power of two nearest 2 sqrt(N), within what N items can train."""
    wanted = 1 << round(np.log2(max(2.0 * np.sqrt(size), 1.0)))
    return int(max(1, min(wanted, size // POINTS_PER_CLUSTER)))


def _steps(low: int, high: int) -> list[int]:
    """low, 1.5 low, 2 low, 3 low, ... and `high` itself."""
    steps = {high}
    power = low
    while power < high:
        steps.update({power, min(power + power // 2, high)})
        power *= 2
    return sorted(steps)


def selector(bits: NDArray[np.uint8] | None) -> Any:
    """A FAISS selector of the slots in packed `bits`; it keeps the array alive."""
    if bits is None:
        return None
    faiss = faiss_module()
    return faiss.IDSelectorBitmap(bits)


def call(index: Any, queries: F32, k: int, parameters: Any = None) -> tuple[F32, I64]:
    """One FAISS search, (scores, slots) [B, k]; a single query stays on one thread, where it is fastest."""
    faiss = faiss_module()
    threads = faiss.omp_get_max_threads() if len(queries) == 1 else 1
    if threads == 1:
        scores, found = index.search(queries, k, params=parameters)
        return scores, found
    faiss.omp_set_num_threads(1)
    try:
        scores, found = index.search(queries, k, params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    return scores, found


def read_raw(path: Path, mmap: bool) -> Any:
    """A FAISS index from a file, refused unless it measures the inner product."""
    faiss = faiss_module()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise RunError(f"{path} is no FAISS index that this release reads; rebuild the index") from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RunError(
            f"{path} measures FAISS metric {index.metric_type}, the towers are trained for the inner product; "
            "rebuild the index"
        )
    return index


def bytes_of(index: Any) -> int:
    """How many bytes the file of an index takes, counted without writing it."""
    faiss, written = faiss_module(), 0

    def count(chunk: bytes) -> None:
        nonlocal written
        written += len(chunk)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return written
