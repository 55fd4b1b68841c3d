"""Build an index, tune it to a target recall by measurement, and check it before anybody may use it.

Exact search over held-out queries is the judge. Half of the queries choose the least effort that reaches the target,
the other half must confirm it. An index that gives rows another vector's score is refused; one that cannot reach the
target says so. Recall depends on the vectors: points drawn around random centres flatter a clustered index, trained
embeddings need several times the effort, so nothing here is assumed.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field

from ...base.arrays import F32, I64
from ...base.errors import ConfigError, RunError
from ...base.package import install_hint
from ...base.settings import Settings
from ...base.topk import exact_topk
from .base import CurvePoint, FilteredPoint, IndexReport, SearchPlan, as_vectors, fingerprint
from .bitmap import Bitmap
from .device import has_faiss_gpu, on_device
from .exact import ExactIndex
from .faiss import FaissIndex, exact_limit
from .families import POINTS_PER_CLUSTER, cluster_count, faiss_module, has_faiss
from .sharded import ShardedIndex, shard_of

logger = logging.getLogger(__name__)

FLAT_UNTIL = 20_000
"""`auto` scans catalogues up to here: 0.2 ms a query at width 64, about what a clustered index needs for the same."""
_WORTHWHILE = 0.35  # `auto` prefers a scan to an index that must look at more than this share of the vectors
_FRACTIONS = (0.5, 0.2, 0.1, 0.05, 0.02)
_FILTER_QUERIES = 64
_TIMED = 200
_TIMED_ON_CURVE = 40
_STALLED = 5  # rungs without gain after which more effort is pointless
_FOREIGN = 0.5  # mean score error, in standard deviations of the scores, above which rows and vectors do not belong


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
) -> tuple[ExactIndex | FaissIndex | ShardedIndex, IndexReport]:
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

    Returns:
        The index with its plan, and the report of what was measured. A target that the asked family cannot reach is a
        warning in the report; `auto` moves on to a better family until one reaches it.

    Raises:
        ConfigError: the vectors, the queries or the factory make no index, or the family needs FAISS and that is not
            installed.
        RunError: the index answers rows with the scores of other vectors.
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
    if shards > 1:
        return _in_parts(vectors, asked, factory, target_recall, k, seed, device, shards)
    bench = _Bench(vectors, asked, min(k, len(vectors)), target_recall, rng)
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
    return on_device(index, device), report


def recall_of(rows: I64, scores: F32, truth: F32) -> float:
    """Mean share of the k best that were found; an item that scores as high as the k-th best is one of them.

    Args:
        rows: int64 [Q, k] found rows, -1 pads.
        scores: float32 [Q, k] the exact scores of those rows.
        truth: float32 [Q, k] the exact k best scores, falling.
    """
    last = truth[:, -1:]
    hit = (rows >= 0) & (scores >= last - 1e-6 * np.maximum(np.abs(last), 1.0))
    return float(hit.mean())


class _Bench:
    """Exact answers for the held-out queries, and the measurements against them."""

    def __init__(self, vectors: F32, queries: F32, k: int, target: float, rng: np.random.Generator) -> None:
        self.vectors, self.queries, self.k, self.target, self.rng = vectors, queries, k, target, rng
        self.truth = exact_topk(queries, vectors, k)[1]
        half = len(queries) // 2 if len(queries) >= 4 else 0
        self.tuning, self.checking = slice(half), slice(half, None)
        if not half:
            self.tuning = self.checking
        sample = vectors[rng.integers(0, len(vectors), 256)]
        self.spread = float((queries @ sample.T).std())

    def measure(self, index: FaissIndex, effort: dict[str, int], part: slice) -> float:
        """Recall of one half of the queries at one effort, without the scan that makes up for short answers."""
        index.use_plan(SearchPlan(k=self.k, effort=effort))
        found = index.probe(self.queries[part], self.k, None, effort)
        return recall_of(found.rows, self.scores(self.queries[part], found.rows), self.truth[part])

    def scores(self, queries: F32, rows: I64) -> F32:
        """Exact inner products of each query with the rows found for it: [Q, k]."""
        exact = np.empty(rows.shape, dtype=np.float32)
        for line, (query, found) in enumerate(zip(queries, rows, strict=True)):
            exact[line] = self.vectors[found] @ query
        return exact

    def refuse_foreign(self, index: FaissIndex | ShardedIndex) -> None:
        """Raise when rows come with scores that their vectors do not have: other vectors, or another order."""
        queries = self.queries[self.checking]
        found = index.search(queries, self.k)
        error = float(np.abs(self.scores(queries, found.rows) - found.scores)[found.rows >= 0].mean())
        if error > _FOREIGN * self.spread + 1e-5:
            raise RunError(
                f"the {index.factory} index answers with scores that its rows do not have (mean error {error:.3f}, "
                f"spread of the scores {self.spread:.3f}): rows and vectors do not belong together; build it again "
                "from one item-vector matrix"
            )

    def tune(self, index: FaissIndex) -> tuple[list[CurvePoint], SearchPlan]:
        """Climb the ladder until both halves reach the target; then shed what refinement does not need."""
        family = index.family
        widest = family.refinements()[-1:] or [0]
        extra = {"k_factor": widest[0]} if family.refined else {}
        curve: list[CurvePoint] = []
        chosen: dict[str, int] = {}
        for step in family.ladder(index.size):
            chosen = step | extra
            recall = self.measure(index, chosen, self.tuning)
            curve.append(CurvePoint(effort=chosen, recall=recall, p50_ms=_latency(index, self, _TIMED_ON_CURVE)[0]))
            if recall >= self.target and self.measure(index, chosen, self.checking) >= self.target:
                break
            if len(curve) > _STALLED and curve[-1].recall - curve[-1 - _STALLED].recall < 5e-4 and recall > 0.5:
                break  # the codes cap the recall: looking at more of them finds no more
        for factor in family.refinements()[:-1]:
            lighter = chosen | {"k_factor": factor}
            if (
                min(self.measure(index, lighter, self.tuning), self.measure(index, lighter, self.checking))
                >= self.target
            ):
                chosen = lighter
                break
        if curve[-1].recall < self.target:
            chosen = next(point.effort for point in curve if point.recall >= curve[-1].recall - 0.002)
        return curve, SearchPlan(k=self.k, effort=chosen)

    def tune_filters(self, index: FaissIndex, plan: SearchPlan) -> tuple[list[FilteredPoint], SearchPlan]:
        """Find the effort that keeps the recall when only a random fraction of the items is allowed."""
        if not index.family.approximate:
            return [], plan
        points: list[FilteredPoint] = []
        size, queries = len(self.vectors), self.queries[:_FILTER_QUERIES]
        ladder = [step for step in (plan.effort | rung for rung in index.family.ladder(size)) if _at_least(step, plan)]
        narrowest = exact_limit(size, self.k) / size
        fractions = [fraction for fraction in _FRACTIONS if fraction > narrowest]
        for fraction in [*fractions, narrowest] if narrowest < 1.0 else []:
            rows = np.sort(self.rng.choice(size, round(fraction * size), replace=False))
            truth = exact_topk(queries, self.vectors[rows], self.k, rows=rows)[1]
            allowed = Bitmap.from_rows(rows, size)
            tried = []
            for step in ladder:
                found = index.probe(queries, self.k, allowed, step).rows
                tried.append((step, recall_of(found, self.scores(queries, found), truth)))
                if tried[-1][1] >= self.target:
                    break
            # Codes that round the vectors cap the recall below 1: then the least effort that comes close to the cap.
            step, recall = next(point for point in tried if point[1] >= min(self.target, tried[-1][1] - 0.005))
            points.append(FilteredPoint(fraction=fraction, effort=step, recall=recall))
            ladder = [s for s in ladder if _at_least(s, SearchPlan(effort=step))]
        return points, SearchPlan(
            k=plan.k, effort=plan.effort, filtered=tuple((point.fraction, point.effort) for point in points)
        )

    def report(
        self, index: FaissIndex | ShardedIndex, curve: list[CurvePoint], filtered: list[FilteredPoint], seconds: float
    ) -> IndexReport:
        """Measure the finished index on the checking half, and write down what it does."""
        found = index.search(self.queries[self.checking], self.k)
        exact = self.scores(self.queries[self.checking], found.rows)
        recall = recall_of(found.rows, exact, self.truth[self.checking])
        warning = None
        if recall < self.target:
            warning = (
                f"{index.factory} finds {recall:.3f} of the exact top {self.k} and {self.target:.3f} was asked; "
                "use --factory auto, or a family with finer codes (SQfp16, Flat)"
            )
        p50, p99 = _latency(index, self, _TIMED)
        return IndexReport(
            factory=index.factory,
            size=index.size,
            dim=index.dim,
            k=self.k,
            queries=len(exact),
            target_recall=self.target,
            ann_recall=recall,
            effort=index.plan.effort,
            p50_ms=p50,
            p99_ms=p99,
            build_seconds=seconds,
            file_bytes=index.file_bytes(),
            curve=tuple(curve),
            filtered=tuple(filtered),
            warning=warning,
        )


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
        assert not isinstance(one, ShardedIndex)
        built.append(one)
    index = ShardedIndex(built)
    index.vectors_sha256 = fingerprint(vectors)
    bench = _Bench(vectors, asked, min(k, len(vectors)), target_recall, np.random.default_rng(seed))
    bench.refuse_foreign(index)
    index.report = bench.report(index, [], [], time.perf_counter() - started)
    return index, index.report


def _exact(vectors: F32, bench: _Bench, device: str | torch.device) -> tuple[ExactIndex, IndexReport]:
    started = time.perf_counter()
    index = ExactIndex(vectors, device)
    index.vectors_sha256 = fingerprint(vectors)
    seconds = time.perf_counter() - started
    found = index.search(bench.queries, bench.k)
    if index.proofs.asked:
        logger.info("%.1f %% of the check queries were searched again in float32", 100 * index.proofs.share)
    p50, p99 = _latency(index, bench, _TIMED_ON_CURVE)
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


def _at_least(step: dict[str, int], plan: SearchPlan) -> bool:
    return all(step[knob] >= value for knob, value in plan.effort.items())


def _latency(index: Any, bench: _Bench, count: int) -> tuple[float, float]:
    """Median and 99th percentile of single searches, in milliseconds."""
    times = []
    for number in range(count + 5):
        at = number % len(bench.queries)
        query = bench.queries[at : at + 1]
        started = time.perf_counter()
        index.search(query, bench.k)
        times.append((time.perf_counter() - started) * 1e3)
    warm = np.array(times[5:])
    return float(np.median(warm)), float(np.percentile(warm, 99))
