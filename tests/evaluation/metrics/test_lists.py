"""Ranked-list metrics three ways: by hand, by a slow twin, and by an independent library."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged, contains
from recsys.evaluation.metrics.lists import (
    LIST_METRICS,
    graded_ndcg,
    hit_matrix,
    ideal_ndcg,
    list_metrics,
    rank_metrics,
)
from recsys.tests.support.nonempty import nonempty


def random_lists(seed: int, users: int = 60, items: int = 40, k: int = 12) -> tuple[np.ndarray, Ragged]:
    """Short lists, users without truth, users without lists."""
    rng = np.random.default_rng(seed)
    ranked = np.full((users, k), -1)
    for user in range(users):
        length = rng.integers(0, k + 1)
        ranked[user, :length] = rng.permutation(items)[:length]
    truth = [rng.choice(items, rng.integers(0, 9), replace=False) for _ in range(users)]
    return ranked, Ragged.from_lists(truth)


def slow_metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    top = [item for item in ranked if item >= 0][:k]
    flags = [item in relevant for item in top]
    dcg = sum(1 / math.log2(place + 2) for place, hit in enumerate(flags) if hit)
    best = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    precisions = [sum(flags[: place + 1]) / (place + 1) for place, hit in enumerate(flags) if hit]
    return {
        f"recall@{k}": sum(flags) / len(relevant),
        f"hit@{k}": float(any(flags)),
        f"ndcg@{k}": dcg / best,
        f"mrr@{k}": next((1 / (place + 1) for place, hit in enumerate(flags) if hit), 0.0),
        f"precision@{k}": sum(flags) / k,
        f"map@{k}": sum(precisions) / len(relevant),
    }


def test_worked_by_hand() -> None:
    ranked = np.array([[7, 3, 5, 1], [2, 4, -1, -1], [0, 1, 2, 3]])
    truth = Ragged.from_lists([[3, 1, 9], [4], []])
    found = list_metrics(ranked, truth, [2, 4])
    assert found.users.tolist() == [0, 1]
    assert found.skipped == 1
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    expected: dict[str, list[float]] = {
        "recall@2": [1 / 3, 1],
        "hit@2": [1, 1],
        "ndcg@2": [second / (1 + second), second],
        "mrr@2": [1 / 2, 1 / 2],
        "precision@2": [1 / 2, 1 / 2],
        "map@2": [1 / 6, 1 / 2],
        "recall@4": [2 / 3, 1],
        "hit@4": [1, 1],
        "ndcg@4": [(second + fourth) / (1 + second + 1 / 2), second],
        "mrr@4": [1 / 2, 1 / 2],
        "precision@4": [1 / 2, 1 / 4],
        "map@4": [(1 / 2 + 2 / 4) / 3, 1 / 2],
    }
    assert set(found.values) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name], np.asarray(values), atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_slow_twin(seed: int) -> None:
    ranked, truth = random_lists(seed)
    ks = [1, 3, 10, 12]
    found = list_metrics(ranked, truth, ks)
    assert found.skipped == int((truth.lengths == 0).sum()) > 0
    for row, user in enumerate(found.users):
        for k in ks:
            for name, value in slow_metrics(ranked[user].tolist(), set(truth[user].tolist()), k).items():
                assert found.values[name][row] == pytest.approx(value, abs=1e-12), (name, user)


def test_equal_to_ir_measures() -> None:
    ir = pytest.importorskip("ir_measures")
    ranked, truth = random_lists(11)
    qrels = [ir.Qrel(str(u), str(i), 1) for u in range(len(truth)) for i in truth[u]]
    run = [
        ir.ScoredDoc(str(user), str(item), float(-place))
        for user, row in enumerate(ranked)
        for place, item in enumerate(row)
        if item >= 0
    ]
    names = {"recall": ir.R, "hit": ir.Success, "ndcg": ir.nDCG, "mrr": ir.RR, "precision": ir.P, "map": ir.AP}
    found = list_metrics(ranked, truth, [1, 5, 12]).means()
    for k in (1, 5, 12):
        theirs = ir.calc_aggregate([measure @ k for measure in names.values()], qrels, run)
        for name, measure in names.items():
            assert found[f"{name}@{k}"] == pytest.approx(theirs[measure @ k], abs=1e-6), (name, k)


def test_graded_ndcg_equal_to_ir_measures_and_to_binary() -> None:
    ir = pytest.importorskip("ir_measures")
    ranked, truth = random_lists(5)
    truth = truth.unique()
    gains = np.random.default_rng(0).integers(0, 4, len(truth.items)).astype(float)
    qrels = [ir.Qrel(str(u), str(i), int(g)) for u, i, g in zip(truth.users, truth.items, gains, strict=True)]
    run = [ir.ScoredDoc(str(u), str(i), float(-p)) for u, row in enumerate(ranked) for p, i in enumerate(row) if i >= 0]
    found = graded_ndcg(ranked, truth, gains, [3, 10])
    for k in (3, 10):
        theirs = {one.query_id: one.value for one in ir.iter_calc([ir.nDCG @ k], qrels, run)}
        for user, value in zip(found.users, found.values[f"ndcg@{k}"], strict=True):
            assert value == pytest.approx(theirs[str(user)], abs=1e-6)
    binary = graded_ndcg(ranked, truth, np.ones(len(gains)), [10]).values["ndcg@10"]
    np.testing.assert_allclose(binary, list_metrics(ranked, truth, [10]).values["ndcg@10"], atol=1e-12)


def test_ranks_and_lists_agree() -> None:
    ranked, truth = random_lists(3)
    truth = truth.unique()
    ranks = [
        [int(np.flatnonzero(ranked[u] == i)[0]) + 1 if i in ranked[u] else 0 for i in truth[u]]
        for u in range(len(truth))
    ]
    by_rank = rank_metrics(Ragged.from_lists(ranks), truth.lengths, [5, 10])
    by_list = list_metrics(ranked, truth, [5, 10])
    for name, value in nonempty(by_list.values.items()):
        np.testing.assert_allclose(by_rank.values[name], value, atol=1e-12)


def test_properties_of_every_metric() -> None:
    ranked, truth = random_lists(8)
    found = list_metrics(ranked, truth, [1, 5, 12])
    for name, value in found.values.items():
        assert ((value >= 0) & (value <= 1 + 1e-12)).all(), name
    for metric in ("recall", "hit", "mrr", "map"):
        assert (found.values[f"{metric}@5"] <= found.values[f"{metric}@12"] + 1e-12).all()
    assert set(found.values) == {f"{metric}@{k}" for metric in LIST_METRICS for k in (1, 5, 12)}


def test_a_relevant_item_named_twice_counts_once() -> None:
    once = list_metrics(np.array([[1, 2]]), Ragged.from_lists([[1, 5]]), [2])
    twice = list_metrics(np.array([[1, 2]]), Ragged.from_lists([[1, 5, 1]]), [2])
    assert once.means() == twice.means()


def test_a_list_that_repeats_an_item_is_refused() -> None:
    with pytest.raises(DataError, match="user row 1 holds item row 4 twice"):
        list_metrics(np.array([[1, 2, 3], [4, 3, 4]]), Ragged.from_lists([[1], [4]]), [3])


def test_wrong_shapes_and_cut_offs_are_refused() -> None:
    truth = Ragged.from_lists([[1]])
    with pytest.raises(DataError, match="one list"):
        list_metrics(np.array([[1], [2]]), truth, [1])
    with pytest.raises(ConfigError, match="metrics at 5 asked of lists of 2"):
        list_metrics(np.array([[1, 2]]), truth, [5])
    with pytest.raises(ConfigError, match="choose among"):
        list_metrics(np.array([[1, 2]]), truth, [1], ["accuracy"])
    with pytest.raises(DataError, match="must rise"):
        Ragged(np.array([1, 2]), np.array([0, 2, 1]))
    with pytest.raises(DataError, match="user rows run from 0 to 3"):
        Ragged.from_pairs([0, 3], [1, 1], 3)


def test_no_user_with_truth_gives_none() -> None:
    found = list_metrics(np.array([[1, 2]]), Ragged.from_lists([[]]), [2])
    assert found.skipped == 1
    assert found.means()["ndcg@2"] is None


def test_pads_are_never_hits() -> None:
    ranked = np.array([[-1, -1, 2]])
    assert hit_matrix(ranked, Ragged.from_lists([[2, 0]])).tolist() == [[False, False, True]]
    assert not contains(Ragged.from_lists([[0], [1]]), np.array([1, 0]), np.array([-1, 1])).any()


def test_ideal_ndcg_is_the_metric_of_a_perfect_order() -> None:
    relevant = np.array([1, 4, 20, 3])
    retrieved = np.array([1, 2, 20, 0])
    for k in (1, 3, 10):
        for user in range(4):
            ranked = np.full((1, 30), -1)
            ranked[0, : retrieved[user]] = np.arange(retrieved[user])
            metric = list_metrics(ranked, Ragged.from_lists([np.arange(relevant[user])]), [k])
            assert ideal_ndcg(retrieved, relevant, k)[user] == pytest.approx(metric.values[f"ndcg@{k}"][0])


def test_pairs_keep_their_order_and_lists_round_trip() -> None:
    lists = Ragged.from_pairs([2, 0, 2, 0], [9, 4, 1, 7], 3)
    assert [lists[user].tolist() for user in range(3)] == [[4, 7], [], [9, 1]]
    assert lists.users.tolist() == [0, 0, 2, 2]
    many = Ragged.from_pairs(np.arange(3000) % 3, np.arange(3000), 3)
    assert all((np.diff(many[user]) > 0).all() for user in range(3))
    assert Ragged.from_padded(np.array([[4, 7], [-1, -1], [9, 1]])).items.tolist() == [4, 7, 9, 1]
    assert lists.select(lists.items > 4).lengths.tolist() == [1, 0, 1]


def test_with_nothing_retrieved_even_a_perfect_order_is_worth_nothing() -> None:
    assert ideal_ndcg(np.array([0, 1, 3]), np.array([2, 1, 3]), 10).tolist() == [0.0, 1.0, 1.0]
