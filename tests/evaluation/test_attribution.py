"""The funnel report: parts that add up, ceilings that hold, and planted faults that get the blame."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.base.ragged import Ragged
from recsys.evaluation.attribution import FunnelTrace, funnel_metrics
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.lists import list_metrics
from recsys.evaluation.metrics.rows import auc, gauc
from recsys.evaluation.summary import retrieval_metrics

CONFIG = EvaluationConfig(list_k=5, draws=80)
USERS, ITEMS, FETCHED = 120, 200, 30


def world(seed: int = 0) -> FunnelTrace:
    """Two retrievers over noisy tastes, an index that drops some, a filter that drops some, a ranker that is fair."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(USERS, ITEMS))
    truth = Ragged.from_lists([np.argsort(-taste[u])[: rng.integers(0, 6)] for u in range(USERS)]).unique()
    retrieved = {
        name: np.argsort(-(taste + noise * rng.normal(size=taste.shape)), axis=1)[:, :FETCHED]
        for name, noise in (("two_tower", 1.0), ("popular", 4.0))
    }
    index = np.where(rng.random((USERS, FETCHED)) < 0.1, -1, retrieved["two_tower"])
    candidates = np.full((USERS, 2 * FETCHED), -1)
    for user in range(USERS):
        merged = np.unique(np.r_[index[user], retrieved["popular"][user]])
        merged = merged[(merged >= 0) & (rng.random(len(merged)) > 0.1)]
        candidates[user, : len(merged)] = merged
    scored = taste + rng.normal(size=taste.shape)
    scores = np.where(candidates >= 0, np.take_along_axis(scored, np.maximum(candidates, 0), 1), -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    final = np.take_along_axis(candidates, order, 1)[:, :8]
    return FunnelTrace(
        truth=truth,
        retrieved=retrieved,
        ann={"two_tower": index},
        candidates=candidates,
        scores=scores,
        truth_scores=scored[truth.users, truth.items],
        final=final,
        filters=True,
    )


def test_the_parts_add_up_to_the_whole() -> None:
    for seed in range(5):
        for rules in (False, True):
            trace = world(seed)
            if rules:
                trace = replace(trace, final=trace.final[:, ::-1].copy(), rules=True)
            found = funnel_metrics(trace, num_items=ITEMS, config=CONFIG)
            stages = ["retrieval", "ann", "filters", "ranking", *(["rules"] if rules else [])]
            assert [one["stage"] for one in found["stages"]] == stages
            assert sum(one["loss"] for one in found["stages"]) == pytest.approx(1 - found["ndcg@5"], abs=1e-14)
            assert found["gap"] == pytest.approx(1 - found["ndcg@5"], abs=1e-14)
            assert sum(one["share"] for one in found["stages"]) == pytest.approx(1)
            assert not rules or found["stages"][-1]["loss"] > 0.01
            assert found["ndcg@5"] == pytest.approx(list_metrics(trace.final, trace.truth, [5]).means()["ndcg@5"])
            json.dumps(found, allow_nan=False)


def test_stages_by_hand() -> None:
    # user 0 wants 1 and 2: both are retrieved, the index loses 2, 1 is ranked second. User 1 wants 3: never found.
    trace = FunnelTrace(
        truth=Ragged.from_lists([[1, 2], [3]]),
        retrieved={"a": np.array([[1, 2, 4], [5, 6, 7]])},
        ann={"a": np.array([[1, 4, 9], [5, 6, 7]])},
        candidates=np.array([[1, 4, 9], [5, 6, 7]]),
        final=np.array([[4, 1, 9], [5, 6, 7]]),
    )
    found = funnel_metrics(trace, num_items=10, config=EvaluationConfig(list_k=3, draws=0))
    second = 1 / np.log2(3)
    kept_one = 1 / (1 + second)
    assert [one["stage"] for one in found["stages"]] == ["retrieval", "ann", "ranking"]
    np.testing.assert_allclose([one["ceiling"] for one in found["stages"]], [0.5, kept_one / 2, kept_one * second / 2])
    np.testing.assert_allclose([one["recall"] for one in found["stages"]], [0.5, 0.25, 0.25])
    assert found["oracle_ndcg@3"] == pytest.approx(kept_one / 2)
    assert found["retrievers"]["a"] == {"recall": 0.5, "recall_alone": 0.5, "recall_ann": 0.25, "k": 3}
    assert found["verdict"].startswith("Of the 0.807 of NDCG@3 that is missing, 0.500 (62%) is lost in retrieval")


def test_the_headroom_is_what_a_perfect_order_adds_to_the_best_retrievers_own() -> None:
    # user 0 wants 1, user 1 wants 3. "a" has 1 in third and 3 in second place, "b" finds nothing.
    trace = FunnelTrace(
        truth=Ragged.from_lists([[1], [3]]),
        retrieved={"b": np.array([[7], [8]]), "a": np.array([[4, 2, 1], [5, 3, 6]])},
        candidates=np.array([[4, 2, 1, 7], [5, 3, 6, 8]]),
        final=np.array([[1, 4, 2], [5, 3, 6]]),
    )
    found = funnel_metrics(trace, num_items=10, config=EvaluationConfig(list_k=3, draws=0))
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert found["first_stage_ndcg@3"] == pytest.approx((third + second) / 2)
    assert found["headroom_taken"] == pytest.approx((1 - third) / (2 - third - second))
    as_retrieved = funnel_metrics(replace(trace, final=trace.retrieved["a"]), num_items=10, config=CONFIG)
    assert as_retrieved["headroom_taken"] == 0
    assert "headroom_taken" not in funnel_metrics(replace(trace, filters=True), num_items=10)


def test_candidates_that_lack_retrieved_items_need_filters_to_have_lost_them() -> None:
    trace = FunnelTrace(
        truth=Ragged.from_lists([[1, 2]]),
        retrieved={"a": np.array([[1, 2, 4]])},
        candidates=np.array([[1, 4, -1]]),
        final=np.array([[4, 1]]),
    )
    with pytest.raises(DataError, match="lack 1 relevant items that are left after retrieval; pass filters=True"):
        funnel_metrics(trace, num_items=10)
    found = funnel_metrics(replace(trace, filters=True), num_items=10, config=EvaluationConfig(draws=0))
    assert [stage["stage"] for stage in found["stages"]] == ["retrieval", "filters", "ranking"]
    assert found["stages"][1]["loss"] > 0.1


def test_oracles_are_what_perfect_stages_deliver() -> None:
    trace = world(1)
    found = funnel_metrics(trace, num_items=ITEMS, config=CONFIG)
    assert trace.candidates is not None
    assert trace.scores is not None
    relevant = np.array([np.isin(trace.candidates[u], trace.truth[u]) for u in range(USERS)])
    order = np.argsort(~relevant, axis=1, kind="stable")
    perfect = np.take_along_axis(trace.candidates, order, 1)[:, :5]
    assert found["oracle_ndcg@5"] == pytest.approx(list_metrics(perfect, trace.truth, [5]).means()["ndcg@5"])

    widened = np.full((USERS, 5), -1)
    for user in range(USERS):
        score = dict(zip(trace.candidates[user].tolist(), trace.scores[user].tolist(), strict=True))
        part = slice(trace.truth.ptr[user], trace.truth.ptr[user + 1])
        score |= dict(zip(trace.truth.items[part].tolist(), trace.truth_scores[part].tolist(), strict=True))
        score.pop(-1, None)
        best = sorted(score, key=lambda item: -score[item])[:5]
        widened[user, : len(best)] = best
    assert found["oracle_retrieval_ndcg@5"] == pytest.approx(list_metrics(widened, trace.truth, [5]).means()["ndcg@5"])
    assert found["oracle_ndcg@5"] >= found["ndcg@5"]


def test_the_ranker_is_judged_among_its_candidates() -> None:
    trace = world(2)
    found = funnel_metrics(trace, num_items=ITEMS, config=CONFIG)["ranker"]
    assert trace.candidates is not None
    assert trace.scores is not None
    users = np.flatnonzero(trace.truth.lengths)
    labels, scores, owners = [], [], []
    for user in users:
        there = trace.candidates[user] >= 0
        labels += np.isin(trace.candidates[user][there], trace.truth[user]).tolist()
        scores += trace.scores[user][there].tolist()
        owners += [user] * int(there.sum())
    label, score, owner = np.array(labels, float), np.array(scores), np.array(owners)
    assert found["auc"] == pytest.approx(auc(label, score))
    assert found["gauc"] == pytest.approx(gauc(label, score, owner))
    order = np.argsort(-trace.scores, axis=1, kind="stable")
    own = np.take_along_axis(trace.candidates, order, 1)
    inside = Ragged.from_lists([np.intersect1d(trace.truth[u], trace.candidates[u]) for u in range(USERS)])
    assert found["ndcg@5"] == pytest.approx(list_metrics(own, inside, [5]).means()["ndcg@5"])
    assert found["users"] == (inside.lengths > 0).sum() < len(users)
    assert found["candidates"] == len(label)
    assert found["positives"] == label.sum()
    assert found["auc_ci"][0] < found["auc"] < found["auc_ci"][1]


def test_a_bad_filter_and_a_bad_index_get_the_blame() -> None:
    good = world(3)
    honest = FunnelTrace(truth=good.truth, retrieved={"a": _lead(good.truth)}, final=_lead(good.truth)[:, :5])
    assert funnel_metrics(honest, num_items=ITEMS, config=CONFIG)["verdict"].startswith("NDCG@5 is perfect")
    candidates = _lead(good.truth)
    candidates[:, :8] = -1  # the filter takes the best away
    filtered = replace(honest, candidates=candidates, final=candidates[:, 8:13], filters=True)
    assert "is lost in filters" in funnel_metrics(filtered, num_items=ITEMS, config=CONFIG)["verdict"]
    index = replace(honest, ann={"a": candidates}, final=candidates[:, 8:13])
    assert "is lost in ann" in funnel_metrics(index, num_items=ITEMS, config=CONFIG)["verdict"]
    unranked = replace(honest, final=honest.retrieved["a"][:, 10:15])
    assert "is lost in ranking" in funnel_metrics(unranked, num_items=ITEMS, config=CONFIG)["verdict"]


def _lead(truth: Ragged) -> np.ndarray:
    """Lists that begin with the relevant items and go on with others."""
    rows = np.full((len(truth), 40), -1)
    for user in range(len(truth)):
        others = np.setdiff1d(np.arange(ITEMS), truth[user])
        rows[user] = np.r_[truth[user], others][:40]
    return rows


def test_merged_recall_and_what_one_retriever_alone_finds() -> None:
    trace = FunnelTrace(
        truth=Ragged.from_lists([[1, 2, 3, 4]]),
        retrieved={"a": np.array([[1, 2, 9]]), "b": np.array([[2, 3, 8]])},
        final=np.array([[1, 2, 3]]),
    )
    found = funnel_metrics(trace, num_items=10, config=EvaluationConfig(list_k=3, draws=0))["retrievers"]
    assert (found["a"]["recall"], found["a"]["recall_alone"]) == (0.5, 0.25)
    assert (found["b"]["recall"], found["b"]["recall_alone"]) == (0.5, 0.25)
    assert found["merged"]["recall"] == 0.75


def test_no_truth_is_said_and_bad_traces_are_refused() -> None:
    empty = FunnelTrace(truth=Ragged.from_lists([[]]), retrieved={"a": np.array([[1]])}, final=np.array([[1]]))
    assert "nothing can be said" in funnel_metrics(empty, num_items=3)["verdict"]
    with pytest.raises(DataError, match=r"lists 'final' of shape \[2, 1\] for 1 users"):
        FunnelTrace(truth=Ragged.from_lists([[0]]), retrieved={"a": np.array([[1]])}, final=np.array([[1], [2]]))
    with pytest.raises(DataError, match=r"index lists of \['b'\]"):
        FunnelTrace(
            truth=Ragged.from_lists([[0]]),
            retrieved={"a": np.array([[1]])},
            final=np.array([[1]]),
            ann={"b": np.array([[1]])},
        )
    with pytest.raises(DataError, match="without candidates of the same shape"):
        FunnelTrace(
            truth=Ragged.from_lists([[0]]),
            retrieved={"a": np.array([[1]])},
            final=np.array([[1]]),
            scores=np.array([[1.0]]),
        )
    twice = FunnelTrace(truth=Ragged.from_lists([[0, 0]]), retrieved={"a": np.array([[1]])}, final=np.array([[1]]))
    with pytest.raises(DataError, match="names an item twice"):
        funnel_metrics(twice, num_items=3)


def test_the_lists_delivered_are_described_as_any_retrievers_lists_are() -> None:
    trace, rng, num_items = world(), np.random.default_rng(3), ITEMS
    k = trace.final.shape[1]
    described = {
        "popularity": rng.integers(0, 50, num_items),
        "item_vectors": rng.normal(size=(num_items, 4)),
    }
    config = EvaluationConfig(draws=50, ks=(k,), list_k=k)
    funnel = funnel_metrics(trace, num_items=num_items, config=config, **described)
    alike = retrieval_metrics(trace.final, trace.truth, num_items=num_items, config=config, **described)
    for name in ("coverage", "gini", "novelty", "popularity", "diversity"):
        assert funnel[f"{name}@{k}"] == alike[f"{name}@{k}"], name
    rare = described | {"popularity": np.zeros(num_items, dtype=np.int64)}
    assert funnel_metrics(trace, num_items=num_items, config=config, **rare)[f"novelty@{k}"] == pytest.approx(
        np.log2(num_items)
    )
