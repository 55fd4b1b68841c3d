"""Build an index, tune it to a target recall by measurement, and check it before anybody may use it.

Exact search over held-out queries is the judge. Half of the queries choose the least effort that reaches the target,
the other half must confirm it. An index that gives rows another vector's score is refused; one that cannot reach the
target says so. Recall depends on the vectors: points drawn around random centres flatter a clustered index, trained
embeddings need several times the effort, so nothing here is assumed.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field

from ...base.arrays import F32
from ...base.errors import ConfigError, RunError
from ...base.package import install_hint
from ...base.settings import Settings
from .base import IndexReport, SearchPlan, as_vectors, fingerprint
from .bench import TIMED_ON_CURVE, Bench, latency, recall_of
from .device import has_faiss_gpu, on_device
from .exact import ExactIndex
from .faiss import FaissIndex
from .families import POINTS_PER_CLUSTER, cluster_count, faiss_module, has_faiss
from .sharded import ShardedIndex, shard_of
from .stored import StoreIndex, fill_store
from .stores import StoreAddress

logger = logging.getLogger(__name__)

FLAT_UNTIL = 20_000
"""`auto` scans catalogues up to here: 0.2 ms a query at width 64, about what a clustered index needs for the same."""
_WORTHWHILE = 0.35  # `auto` prefers a scan to an index that must look at more than this share of the vectors


class IndexConfig(Settings):
    """The `[index]` section: how item vectors are searched."""

    factory: str = "auto"
    """`auto`, `Exact`, or a FAISS family such as `Flat`, `IVF1024,SQ8`, `IVF,SQfp16`, `HNSW32`. Without FAISS `auto` is
    `Exact`."""
    target_recall: float = Field(default=0.98, gt=0.0, le=1.0)
    """Share of the exact k best that a search must find on held-out queries."""
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where it is searched: `cpu`, `cuda` or `cuda:N`, by faiss-gpu where it is installed and knows the family and
    exactly otherwise; `auto`: a GPU where there is one and the catalogue is large. A run that is moved to a machine
    without that GPU is searched on the CPU."""
    shards: int = Field(default=1, ge=1)
    """Parts of the index, searched at the same time by threads: a single request is answered sooner where there are
    cores to spare, and each part can be built in less memory. The answer is merged exactly."""
    store: str = ""
    """A vector database that keeps the vectors instead of the run: `qdrant://HOST:6333/NAME` or
    `milvus://HOST:19530/NAME` (extra `stores`; `+https` behind the first word; a key in RECSYS_STORE_KEY). Each index
    is a collection of its own, which NAME means once it was compared with exact search; `shards` are the database's."""
    check_queries: int = Field(default=512, ge=2)
    """Held-out queries, half to tune and half to check; each costs one exact search over the catalogue."""


def build_index(
    item_vectors: ArrayLike,
    queries: ArrayLike,
    factory: str = "auto",
    target_recall: float = 0.98,
    k: int = 100,
    *,
    check_queries: int = 512,
    seed: int = 0,
    device: str | torch.device = "cpu",
    shards: int = 1,
    store: str = "",
) -> tuple[ExactIndex | FaissIndex | ShardedIndex | StoreIndex, IndexReport]:
    """Build an index that reaches a recall, and prove that it does.

    Args:
        item_vectors: float32 [N, D], one row per item.
        queries: float32 [Q, D] query vectors that were not made from the items, e.g. of held-out users.
        factory: `auto`, `Exact`, or a FAISS family (see `index_families`).
        target_recall: recall@k to reach against exact search.
        k: the cut-off that will be asked for (the number of candidates); N when the catalogue is smaller.
        check_queries: how many of the queries are used; a seeded choice when there are more.
        seed: chooses queries, training sample and first centroids.
        device: `cuda` searches on a GPU: FAISS where faiss-gpu is installed, exact search otherwise.
        shards: parts that are searched at the same time; each reaches the recall by itself.
        store: address of a vector database that keeps the vectors, see `IndexConfig.store`.

    Returns:
        The index with its plan, and the report of what was measured. A target that the asked family cannot reach is a
        warning in the report; `auto` moves on to a better family until one reaches it.

    Raises:
        ConfigError: the vectors, the queries or the factory make no index, or the family needs FAISS and that is not
            installed.
        RunError: the index answers rows with the scores of other vectors, or a vector database does not answer, or
            not with what was asked for.
    """
    vectors = as_vectors(item_vectors)
    asked = as_vectors(queries, vectors.shape[1], "queries")
    if not len(vectors) or not len(asked):
        raise ConfigError(f"an index needs items and queries to check it with, got {len(vectors)} and {len(asked)}")
    rng = np.random.default_rng(seed)
    if len(asked) > check_queries:
        asked = np.ascontiguousarray(asked[rng.permutation(len(asked))[:check_queries]])
    if factory not in ("auto", "Exact"):
        faiss_module()  # refused before the exact answers are computed
    if store:
        return _elsewhere(vectors, asked, factory, target_recall, k, seed, shards, store)
    if shards > 1:
        return _in_parts(vectors, asked, factory, target_recall, k, seed, device, shards)
    bench = Bench(vectors, asked, min(k, len(vectors)), target_recall, rng)
    if factory == "Exact" or (factory == "auto" and not _faiss_pays(len(vectors), device)):
        return _exact(vectors, bench, device)
    families = _choices(len(vectors)) if factory == "auto" else [factory]
    for family in families:
        started = time.perf_counter()
        index = FaissIndex.build(vectors, family, seed)
        index.use_plan(SearchPlan(k=bench.k, effort=index.family.ladder(len(vectors))[0]))
        bench.refuse_foreign(index)
        curve, plan = bench.tune(index)
        filtered, plan = bench.tune_filters(index, plan)
        index.use_plan(plan)
        report = bench.report(index, curve, filtered, time.perf_counter() - started)
        lasting = family == families[-1]
        if lasting or (report.warning is None and _worthwhile(index)):
            break
        logger.info("index %s: recall %.3f, looks at %s; trying the next", family, report.ann_recall, plan.effort)
    index.report = report
    if report.warning:
        logger.warning(report.warning)
    elif report.advice:
        logger.info(report.advice)
    return on_device(index, device), report


def _in_parts(
    vectors: F32,
    asked: F32,
    factory: str,
    target_recall: float,
    k: int,
    seed: int,
    device: str | torch.device,
    shards: int,
) -> tuple[ShardedIndex, IndexReport]:
    """Build and check each part by itself, then all of them together; see `build_index`."""
    part = shard_of(np.arange(len(vectors)), shards)
    if (empty := shards - len(np.unique(part))) > 0:
        raise ConfigError(f"{len(vectors)} items in {shards} shards leave {empty} empty; lower index.shards")
    started = time.perf_counter()
    built: list[ExactIndex | FaissIndex] = []
    for number in range(shards):
        one, _ = build_index(
            vectors[part == number],
            asked,
            factory,
            target_recall,
            k,
            check_queries=len(asked),
            seed=seed + number,
            device=device,
        )
        assert isinstance(one, ExactIndex | FaissIndex)
        built.append(one)
    index = ShardedIndex(built)
    index.vectors_sha256 = fingerprint(vectors)
    bench = Bench(vectors, asked, min(k, len(vectors)), target_recall, np.random.default_rng(seed))
    bench.refuse_foreign(index)
    index.report = bench.report(index, [], [], time.perf_counter() - started)
    return index, index.report


def _elsewhere(
    vectors: F32, asked: F32, factory: str, target_recall: float, k: int, seed: int, shards: int, store: str
) -> tuple[StoreIndex, IndexReport]:
    """Fill a collection of a vector database, check it, and only then let its name mean it; see `build_index`."""
    if factory != "auto":
        raise ConfigError(f'the store chooses its own kind of index; leave out factory = "{factory}", or the store')
    address, started = StoreAddress.of(store), time.perf_counter()
    index = fill_store(vectors, address, shards)
    bench = Bench(vectors, asked, min(k, len(vectors)), target_recall, np.random.default_rng(seed))
    bench.refuse_foreign(index)
    index.report = bench.report(index, [], [], time.perf_counter() - started)
    if index.report.warning:
        raise RunError(f"{index.report.warning}; {address.name} means what it meant before")
    index.store.publish(address.name)
    return index, index.report


def _exact(vectors: F32, bench: Bench, device: str | torch.device) -> tuple[ExactIndex, IndexReport]:
    started = time.perf_counter()
    index = ExactIndex(vectors, device)
    index.vectors_sha256 = fingerprint(vectors)
    seconds = time.perf_counter() - started
    found = index.search(bench.queries, bench.k)
    if index.proofs.asked:
        logger.info("%.1f %% of the check queries were searched again in float32", 100 * index.proofs.share)
    p50, p99 = latency(index, bench, TIMED_ON_CURVE)
    index.report = IndexReport(
        factory="Exact",
        size=index.size,
        dim=index.dim,
        k=bench.k,
        queries=len(bench.queries),
        target_recall=bench.target,
        ann_recall=recall_of(found.rows, bench.scores(bench.queries, found.rows), bench.truth),
        effort={},
        p50_ms=p50,
        p99_ms=p99,
        build_seconds=seconds,
        file_bytes=vectors.nbytes,
        curve=(),
        filtered=(),
    )
    return index, index.report


def _faiss_pays(size: int, device: str | torch.device) -> bool:
    """Whether `auto` may choose among FAISS families: it is installed and, for a GPU, built for one."""
    if torch.device(device).type == "cuda":
        return has_faiss() and has_faiss_gpu()
    if not has_faiss():
        logger.warning(
            "FAISS is not installed, so each search scores all %d items exactly; for a large catalogue run %s",
            size,
            install_hint("cpu"),
        )
    return has_faiss()


def _choices(size: int) -> list[str]:
    """What `auto` tries, smallest file first; the last one always reaches the target."""
    if size <= max(FLAT_UNTIL, POINTS_PER_CLUSTER):
        return ["Flat"]
    lists = cluster_count(size)
    return [f"IVF{lists},SQ8", f"IVF{lists},SQfp16", "Flat"]


def _worthwhile(index: FaissIndex) -> bool:
    """Whether the tuned index looks at few enough vectors to be faster than a scan; counted, so that it repeats."""
    probed = index.plan.effort.get("nprobe", 0) / max(index.family.lists, 1)
    return probed <= _WORTHWHILE
