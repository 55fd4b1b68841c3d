"""An index against exact search over held-out queries: its recall, its speed, and the effort that reaches a target."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...base.arrays import F32, I64
from ...base.errors import RunError
from ...base.topk import exact_topk
from .base import CurvePoint, FilteredPoint, IndexReport, SearchPlan
from .bitmap import Bitmap
from .faiss import FaissIndex, exact_limit
from .sharded import ShardedIndex
from .stored import StoreIndex

AnyIndex = FaissIndex | ShardedIndex | StoreIndex
"""What is measured against exact search."""
_FRACTIONS = (0.5, 0.2, 0.1, 0.05, 0.02)
_FILTER_QUERIES = 64
_TIMED = 200
TIMED_ON_CURVE = 40
_STALLED = 5  # rungs without gain after which more effort is pointless
_FOREIGN = 0.5  # mean score error, in standard deviations of the scores, above which rows and vectors do not belong


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


class Bench:
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

    def refuse_foreign(self, index: AnyIndex) -> None:
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
            curve.append(CurvePoint(effort=chosen, recall=recall, p50_ms=latency(index, self, TIMED_ON_CURVE)[0]))
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
        self, index: AnyIndex, curve: list[CurvePoint], filtered: list[FilteredPoint], seconds: float
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
        p50, p99 = latency(index, self, _TIMED)
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


def _at_least(step: dict[str, int], plan: SearchPlan) -> bool:
    return all(step[knob] >= value for knob, value in plan.effort.items())


def latency(index: Any, bench: Bench, count: int) -> tuple[float, float]:
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
