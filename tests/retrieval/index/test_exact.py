from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.base import topk
from recsys.base.errors import ConfigError, RunError
from recsys.retrieval.index import Bitmap, Candidates, ExactIndex, load_index


def brute_force(
    vectors: np.ndarray, queries: np.ndarray, k: int, mask: np.ndarray | None = None, seen: list[Any] | None = None
) -> Candidates:
    """Sort every score by (-score, row), one query at a time."""
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for line, query in enumerate(queries):
        product = vectors @ query
        order = np.lexsort((np.arange(len(vectors)), -product))
        keep = [r for r in order if (mask is None or mask[r]) and (seen is None or r not in seen[line])][:k]
        rows[line, : len(keep)], scores[line, : len(keep)] = keep, product[keep]
    return Candidates(rows, scores)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_block_size", lambda num_users, device: (4, 16))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 7, 90])
def test_blocked_search_equals_sorting_everything(k: int) -> None:
    rng = np.random.default_rng(0)
    # Whole numbers: sums are exact and full of ties, so the order among equals is tested at every block edge.
    vectors = rng.integers(-2, 3, (97, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (11, 4)).astype(np.float32)
    mask = rng.random(97) < 0.4
    seen = [rng.integers(0, 97, rng.integers(0, 30)).tolist() for _ in range(11)]
    index = ExactIndex(vectors)
    for allowed, excluded in [(None, None), (mask, None), (None, seen), (mask, seen)]:
        found = index.search(queries, k, None if allowed is None else Bitmap.from_mask(allowed), excluded)
        expected = brute_force(vectors, queries, k, allowed, excluded)
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


def test_pads_are_minus_one_and_lowest() -> None:
    found = ExactIndex(np.eye(5)).search(np.ones((2, 5)), 4, Bitmap.from_rows([1, 3], 5), [[3], []])
    assert found.rows.tolist() == [[1, -1, -1, -1], [1, 3, -1, -1]]
    assert np.isneginf(found.scores[found.rows < 0]).all()
    nothing = ExactIndex(np.eye(5)).search(np.ones((1, 5)), 2, Bitmap.from_rows([], 5))
    assert nothing.rows.tolist() == [[-1, -1]]


def test_wrong_questions_get_a_sentence() -> None:
    index = ExactIndex(np.random.default_rng(0).standard_normal((80, 8)))
    with pytest.raises(ConfigError, match=r"k=100 exceeds the 80 indexed items; lower k or rebuild the index"):
        index.search(np.ones((1, 8)), 100)
    with pytest.raises(ConfigError, match="k=0"):
        index.search(np.ones((1, 8)), 0)
    with pytest.raises(ConfigError, match=r"queries must be \[n, 8\] numbers, got \[1, 4\]"):
        index.search(np.ones((1, 4)), 1)
    with pytest.raises(ConfigError, match="NaN or infinity in 1 rows, first in row 0"):
        index.search(np.array([[np.nan] * 8]), 1)
    with pytest.raises(ConfigError, match="speaks about 70 item rows and the index has 80"):
        index.search(np.ones((1, 8)), 1, Bitmap.from_rows([1], 70))


def test_upsert_and_delete_keep_rows_in_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((30, 4)), rng.standard_normal((5, 4))
    index = ExactIndex(vectors)
    index.delete([3, 29])
    assert index.size == 28
    index.upsert([30, 3, 7], np.array([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0]]))
    now = np.concatenate([vectors, [[9.0, 0, 0, 0]]]).astype(np.float32)
    now[3], now[7] = [0, 9, 0, 0], [0, 0, 9, 0]
    mask = np.arange(31) != 29
    index.save(tmp_path)
    for one in (index, load_index(tmp_path)):
        assert (one.size, one.num_rows) == (30, 31)
        expected = brute_force(now, queries.astype(np.float32), 30, mask)
        assert one.search(queries, 30).rows.tolist() == expected.rows.tolist()
    with pytest.raises(ConfigError, match="new rows must continue at 31"):
        index.upsert([40], np.ones((1, 4)))


def test_a_truncated_vector_file_is_named(tmp_path: Path) -> None:
    ExactIndex(np.eye(6)).save(tmp_path)
    file = next(tmp_path.glob("vectors-*.npy"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match=file.name):
        load_index(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_finds_the_same_items() -> None:
    rng = np.random.default_rng(2)
    vectors, queries = rng.standard_normal((5000, 32)), rng.standard_normal((40, 32))
    seen = [rng.integers(0, 5000, 200) for _ in range(40)]
    allowed = Bitmap.from_mask(rng.random(5000) < 0.3)
    here, there = ExactIndex(vectors), ExactIndex(vectors, "cuda")
    for filters in [(None, None), (allowed, None), (allowed, seen)]:
        assert (here.search(queries, 50, *filters).rows == there.search(queries, 50, *filters).rows).mean() > 0.999
