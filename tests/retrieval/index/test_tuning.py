from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from recsys.base.errors import ConfigError, RunError
from recsys.retrieval.index import ExactIndex, FaissIndex, load_index
from recsys.retrieval.index import tuning as index_tuning
from recsys.retrieval.index.base import CurvePoint, IndexReport
from recsys.retrieval.index.bench import recall_of
from recsys.retrieval.index.families import Family
from recsys.retrieval.index.tuning import IndexConfig, build_index


def gaussian(count: int, seed: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


ITEMS, QUERIES = gaussian(6000, 0), gaussian(300, 1)


@pytest.mark.parametrize("factory", ["IVF64,Flat", "HNSW8", "IVF64,PQ8x4fs,RFlat"])
def test_the_least_effort_that_reaches_the_target_is_chosen(factory: str) -> None:
    low, easy = build_index(ITEMS, QUERIES, factory, target_recall=0.7, k=10)
    high, hard = build_index(ITEMS, QUERIES, factory, target_recall=0.97, k=10)
    knob = "efSearch" if factory.startswith("HNSW") else "nprobe"
    assert easy.effort[knob] < hard.effort[knob]
    assert easy.ann_recall >= 0.7
    assert hard.ann_recall >= 0.97
    assert hard.warning is None
    unseen = gaussian(400, 2)
    truth = ExactIndex(ITEMS).search(unseen, 10)
    for index, report in ((low, easy), (high, hard)):
        found = index.search(unseen, 10)
        fresh = np.mean([np.isin(a, b).mean() for a, b in zip(truth.rows, found.rows, strict=True)])
        assert fresh == pytest.approx(report.ann_recall, abs=0.04)
    rungs = [point.recall for point in hard.curve]
    assert rungs[-1] >= 0.97
    assert all(rung < 0.97 for rung in rungs[:-2])


def test_auto_scans_a_small_catalogue_and_clusters_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_index(ITEMS, QUERIES, k=10)[1].factory == "Flat"
    monkeypatch.setattr(index_tuning, "FLAT_UNTIL", 1000)
    clustered = gaussian(40, 3)[np.random.default_rng(4).integers(0, 40, 6000)] + 0.3 * ITEMS
    index, report = build_index(clustered, clustered[:200] + 0.1 * QUERIES[:200], k=10, target_recall=0.9)
    assert report.factory.startswith("IVF")
    assert report.ann_recall >= 0.9
    assert report.file_bytes < 0.6 * ITEMS.nbytes
    # Where most of the vectors would have to be looked at, a scan is the better index.
    monkeypatch.setattr(index_tuning, "_WORTHWHILE", 0.1)
    assert build_index(gaussian(6000, 5, 64), gaussian(100, 6, 64))[1].factory == "Flat"
    assert isinstance(index, FaissIndex)


def test_a_family_that_cannot_reach_the_target_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        index, report = build_index(ITEMS, QUERIES, "SQ8", target_recall=1.0, k=100)
    assert report.warning is not None
    assert "SQ8 finds 0.9" in report.warning
    assert report.warning in caplog.text
    assert index.search(QUERIES, 100).rows.shape == (300, 100)


@pytest.mark.parametrize("factory", ["Flat", "IVF64,SQ8", "HNSW8"])
@pytest.mark.parametrize("size", [150, 6000])
def test_an_index_over_shuffled_rows_is_caught(factory: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if factory.startswith("IVF") and size < 64 * 39:
        factory = "SQ8"
    make = Family.make
    monkeypatch.setattr(
        Family, "make", lambda self, vectors, seed: make(self, np.random.default_rng(5).permutation(vectors), seed)
    )
    with pytest.raises(RunError, match="rows and vectors do not belong together"):
        build_index(ITEMS[:size], QUERIES, factory, k=100)


@pytest.mark.parametrize("size", [1, 2, 30, 100])
@pytest.mark.parametrize("factory", ["auto", "Flat", "SQ8", "HNSW8", "Exact"])
def test_tiny_catalogues_work(size: int, factory: str, tmp_path: Path) -> None:
    index, report = build_index(ITEMS[:size], QUERIES[:1], factory, k=100)
    assert report.k == size
    index.save(tmp_path)
    assert sorted(load_index(tmp_path).search(QUERIES[:1], size).rows[0].tolist()) == list(range(size))


def test_the_same_seed_makes_the_same_index() -> None:
    one, two = (build_index(ITEMS, QUERIES, "IVF64,SQ8", k=10, seed=3)[0] for _ in range(2))
    assert one.search(QUERIES, 10).rows.tolist() == two.search(QUERIES, 10).rows.tolist()
    assert isinstance(one, FaissIndex)
    assert isinstance(two, FaissIndex)
    assert one.plan == two.plan


def test_items_with_equal_vectors_do_not_count_against_recall() -> None:
    doubled = np.repeat(ITEMS[:500], 4, axis=0)
    assert build_index(doubled, QUERIES, "HNSW16", k=10, target_recall=0.95)[1].ann_recall >= 0.95
    truth = np.array([[3.0, 2.0]], dtype=np.float32)
    assert recall_of(np.array([[8, 9]]), np.array([[3.0, 2.0]], dtype=np.float32), truth) == 1.0
    assert recall_of(np.array([[8, -1]]), np.array([[3.0, 9.0]], dtype=np.float32), truth) == 0.5
    assert recall_of(np.array([[8, 7]]), np.array([[3.0, 1.9]], dtype=np.float32), truth) == 0.5


def test_the_report_names_its_recall_and_the_config_its_bounds() -> None:
    index, report = build_index(ITEMS, QUERIES, "IVF64,Flat", k=10, check_queries=50)
    document = report.to_json()
    assert document["ann_recall@10"] == report.ann_recall
    assert document["queries"] == 25
    assert index.report == report
    assert report.p50_ms <= report.p99_ms
    with pytest.raises(ConfigError, match="items and queries"):
        build_index(ITEMS, QUERIES[:0])
    with pytest.raises(ValueError, match="target_recall"):
        IndexConfig(target_recall=1.5)


def report_of(*points: tuple[int, float, float]) -> IndexReport:
    """A report whose last point was taken."""
    curve = tuple(CurvePoint(effort={"nprobe": n}, recall=recall, p50_ms=ms) for n, recall, ms in points)
    return IndexReport(
        factory="IVF2048,SQ8",
        size=1_000_000,
        dim=64,
        k=100,
        queries=256,
        target_recall=0.98,
        ann_recall=points[-1][1],
        effort=curve[-1].effort,
        p50_ms=points[-1][2],
        p99_ms=points[-1][2],
        build_seconds=1.0,
        file_bytes=1,
        curve=curve,
        filtered=(),
    )


def test_a_dear_target_names_the_cheaper_one() -> None:
    advice = report_of((8, 0.7, 0.2), (24, 0.9617, 0.26), (48, 0.967, 0.54), (384, 0.985, 13.8)).advice
    assert advice is not None
    assert "index.target_recall = 0.96 " in advice


@pytest.mark.parametrize(
    "points",
    [
        [(8, 0.7, 0.2), (24, 0.96, 0.26), (96, 0.985, 0.9)],  # not that much slower
        [(8, 0.7, 0.2), (24, 0.9, 0.26), (384, 0.985, 13.8)],  # what is cheaper finds too little
        [(8, 0.99, 0.2)],
    ],
)
def test_a_target_that_is_worth_its_price_needs_no_advice(points: list[tuple[int, float, float]]) -> None:
    assert report_of(*points).advice is None
