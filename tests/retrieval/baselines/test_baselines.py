"""Baselines against their definitions, computed the slow way, and the protocol they share."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged
from recsys.retrieval.baselines import BASELINES, Histories, baseline_from_state, build_baseline, cooccurrence, sparse
from recsys.retrieval.baselines.categories import SameCategory
from recsys.retrieval.baselines.items import ItemKNN
from recsys.testing.baselines import BaselineContract, N, U, histories, log

OWN = [name for name in BASELINES if name not in {"als", "bpr"}]


def matrix(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    x = np.zeros((U, N))
    x[users, items] = 1.0
    return x


def fitted(name: str, **options: object) -> Any:
    return unfitted(name, **options).fit(*log(), U, N)


def unfitted(name: str, **options: object) -> Any:
    """A baseline that has been told what it must know of the items."""
    model = build_baseline(name, **options)
    if isinstance(model, SameCategory):
        model.describe_items(np.array([[item % 4, 4 + item % 3 if item % 2 else -1] for item in range(N)], np.int32))
    return model


class TestEveryBaseline(BaselineContract):
    cases = {name: {"plain": {}} for name in OWN}

    def unfitted(self, kind: str, **keys: Any) -> Any:
        return unfitted(kind, **keys)


def test_a_score_comes_from_the_history_that_is_asked_about() -> None:
    for name in ("item_knn", "ease", "transition", "same_category"):
        scores = fitted(name).score(histories())
        assert (scores[1] == 0).all()  # no history: nothing to say
        assert (scores[[0, 2, 3, 5]] != 0).any(1).all()
        assert np.abs(scores[0] - scores[2]).max() > 0
        only_known = fitted(name).score(Histories(Ragged.from_lists([[4]])))
        if name == "ease":  # rows outside the vocabulary count for nothing, wherever age plays no part
            np.testing.assert_allclose(scores[4], only_known[0])


def test_ease_is_the_best_zero_diagonal_regression() -> None:
    users, items, _ = log()
    x = matrix(users, items)
    model = fitted("ease", regularisation=7.0)
    weights = np.asarray(model.matrix, dtype=np.float64)
    assert (np.diag(weights) == 0).all()
    # At the minimum of |X - XB|^2 + 7 |B|^2 with a zero diagonal, the free gradient vanishes off the diagonal.
    gradient = x.T @ (x @ weights - x) + 7.0 * weights
    off = ~np.eye(N, dtype=bool)
    assert np.abs(gradient[off]).max() < 1e-4
    assert np.abs(np.diag(gradient)).max() > 1.0
    np.testing.assert_allclose(model.score(histories())[0], weights[[3, 0, 7]].sum(0), rtol=1e-5)


def test_ease_refuses_a_catalogue_that_would_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"EASE needs about 260.8 GiB for 100,000 items and is allowed 12,000"):
        build_baseline("ease").fit(np.array([0]), np.array([0]), None, 1, 100_000)


def test_item_knn_is_the_shrunk_cosine_of_user_sets() -> None:
    users, items, _ = log()
    x = matrix(users, items)
    together, size = x.T @ x, x.sum(0)
    similarity = together / (np.sqrt(np.outer(size, size)) + 3.0)
    np.fill_diagonal(similarity, 0.0)
    model = fitted("item_knn", neighbours=N, shrinkage=3.0, last=None, decay=1.0)
    np.testing.assert_allclose(vars(model)["matrix"].toarray(), similarity, rtol=1e-5)
    few = fitted("item_knn", neighbours=2, shrinkage=3.0).matrix.toarray()
    assert ((few > 0).sum(1) == np.minimum(2, (similarity > 0).sum(1))).all()
    for row in range(N):
        kept = np.sort(few[row][few[row] > 0])
        np.testing.assert_allclose(kept, np.sort(similarity[row])[::-1][: len(kept)][::-1], rtol=1e-5)


def test_transitions_are_shares_of_what_followed() -> None:
    users, items = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    model = build_baseline("transition", orders=2, order_decay=0.5, shrinkage=1.5, last=2, decay=0.8)
    model.fit(users, items, np.array([1.0, 2.0, 3.0, 1.0, 2.0]), 2, 4)
    expected = np.zeros((4, 4))
    expected[0, 1], expected[0, 2], expected[1, 2] = 2 / 4, 0.5 / 4, 1 / 2.5
    np.testing.assert_allclose(vars(model)["matrix"].toarray(), expected, rtol=1e-6)
    score = model.score(Histories(Ragged.from_lists([[3, 0, 1]])))[0]
    np.testing.assert_allclose(score, expected[1] + 0.8 * expected[0], rtol=1e-6)


def test_transitions_follow_time_and_stay_within_a_user() -> None:
    users, items, times = np.array([0, 1, 0]), np.array([2, 1, 0]), np.array([9.0, 5.0, 1.0])
    model = build_baseline("transition", shrinkage=0.0).fit(users, items, times, 2, 3)
    assert vars(model)["matrix"].toarray().nonzero() == (np.array([0]), np.array([2]))


def test_history_weights_take_the_latest_occurrence_and_forget() -> None:
    def written_out(found: sparse.WeightedRows) -> np.ndarray:
        weights = np.zeros((found.queries, N))
        weights[found.owner, found.rows] = found.values
        return weights

    weights = written_out(histories().weights(N, last=3, decay=0.5))
    assert weights[3].tolist() == [0, 0.5, 0, 0, 0, 1.0, *[0] * 9]
    assert weights[0].tolist() == [0.5, 0, 0, 0.25, 0, 0, 0, 1.0, *[0] * 7]
    assert weights[1].sum() == 0
    assert weights[4].tolist() == [0, 0, 0, 0, 0.25, *[0] * 10]
    assert (weights[5] > 0).sum() == 3
    np.testing.assert_array_equal(written_out(histories().block(3, 5).weights(N, 3, 0.5)), weights[3:5])
    np.testing.assert_array_equal(written_out(histories().weights(N, 3, 0.5).block(3, 5)), weights[3:5])
    assert (written_out(histories().weights(N))[5] == ([1.0] * 14 + [0.0])).all()


def test_popularity_counts_and_recent_popularity_fades() -> None:
    counts = np.bincount(log()[1], minlength=N)
    np.testing.assert_array_equal(fitted("popularity").score(histories())[4], counts)
    day = 86_400.0
    few = (np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 2]), np.array([0.0, 5, 10, 20]) * day)
    fading = build_baseline("recent_popularity", half_life_days=10.0).fit(*few, 1, 4)
    np.testing.assert_allclose(fading.score(histories())[0], [2**-2 + 2**-1.5, 0.5, 1.0, 0.0], rtol=1e-6)
    window = build_baseline("popularity", window_days=10.0).fit(*few, 1, 4)
    assert window.score(histories())[0].tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError, match="recent_popularity needs the times"):
        build_baseline("recent_popularity").fit(few[0], few[1], None, 1, 4)


@pytest.mark.parametrize("block", [4 * N, 1 << 26])
def test_dense_and_sparse_counting_give_the_same_exact_counts(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    users, items, _ = log()
    x = cooccurrence.interaction_matrix(users, items, U, N)
    expected = x.toarray().T @ x.toarray()
    monkeypatch.setattr(cooccurrence, "BLOCK_ENTRIES", block)
    for advantage in (0, 10**9):
        monkeypatch.setattr(cooccurrence, "DENSE_ADVANTAGE", advantage)
        parts = list(cooccurrence.cooccurrence_blocks(x))
        assert [start for start, _ in parts] == list(range(0, N, max(1, min(block // N, N))))
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), expected)


@pytest.mark.parametrize("count", [1, 3, N])
def test_dense_and_sparse_search_find_the_same_neighbours(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    users, items, _ = log()
    x = cooccurrence.interaction_matrix(users, items, U, N)
    together = (x.toarray().T @ x.toarray()).astype(np.float64)
    root = np.sqrt(np.diag(together))

    def cosine(shared: Any, one: Any, other: Any) -> Any:
        return np.where(shared < 2, 0.0, shared / (one * other + 3.0)).astype(np.float32)

    expected = cosine(together, root[:, None], root)
    np.fill_diagonal(expected, 0.0)
    best = -np.sort(-expected, axis=1)[:, :count]  # by value: which of equal ones is kept, nobody says
    for advantage, work in ((10**9, 1), (0, 1), (0, 100), (0, 1 << 24)):
        monkeypatch.setattr(cooccurrence, "DENSE_ADVANTAGE", advantage)
        monkeypatch.setattr(cooccurrence, "SPARSE_WORK", work)
        found = cooccurrence.nearest_items(x, count, cosine).toarray()
        np.testing.assert_allclose(-np.sort(-found, axis=1)[:, :count], best, rtol=1e-6)
        np.testing.assert_allclose(found[found > 0], expected[found > 0], rtol=1e-6)


def test_a_large_catalogue_of_few_events_costs_what_the_events_do() -> None:
    users = np.repeat(np.arange(100), 5)
    items = np.random.default_rng(0).permutation(10**6)[: len(users)]
    fit = build_baseline("item_knn").fit(users, items, np.arange(500.0), 100, 10**6)  # every pair: a million millions
    assert isinstance(fit, ItemKNN)
    assert fit.matrix.nnz == 100 * 5 * 4


def test_bad_input_is_told_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match='no baseline is called "svd"; there are: als, bpr'):
        build_baseline("svd")
    with pytest.raises(ConfigError, match=r"baseline ease: lam: Extra inputs .* its options are last, decay, regul"):
        build_baseline("ease", lam=3)
    with pytest.raises(DataError, match="item rows reach from 0 to 13 but there are 10 items"):
        build_baseline("popularity").fit(*log(), U, 10)
    users, items, times = log()
    with pytest.raises(DataError, match="500 user rows, 499 item rows and 500 times"):
        build_baseline("popularity").fit(users, items[1:], times, U, N)
    with pytest.raises(DataError, match="the arrays hold a popularity baseline, not ease"):
        type(build_baseline("ease")).from_state(fitted("popularity").state())


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_factor_models_name_the_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(ConfigError, match=r"needs the package 'implicit', which is not installed; run `pip install"):
        build_baseline(name)


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_factor_models_prefer_the_items_of_ones_own_group(name: str) -> None:
    pytest.importorskip("implicit")
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 6)
    items = np.concatenate([rng.choice(10, 6, False) + 10 * (user % 2) for user in range(60)])
    model = build_baseline(name, factors=8, iterations=60).fit(users, items, None, 60, 20)
    queries = Histories(Ragged.from_lists([[0, 1, 2], [12, 13, 14]]))
    scores = model.score(queries)
    assert scores[0, :10].mean() > scores[0, 10:].mean()
    assert scores[1, 10:].mean() > scores[1, :10].mean()
    pairs = np.array([[4, 14], [5, 15]])
    np.testing.assert_allclose(model.score_pairs(queries, pairs), np.take_along_axis(scores, pairs, 1), rtol=1e-4)
    again = baseline_from_state(model.state())
    np.testing.assert_array_equal(again.score(queries), scores)


@pytest.mark.parametrize("name", OWN)
def test_models_that_learn_the_same_share_it_and_others_do_not(name: str) -> None:
    """What is adopted scores as what is fitted would; whoever refuses says so."""
    queries, settings = histories(), build_baseline(name).settings
    weightings: list[dict[str, object]] = [{}]
    if {"last", "decay"} <= set(type(settings).model_fields):
        weightings += [{"last": 2}, {"decay": 0.5}]
    for weighting in weightings:
        learned, asked = fitted(name), unfitted(name, **weighting)
        if asked.adopt(learned):
            expected = fitted(name, **weighting).score(queries)
            np.testing.assert_array_equal(asked.score(queries), expected)
    assert unfitted("ease", decay=0.5).adopt(fitted("ease"))
    assert not unfitted("ease", regularisation=20.0).adopt(fitted("ease"))
    assert not unfitted("transition", orders=2).adopt(fitted("transition"))
    assert not unfitted("ease").adopt(fitted("item_knn"))


@pytest.mark.parametrize("name", ["item_knn", "ease", "transition", "same_category"])
def test_pairs_of_a_block_that_is_cut_are_those_of_whole_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, queries = fitted(name), histories()
    candidates = np.random.default_rng(3).integers(0, N, (6, 5))
    expected = np.take_along_axis(model.score(queries), candidates, 1)
    assert np.count_nonzero(expected)
    monkeypatch.setattr(sparse, "SUMS", 2 * N)
    for _ in range(2):  # the buffer of sums is left as it was found
        np.testing.assert_array_equal(model.score_pairs(queries, candidates), expected)


def test_sums_of_rows_are_those_of_a_sparse_product_bit_for_bit() -> None:
    rng = np.random.default_rng(4)
    matrix = csr_array(rng.random((30, 50), dtype=np.float32) * (rng.random((30, 50)) < 0.4))
    owner, rows = np.nonzero(rng.random((7, 30)) < 0.3)
    values = rng.random(len(rows), dtype=np.float32)
    product = (csr_array((values, (owner, rows)), shape=(7, 30)) @ matrix).toarray()
    assert (product != 0).any()
    np.testing.assert_array_equal(sparse.summed(sparse.WeightedRows(7, owner, rows, values), matrix, 50), product)
