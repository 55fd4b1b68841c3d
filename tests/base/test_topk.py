"""Exact ranking of the catalogue: against a stable sort, with ties, exclusions, biases and odd block sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.base import reservoir
from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged
from recsys.base.topk import exact_ranks, exact_topk, ranks_of_scores, topk_of_scores
from recsys.evaluation.metrics.lists import list_metrics, rank_metrics
from recsys.tests.support.nonempty import nonempty


def sort_all(scores: np.ndarray, k: int, exclude: Ragged | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best by score and then by lower row, from a full sort."""
    scores = scores.copy()
    if exclude is not None:
        scores[exclude.users, exclude.items] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, 1)
    order = np.where(np.isneginf(best), -1, order)
    pad = k - order.shape[1]
    if pad > 0:
        order = np.pad(order, ((0, 0), (0, pad)), constant_values=-1)
        best = np.pad(best, ((0, 0), (0, pad)), constant_values=-np.inf)
    return order, best


def whole_numbers(seed: int, users: int, items: int, width: int = 6, high: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of small integers: products are exact in any order of summation, and ties are everywhere."""
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(-high, high + 1, (n, width)).astype(np.float32) for n in (users, items))
    return first, second


@pytest.mark.parametrize(("items", "k"), [(3, 1), (17, 5), (100, 100), (260, 10), (2000, 3), (2000, 50)])
@pytest.mark.parametrize("block", [(256, 8192), (7, 64), (3, 1000)])
@pytest.mark.parametrize("small", [0, 1 << 15])
def test_equal_to_a_full_sort_with_ties(
    items: int, k: int, block: tuple[int, int], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservoir, "_SMALL", small)  # blocks of more scores are searched by groups
    query, item = whole_numbers(items + k, 23, items)
    rng = np.random.default_rng(k)
    bias = rng.integers(-5, 6, items).astype(np.float32)
    exclude = Ragged.from_lists([rng.choice(items, rng.integers(0, items), replace=False) for _ in range(23)])
    for shift, seen in ((None, None), (bias, None), (bias, exclude)):
        rows, scores = exact_topk(query, item, k, seen, bias=shift, block=block)
        want_rows, want_scores = sort_all(query @ item.T + (0 if shift is None else shift), k, seen)
        np.testing.assert_array_equal(rows, want_rows)
        np.testing.assert_array_equal(scores, want_scores)


@pytest.mark.parametrize(
    "case", ["all differ", "a tie behind the last", "a tie within", "a zero below zero", "few left"]
)
def test_few_scores_that_differ_or_just_do_not(case: str) -> None:
    scores = np.random.default_rng(4).permutation(60).astype(np.float32)[None, :] - 50
    exclude = None
    if case == "a tie behind the last":
        scores[0, 3], scores[0, 41] = 0.5, 0.5  # the tenth and the eleventh: row 3 is the tenth
    elif case == "a tie within":
        scores[0, 41] = scores.max()
    elif case == "a zero below zero":
        scores[scores == 0] = -1.5
        scores[0, 7] = -0.0
    elif case == "few left":
        exclude = Ragged.from_lists([np.arange(53)])
    rows, found = topk_of_scores(lambda users: scores[users], 1, 60, 10, exclude)
    want_rows, want_scores = sort_all(scores + 0.0, 10, exclude)
    np.testing.assert_array_equal(rows, want_rows)
    assert found.tobytes() == want_scores.astype(np.float32).tobytes()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_a_part_of_the_catalogue_is_the_catalogue_without_the_rest(share: float) -> None:
    query, item = whole_numbers(7, 23, 300)
    rng = np.random.default_rng(7)
    allowed = rng.random(300) < share
    exclude = Ragged.from_lists([rng.choice(300, rng.integers(0, 100), replace=False) for _ in range(23)])
    scores = np.where(allowed, query @ item.T, -np.inf)
    rows = np.flatnonzero(allowed)
    for seen in (None, exclude):
        found = exact_topk(query, item[rows], 12, seen, rows=rows, block=(7, 64))
        for ours, sorted_all in nonempty(zip(found, sort_all(scores, 12, seen), strict=True)):
            np.testing.assert_array_equal(ours, sorted_all)


def test_of_several_query_vectors_the_best_product_counts() -> None:
    query, item = whole_numbers(5, 3 * 19, 150)
    several = query.reshape(19, 3, -1)
    scores = (several @ item.T).max(1)
    bias = np.random.default_rng(5).integers(-5, 6, 150).astype(np.float32)
    exclude = Ragged.from_lists([[user, user + 30] for user in range(19)])
    rows, found = exact_topk(several, item, 12, exclude, bias=bias, block=(4, 64))
    want_rows, want_scores = sort_all(scores + bias, 12, exclude)
    np.testing.assert_array_equal(rows, want_rows)
    np.testing.assert_array_equal(found, want_scores)
    truth = Ragged.from_lists([[row[2], row[7]] for row in want_rows])
    assert (exact_ranks(several, item, truth, exclude, bias=bias).items.reshape(-1, 2) == [3, 8]).all()


def test_equal_scores_everywhere_give_the_first_rows() -> None:
    rows, _ = exact_topk(np.ones((4, 2), np.float32), np.ones((900, 2), np.float32), 7, block=(2, 128))
    assert (rows == np.arange(7)).all()
    signed = np.where(np.arange(40) % 2 == 0, -0.0, 0.0).astype(np.float32)  # -0.0 equals 0.0
    rows, _ = topk_of_scores(lambda users: np.tile(signed, (users.stop - users.start, 1)), 2, 40, 5)
    assert (rows == np.arange(5)).all()


@pytest.mark.parametrize("rising", [True, False])
def test_sorted_catalogues_do_not_defeat_the_floor(rising: bool) -> None:
    scores = np.arange(5000, dtype=np.float32)[:, None]
    rows, _ = exact_topk(np.ones((3, 1), np.float32), scores if rising else scores[::-1].copy(), 4, block=(2, 96))
    assert (rows == ([4999, 4998, 4997, 4996] if rising else [0, 1, 2, 3])).all()


def test_fewer_items_than_k_are_padded() -> None:
    rows, scores = exact_topk(np.ones((1, 1), np.float32), np.array([[1.0], [3.0]], np.float32), 4)
    assert rows.tolist() == [[1, 0, -1, -1]]
    assert np.isneginf(scores[0, 2:]).all()
    everything = Ragged.from_lists([[0, 1]])
    assert (exact_topk(np.ones((1, 1)), np.ones((2, 1)), 2, everything)[0] == -1).all()


def test_whole_score_rows_give_the_same_lists_and_are_not_written_to() -> None:
    query, item = whole_numbers(1, 40, 300)
    scores = query @ item.T
    before = scores.copy()
    exclude = Ragged.from_lists([[user, user + 1] for user in range(40)])
    by_rows = topk_of_scores(lambda users: scores[users], 40, 300, 9, exclude, user_block=11)
    np.testing.assert_array_equal(by_rows[0], exact_topk(query, item, 9, exclude)[0])
    ranks_of_scores(lambda users: scores[users], 300, Ragged.from_lists([[1]] * 40), exclude)
    np.testing.assert_array_equal(scores, before)


def test_ranks_equal_places_in_a_full_sort() -> None:
    query, item = whole_numbers(2, 30, 500)
    rng = np.random.default_rng(0)
    truth = Ragged.from_lists([rng.choice(500, rng.integers(0, 6), replace=False) for _ in range(30)])
    exclude = Ragged.from_lists([rng.choice(500, 40, replace=False) for _ in range(30)])
    assert truth.lengths.sum() > 30
    ranks = exact_ranks(query, item, truth, exclude)
    order, _ = sort_all(query @ item.T, 500, exclude)
    for user in range(30):
        for target, rank in zip(truth[user], ranks[user], strict=True):
            where = np.flatnonzero(order[user] == target)
            assert rank == (0 if len(where) == 0 else where[0] + 1)
    lists = exact_topk(query, item, 100, exclude)[0]
    by_list, by_rank = list_metrics(lists, truth, [10, 100]), rank_metrics(ranks, truth.lengths, [10, 100])
    for name, value in by_list.values.items():
        np.testing.assert_allclose(by_rank.values[name], value)


def test_scores_are_true_fp32_whatever_the_process_asks_for() -> None:
    generator = torch.Generator().manual_seed(0)
    query, item = torch.randn(64, 256, generator=generator), torch.randn(512, 256, generator=generator)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        rows, scores = exact_topk(query, item, 20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = np.take_along_axis((query.double() @ item.double().T).numpy(), rows, 1)
    assert np.abs(scores - exact).max() < 1e-4


def test_bad_input_is_one_sentence() -> None:
    good = np.ones((2, 3), np.float32)
    with pytest.raises(DataError, match="no inner product"):
        exact_topk(good, np.ones((4, 2), np.float32), 1)
    with pytest.raises(DataError, match="item vectors hold NaN"):
        exact_topk(good, np.full((4, 3), np.nan, np.float32), 1)
    with pytest.raises(DataError, match="scores hold NaN"):
        topk_of_scores(lambda users: np.full((2, 5), np.nan, np.float32), 2, 5, 1)
    with pytest.raises(DataError, match="one column per item"):
        topk_of_scores(lambda users: np.zeros((2, 4), np.float32), 2, 5, 1)
    with pytest.raises(DataError, match="exclude has lists for 1 users"):
        exact_topk(good, np.ones((4, 3)), 1, Ragged.from_lists([[0]]))
    with pytest.raises(DataError, match="3 item rows for 4 item vectors"):
        exact_topk(good, np.ones((4, 3)), 1, rows=np.arange(3))
    with pytest.raises(DataError, match="item rows from 0 to 9"):
        exact_ranks(good, np.ones((4, 3)), Ragged.from_lists([[0], [9]]))
    with pytest.raises(ConfigError, match="k=0"):
        exact_topk(good, np.ones((4, 3)), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_lists() -> None:
    query, item = whole_numbers(4, 50, 3000)
    exclude = Ragged.from_lists([[user] for user in range(50)])
    for here, there in nonempty(
        zip(exact_topk(query, item, 20, exclude), exact_topk(query, item, 20, exclude, device="cuda"), strict=True)
    ):
        np.testing.assert_array_equal(here, there)
