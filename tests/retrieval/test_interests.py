"""Searching with several vectors per user gives what exact scoring by the best product gives."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.ragged import Ragged
from recsys.base.topk import exact_topk
from recsys.retrieval.index import Bitmap, ExactIndex, FaissIndex
from recsys.retrieval.interests import search_interests, smooth_best


@pytest.mark.parametrize("kind", ["exact", "flat"])
@pytest.mark.parametrize("several", [1, 2, 5])
def test_the_lists_are_those_of_exact_scoring(kind: str, several: int) -> None:
    rng = np.random.default_rng(several)
    items = rng.normal(size=(200, 8)).astype(np.float32)
    queries = rng.normal(size=(13, several, 8)).astype(np.float32)
    index = ExactIndex(items) if kind == "exact" else FaissIndex.build(items, "Flat")
    lists = [rng.choice(200, rng.integers(0, 30), replace=False) for _ in range(13)]
    seen = Ragged.from_lists(lists)
    allowed = rng.random(200) < 0.5
    given = queries[:, 0] if several == 1 else queries
    np.testing.assert_array_equal(search_interests(index, given, 15), exact_topk(queries, items, 15)[0])
    barred = Ragged.from_lists([np.union1d(one, np.flatnonzero(~allowed)) for one in lists])
    found = search_interests(index, given, 15, Bitmap.from_mask(allowed), seen)
    np.testing.assert_array_equal(found, exact_topk(queries, items, 15, barred)[0])


def test_the_smooth_best_lies_between_the_best_and_the_best_plus_the_log_of_how_many() -> None:
    rng = np.random.default_rng(0)
    items, queries = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=(6, 3, 4)).astype(np.float32)
    products = np.matmul(items, queries.transpose(0, 2, 1))  # [B, N, M]
    best, smooth = products.max(axis=2), smooth_best(products)
    assert (smooth >= best - 1e-5).all()
    assert (smooth <= best + np.log(3) + 1e-5).all()
    np.testing.assert_allclose(smooth_best(products[..., :1]), products[..., 0])
