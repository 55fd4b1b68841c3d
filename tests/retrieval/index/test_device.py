from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch

from recsys.retrieval.index import Bitmap, ExactIndex, FaissIndex, SearchPlan, on_device
from recsys.retrieval.index import device as index_device
from recsys.retrieval.index import tuning as index_tuning

ITEMS = np.random.default_rng(0).standard_normal((6000, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)


class FakeGpuIndex:
    """Answers like FAISS on a GPU: the same search, and no word about a selector it was given."""

    def __init__(self, index: Any) -> None:
        self.index, self.searches = index, 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.searches += 1
        scores, rows = self.index.search(queries, k)
        return scores, rows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[FakeGpuIndex]:
    made: list[FakeGpuIndex] = []

    def copy(_resources: object, _device: int, index: Any) -> FakeGpuIndex:
        made.append(FakeGpuIndex(index))
        return made[-1]

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)
    return made


def planned(factory: str) -> FaissIndex:
    index = FaissIndex.build(ITEMS, factory)
    index.use_plan(SearchPlan(k=50, effort={"nprobe": 16}))
    return index


def test_faiss_without_gpu_support_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not index_device.has_faiss_gpu()
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert not index_device.has_faiss_gpu()


def test_plain_searches_go_to_the_gpu_and_filtered_ones_do_not(gpu: list[FakeGpuIndex]) -> None:
    index = on_device(planned("IVF64,SQ8"), "cuda")
    here = planned("IVF64,SQ8")
    assert index.search(QUERIES, 10).rows.tolist() == here.search(QUERIES, 10).rows.tolist()
    assert gpu[0].searches == 1
    allowed = Bitmap.from_mask(np.arange(6000) % 2 == 0)
    assert (index.search(QUERIES, 10, allowed).rows % 2 == 0).all()
    seen = [line[:5] for line in here.search(QUERIES, 10).rows]
    kept = index.search(QUERIES, 10, excluded=seen).rows
    assert not any(np.isin(line, rows).any() for line, rows in zip(kept, seen, strict=True))
    assert gpu[0].searches == 1
    index.upsert([0], 9 * QUERIES[:1])  # the copy on the GPU knows nothing of it
    assert index.search(QUERIES[:1], 1).rows.tolist() == [[0]]
    assert gpu[0].searches == 1


@pytest.mark.parametrize("factory", ["HNSW8", "IVF64,PQ4x4fs,RFlat"])
def test_families_that_the_gpu_does_not_know_are_searched_exactly(factory: str, gpu: list[FakeGpuIndex]) -> None:
    index = FaissIndex.build(ITEMS, factory)
    index.delete([5])
    exact = on_device(index, "meta")
    assert isinstance(exact, ExactIndex)
    assert (exact.size, exact.num_rows, exact.device.type) == (5999, 6000, "meta")
    assert not gpu


def test_without_faiss_gpu_auto_searches_exactly_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def record(vectors: np.ndarray, device: str) -> ExactIndex:
        asked.append(device)
        return ExactIndex(vectors)

    monkeypatch.setattr(index_tuning, "ExactIndex", record)
    index, report = index_tuning.build_index(ITEMS, QUERIES, k=10, device="cuda")
    assert asked == ["cuda"]
    assert report.factory == "Exact"
    assert report.ann_recall == 1.0
    assert isinstance(index, ExactIndex)


def test_the_exact_copy_answers_like_the_index_it_came_from() -> None:
    index = planned("IVF64,Flat")
    index.delete([3, 9])
    copy = index_device._exact_copy(index, torch.device("cpu"))
    truth = ExactIndex(ITEMS)
    truth.delete([3, 9])
    assert copy.search(QUERIES, 20).rows.tolist() == truth.search(QUERIES, 20).rows.tolist()
