"""Half-precision search gives the rows of a float32 search, and knows which of its answers are proven."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.base.arrays import F32
from recsys.base.ragged import Ragged
from recsys.retrieval.index import halves
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.exact import ExactIndex
from recsys.retrieval.index.halves import HalfVectors, proven_topk
from recsys.tests.devices.probe import NAME, probe


def normal(rows: int, dim: int, seed: int) -> F32:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def reference(queries: F32, vectors: F32, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """By float64 scores, equal ones by the lower row."""
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(scores, rows, axis=1) == -np.inf, -1, rows)


@pytest.mark.parametrize("dim", [8, 64, 300])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_the_rows_are_those_of_float64_whatever_the_scale(dim: int, scale: float) -> None:
    items, queries = normal(3000, dim, 1) * np.float32(scale), normal(70, dim, 2)
    found = HalfVectors(torch.from_numpy(items))
    rows, scores = found.search(queries, 20)
    np.testing.assert_array_equal(rows, reference(queries, items, 20))
    plain = np.take_along_axis(queries @ items.T, rows, axis=1)
    np.testing.assert_allclose(scores, plain, rtol=1e-5, atol=1e-5 * scale)
    assert found.proofs.asked == 70
    assert found.proofs.share < 0.05


def test_ties_at_the_end_of_a_list_are_not_proven_and_go_to_the_lower_row() -> None:
    """Whole numbers, so that every product is exact: 700 items share the place where the list ends."""
    rng = np.random.default_rng(0)
    items = rng.integers(-3, 4, (2000, 8)).astype(np.float32)
    copies = rng.permutation(2000)[:700]
    items[copies] = items[copies[0]]
    queries = np.concatenate([items[copies[:1]] * 2, rng.integers(-3, 4, (20, 8)).astype(np.float32)])
    found = HalfVectors(torch.from_numpy(items))
    assert not bool(proven_topk(found, torch.from_numpy(queries), 50)[2][0])
    rows, _ = found.search(queries, 50)
    np.testing.assert_array_equal(rows, reference(queries, items, 50))
    assert found.proofs.repeated > 0


def test_what_half_precision_confuses_is_searched_again() -> None:
    """Scores that differ by less than float16 can tell: the fetched ones alone would be a guess."""
    items = np.ones((4000, 4), dtype=np.float32)
    items[:, 0] += np.random.default_rng(3).permutation(4000).astype(np.float32) * np.float32(2.0**-20)
    queries = np.ones((3, 4), dtype=np.float32)
    found = HalfVectors(torch.from_numpy(items))
    rows, _ = found.search(queries, 10)
    np.testing.assert_array_equal(rows, reference(queries, items, 10))
    assert found.proofs.share == 1.0


def test_a_proof_never_claims_a_wrong_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random scores close together: where the first lists are wrong, none of them is proven."""
    monkeypatch.setattr(halves, "SCORES", 1)
    wrong = proven = 0
    for seed in range(30):
        items, queries = normal(1500, 16, seed), normal(16, 16, seed + 100)
        items = np.float32(1.0) + items * np.float32((2e-3, 5e-2, 1.0)[seed % 3])
        rows, _, sure = proven_topk(HalfVectors(torch.from_numpy(items)), torch.from_numpy(queries), 8)
        right = (rows.numpy() == reference(queries, items, 8)).all(1)
        wrong, proven = wrong + int((~right).sum()), proven + int(sure.sum())
        assert right[sure.numpy()].all()
    assert wrong > 0
    assert proven > 0


def test_filters_and_exclusions_are_exact_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "SCORES", 4000)
    monkeypatch.setattr(halves, "QUERIES", 7)
    items, queries = normal(900, 12, 4), normal(20, 12, 5)
    rng = np.random.default_rng(6)
    allowed = Bitmap.from_rows(np.sort(rng.permutation(900)[:500]), 900)
    lists = [rng.permutation(900)[: 3 * place] for place in range(20)]
    lengths = np.array([len(rows) for rows in lists])
    excluded = Ragged(np.concatenate(lists), np.concatenate([[0], np.cumsum(lengths)]))
    here = ExactIndex(items)
    with probe():
        there = ExactIndex(items, torch.device(NAME, 0))
        for mask, drop in ((None, None), (allowed, None), (None, excluded), (allowed, excluded)):
            one, other = here.search(queries, 15, mask, drop), there.search(queries, 15, mask, drop)
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
        assert there.proofs.asked == 80
        few = Bitmap.from_rows(np.array([3, 5, 8]), 900)
        assert (there.search(queries, 15, few).rows[:, 3:] == -1).all()


def test_what_is_written_is_found_on_a_device() -> None:
    items, queries = normal(50, 6, 7), normal(4, 6, 8)
    here = ExactIndex(items)
    with probe():
        there = ExactIndex(items, torch.device(NAME, 0))
        there.search(queries, 5)
        for index in (here, there):
            index.upsert(np.array([2, 50]), normal(2, 6, 9) * 5)
            index.delete(np.array([7, 11]))
        np.testing.assert_array_equal(there.search(queries, 20).rows, here.search(queries, 20).rows)
        np.testing.assert_array_equal(there.stored_vectors()[1], here.stored_vectors()[1])
