from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.base.errors import ConfigError
from recsys.retrieval.index import Bitmap, ExactIndex, FaissIndex, SearchPlan, load_index
from recsys.retrieval.index import faiss as index_faiss
from recsys.retrieval.index.families import cluster_count
from recsys.retrieval.index.tuning import build_index
from recsys.tests.support.nonempty import nonempty

N, DIM = 4000, 16
FACTORIES = [
    "Flat",
    "SQ8",
    "IVF32,Flat",
    "IVF,SQ8",
    "IVF32,SQfp16",
    "IVF32,PQ8x4fs,RFlat",
    "IVF32,PQ8x4fs,Refine(SQ8)",
    "HNSW8",
    "HNSW8,SQ8",
]
EXACT_FACTORIES = ["Flat", "IVF32,Flat", "HNSW8", "IVF32,PQ8x4fs,RFlat"]  # whose stored vectors are not rounded


def points(count: int, seed: int) -> np.ndarray:
    """Unit vectors around common centres: [count, DIM]."""
    centres = np.random.default_rng(99).standard_normal((40, DIM))
    rng = np.random.default_rng(seed)
    drawn = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.standard_normal((count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


ITEMS, QUERIES = points(N, 0), points(60, 1)


@pytest.fixture(scope="module", autouse=True)
def _probe_small_catalogues() -> Iterator[None]:
    """Let filters that leave more than 60 items go through FAISS, as they do in a large catalogue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_faiss, "EXACT_ROWS", 60)
        yield


@pytest.fixture(scope="module")
def built(_probe_small_catalogues: None) -> dict[str, FaissIndex]:
    faiss.omp_set_num_threads(1)
    indexes = {}
    for factory in FACTORIES:
        index, _ = build_index(ITEMS, points(80, 2), factory, target_recall=0.95, k=20)
        assert isinstance(index, FaissIndex)
        indexes[factory] = index
    return indexes


def fresh(factory: str) -> FaissIndex:
    index, _ = build_index(ITEMS, points(80, 2), factory, target_recall=0.95, k=20)
    assert isinstance(index, FaissIndex)
    return index


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([np.isin(t[t >= 0], f).mean() for f, t in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_family_finds_what_exact_search_finds(factory: str, built: dict[str, FaissIndex]) -> None:
    found, truth = built[factory].search(QUERIES, 20), ExactIndex(ITEMS).search(QUERIES, 20)
    assert recall(found.rows, truth.rows) >= (1.0 if factory == "Flat" else 0.92)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    exact = np.take_along_axis(QUERIES @ ITEMS.T, found.rows, axis=1)
    assert np.abs(found.scores - exact).max() < (1e-5 if factory in EXACT_FACTORIES else 0.03)
    assert built[factory].raw.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize("factory", FACTORIES)
@given(data=st.data())
@settings(
    database=None,
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_the_filter_every_query_gets_k_allowed_items(
    factory: str, built: dict[str, FaissIndex], data: st.DataObject
) -> None:
    index = built[factory]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    k = data.draw(st.sampled_from([1, 5, 20, 64]))
    share = data.draw(st.sampled_from([0.0, 0.0005, 0.004, 0.02, 0.1, 0.5, 1.0]))
    if data.draw(st.booleans()):
        mask = rng.random(N) < share
    else:  # the items farthest from the first query: what a graph or a cluster search cannot see from there
        mask = ITEMS @ QUERIES[0] < np.quantile(ITEMS @ QUERIES[0], share)
    queries = QUERIES[: data.draw(st.integers(1, 4))]
    longest = data.draw(st.sampled_from([0, 3, 50, 800, 3990]))
    best = np.argsort(-(queries @ ITEMS.T), axis=1)
    seen = [line[: rng.integers(0, longest + 1)] for line in best]
    found = index.search(queries, k, Bitmap.from_mask(mask), seen)
    for rows, scores, barred in nonempty(zip(found.rows, found.scores, seen, strict=True)):
        available = mask.copy()
        available[barred] = False
        kept = rows[rows >= 0]
        assert len(kept) == min(k, available.sum())
        assert available[kept].all()
        assert len(np.unique(kept)) == len(kept)
        assert (rows[len(kept) :] == -1).all()
        assert np.isneginf(scores[len(kept) :]).all()
        assert (np.diff(scores[: len(kept)]) <= 0).all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_filter_does_not_cost_recall(factory: str, built: dict[str, FaissIndex]) -> None:
    exact, rng = ExactIndex(ITEMS), np.random.default_rng(3)
    for share in (0.5, 0.1, 0.03):
        allowed = Bitmap.from_mask(rng.random(N) < share)
        found, truth = built[factory].search(QUERIES, 20, allowed), exact.search(QUERIES, 20, allowed)
        assert recall(found.rows, truth.rows) >= 0.88
    seen = [rng.integers(0, N, 40) for _ in QUERIES]
    found, truth = built[factory].search(QUERIES, 20, excluded=seen), exact.search(QUERIES, 20, excluded=seen)
    assert recall(found.rows, truth.rows) >= 0.92


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_batch_gets_what_its_queries_get_alone(factory: str, built: dict[str, FaissIndex]) -> None:
    index, rng = built[factory], np.random.default_rng(4)
    seen = [rng.integers(0, N, length) for length in rng.integers(0, 300, len(QUERIES))]
    for allowed in (None, Bitmap.from_mask(rng.random(N) < 0.2), Bitmap.from_mask(rng.random(N) < 0.01)):
        for excluded in (None, seen):
            together = index.search(QUERIES, 20, allowed, excluded)
            for at in nonempty(range(len(QUERIES))):
                alone = index.search(
                    QUERIES[at : at + 1], 20, allowed, None if excluded is None else excluded[at : at + 1]
                )
                np.testing.assert_allclose(alone.scores[0], together.scores[at], rtol=1e-5, atol=1e-6)
                assert np.isin(alone.rows[0], together.rows[at]).mean() >= 0.95  # equal but for scores 1e-7 apart


def test_equal_scores_come_by_lower_row() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    index = FaissIndex.build(vectors, "Flat")
    index.use_plan(SearchPlan(k=12))
    index.upsert([0, 6], vectors[[0, 6]])  # FAISS now holds these two last
    assert index.search(np.eye(4, dtype=np.float32)[[2]], 12).rows.tolist() == [[6, 7, 8, 0, 1, 2, 3, 4, 5, 9, 10, 11]]


@pytest.mark.parametrize("factory", FACTORIES)
def test_upsert_delete_and_compact_answer_like_a_rebuilt_index(factory: str, tmp_path: Path) -> None:
    index = fresh(factory)
    changed, vectors = np.arange(0, 900, 3), ITEMS.copy()
    vectors[changed] = points(len(changed), 5)
    vectors = np.concatenate([vectors, points(150, 6)])
    deleted = np.arange(1, 700, 6)
    index.upsert(changed, vectors[changed])
    index.upsert(np.arange(N, N + 150), vectors[N:])
    index.delete(deleted)
    index.upsert(deleted[:10], vectors[deleted[:10]])  # a deleted row comes back
    alive = np.ones(len(vectors), dtype=np.bool_)
    alive[deleted[10:]] = False
    exact = ExactIndex(vectors)
    truth = exact.search(QUERIES, 20, Bitmap.from_mask(alive))
    narrow = Bitmap.from_mask(np.random.default_rng(7).random(len(vectors)) < 0.3)
    narrow_truth = exact.search(QUERIES, 20, Bitmap.from_mask(alive) & narrow)

    def check(one: FaissIndex) -> None:
        assert (one.size, one.num_rows) == (alive.sum(), len(vectors))
        found = one.search(QUERIES, 20)
        assert alive[found.rows].all()
        assert recall(found.rows, truth.rows) >= 0.9
        assert one.search(vectors[changed[:50]], 1).rows[:, 0].tolist() == changed[:50].tolist()
        filtered = one.search(QUERIES, 20, narrow)
        assert (alive & narrow.mask())[filtered.rows].all()
        assert recall(filtered.rows, narrow_truth.rows) >= 0.88
        tiny = Bitmap.from_rows([deleted[0], deleted[50], 2], len(vectors))
        assert sorted(one.search(QUERIES[:1], 3, tiny).rows[0].tolist()) == [
            -1,
            deleted[0] if alive[deleted[0]] else -1,
            2,
        ]

    check(index)
    index.save(tmp_path)
    loaded = load_index(tmp_path)
    assert isinstance(loaded, FaissIndex)
    check(loaded)
    assert loaded.dead_fraction > 0
    loaded.compact()
    assert loaded.dead_fraction == 0
    check(loaded)
    with pytest.raises(ConfigError, match="exceeds the"):
        loaded.search(QUERIES, loaded.size + 1)


def test_a_loaded_index_is_mapped_and_turns_writable_on_the_first_write(tmp_path: Path) -> None:
    index = fresh("IVF32,SQ8")
    index.save(tmp_path)
    loaded = FaissIndex.load(tmp_path)
    assert loaded.search(QUERIES, 20).rows.tolist() == index.search(QUERIES, 20).rows.tolist()
    assert loaded.plan == index.plan
    assert loaded.report == index.report
    loaded.upsert([0], ITEMS[1:2])  # FAISS itself ends the process here when the index is mapped
    assert set(loaded.search(ITEMS[1:2], 2).rows[0].tolist()) == {0, 1}


def test_what_an_index_cannot_take_is_refused_with_the_mend() -> None:
    index = FaissIndex.build(ITEMS, "Flat")
    with pytest.raises(ConfigError, match="unit vectors and these are not"):
        index.upsert([0], 2 * ITEMS[:1])
    with pytest.raises(ConfigError, match="twice"):
        index.upsert([0, 0], ITEMS[:2])
    with pytest.raises(ConfigError, match="cannot be deleted"):
        index.delete([N])
    with pytest.raises(ConfigError, match=r"IVF1024 needs 39936 items .* there are 4000; use IVF102 or fewer, or Flat"):
        FaissIndex.build(ITEMS, "IVF1024,SQ8")
    with pytest.raises(ConfigError, match=r"needs 39 items .* use Flat"):
        FaissIndex.build(ITEMS[:20], "IVF1,Flat")
    for factory in ("LSH", "IVF32,PQ8x4fs", "PQ8x4fs,RFlat", "IVF32,PQ7x4fs,RFlat", "HNSW1", "Flat,L2", "IDMap,Flat"):
        with pytest.raises(ConfigError):
            FaissIndex.build(ITEMS, factory)


def test_clusters_never_outgrow_what_the_items_can_train() -> None:
    for size in (1, 38, 39, 100, 1000, 50_000, 1_000_000):
        assert 1 <= cluster_count(size) <= max(size / 39, 1)
    assert cluster_count(1_000_000) == 2048
