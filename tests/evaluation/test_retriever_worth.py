"""What each retriever contributes, against plain loops over users and items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.base.ragged import Ragged
from recsys.evaluation.attribution import FunnelTrace, funnel_metrics
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.retriever_worth import source_metrics
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap
from recsys.tests.support.nonempty import nonempty

USERS, ITEMS, C, K = 60, 50, 12, 4
NAMES = ("towers", "neighbours", "popular")


def world(seed: int = 0) -> FunnelTrace:
    """Three retrievers whose lists are merged in turns and cut; one is popularity, another is sometimes mute."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(USERS, ITEMS))
    truth = Ragged.from_lists([np.argsort(-taste[u])[: rng.integers(0, 5)] for u in range(USERS)]).unique()
    lists = {
        name: np.argsort(-(taste + noise * rng.normal(size=taste.shape)), axis=1)[:, :8]
        for name, noise in zip(NAMES, (1.0, 1.5, 0.0), strict=True)
    }
    lists["popular"] = np.tile(np.arange(8), (USERS, 1))
    lists["neighbours"][::7] = -1

    def merged(names: tuple[str, ...]) -> np.ndarray:
        rows = np.full((USERS, C), -1)
        for user in range(USERS):
            turns = [int(lists[name][user, place]) for place in range(8) for name in names]
            chosen = [item for item in dict.fromkeys(turns) if item >= 0][:C]
            rows[user, : len(chosen)] = chosen
        return rows

    rows = merged(NAMES)
    proposed = np.stack([[np.isin(r, own[own >= 0]) for r, own in zip(rows, lists[n], strict=True)] for n in NAMES], 2)
    scores = np.where(rows >= 0, np.take_along_axis(taste + rng.normal(size=taste.shape), np.maximum(rows, 0), 1), -9.0)
    final = np.take_along_axis(rows, np.argsort(-scores, axis=1), 1)[:, : K + 2]
    return FunnelTrace(
        truth=truth,
        retrieved=lists,
        final=final,
        candidates=rows,
        scores=scores,
        merged=rows,
        proposed=proposed & (rows >= 0)[:, :, None],
        without={name: merged(tuple(other for other in NAMES if other != name)) for name in NAMES},
    )


def measured(trace: FunnelTrace, draws: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = funnel_metrics(trace, num_items=ITEMS, config=EvaluationConfig(list_k=K, draws=draws))
    return found


def by_hand(trace: FunnelTrace) -> dict[str, dict[str, Any]]:
    assert trace.candidates is not None
    out = {}
    users = [user for user in range(USERS) if len(trace.truth[user])]
    who = {
        (user, int(item)): [name for name in NAMES if item in trace.retrieved[name][user]]
        for user in users
        for item in trace.candidates[user]
        if item >= 0
    }
    shown = [(user, int(item)) for user in users for item in trace.final[user, :K] if item >= 0]
    hits = [(user, item) for user, item in shown if item in trace.truth[user]]

    def recall(rows: np.ndarray) -> float:
        return float(np.mean([np.isin(trace.truth[user], rows[user]).mean() for user in users]))

    for name in NAMES:
        lost = [np.mean([who.get((user, int(item))) == [name] for item in trace.truth[user]]) for user in users]
        out[name] = {
            "share_of_candidates": np.mean([name in named for named in who.values()]),
            "share_of_candidates_alone": np.mean([named == [name] for named in who.values()]),
            "credit_of_candidates": np.mean([(name in named) / len(named) for named in who.values()]),
            f"credit_of_list@{K}": np.mean([(name in who[pair]) / len(who[pair]) for pair in shown]),
            f"share_of_hits@{K}": np.mean([name in who[pair] for pair in hits]),
            f"share_of_hits_alone@{K}": np.mean([who[pair] == [name] for pair in hits]),
            f"credit_of_hits@{K}": np.mean([(name in who[pair]) / len(who[pair]) for pair in hits]),
            "recall": recall(trace.retrieved[name]),
            "recall_lost": float(np.mean(lost)),
            "recall_gain": recall(trace.candidates) - recall(trace.without[name]),
        }
    return out


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_that_of_the_plain_loops(seed: int) -> None:
    trace = world(seed)
    found, expected = measured(trace)["sources"], by_hand(trace)
    assert list(found) == list(NAMES)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], abs=1e-12)
    for credit in ("credit_of_candidates", f"credit_of_list@{K}", f"credit_of_hits@{K}"):
        assert sum(one[credit] for one in found.values()) == pytest.approx(1.0)
    assert sum(one[f"share_of_hits_alone@{K}"] for one in found.values()) < 1.0
    assert all(one[f"share_of_hits_alone@{K}"] <= one[f"share_of_hits@{K}"] for one in found.values())


def test_every_number_has_an_interval_that_holds_it() -> None:
    for one in nonempty(measured(world(), draws=200)["sources"].values()):
        names = [name for name in one if not name.endswith("_ci")]
        assert len(names) == 10
        for name in names:
            low, high = one[f"{name}_ci"]
            assert low <= one[name] <= high


def test_without_a_hit_there_is_nothing_to_share() -> None:
    trace = world()
    nothing = FunnelTrace(
        truth=Ragged.from_lists([[ITEMS + 5]] * USERS),
        retrieved=trace.retrieved,
        final=trace.final,
        candidates=trace.candidates,
        proposed=trace.proposed,
    )
    found = measured(nothing)["sources"]["towers"]
    assert found[f"credit_of_hits@{K}"] is None
    assert found["share_of_candidates"] > 0
    assert "recall_gain" not in found


def test_what_merging_crowds_out_is_a_loss_of_merging() -> None:
    found = measured(world())
    stages = {one["stage"]: one for one in found["stages"]}
    assert list(stages) == ["retrieval", "merge", "ranking"]
    assert stages["merge"]["loss"] > 0.01
    assert stages["merge"]["recall"] < 0.9 * stages["retrieval"]["recall"]
    assert sum(one["loss"] for one in stages.values()) == pytest.approx(found["gap"])


def test_proposers_of_another_shape_are_refused() -> None:
    trace = world()
    assert trace.proposed is not None
    with pytest.raises(DataError, match=r"proposers of shape \[60, 12, 2\]; pass \[U, C, S\]"):
        FunnelTrace(
            truth=trace.truth,
            retrieved=trace.retrieved,
            final=trace.final,
            candidates=trace.candidates,
            proposed=trace.proposed[:, :, :2],
        )
    with pytest.raises(DataError, match="lists 'all but towers' of shape"):
        FunnelTrace(
            truth=trace.truth, retrieved=trace.retrieved, final=trace.final, without={"towers": trace.final[:3]}
        )


def test_empty_places_of_short_lists_count_for_nobody() -> None:
    """One user with two candidates of six places: pads are neither shared nor credited."""
    candidates = np.array([[3, 5, -1, -1, -1, -1]])
    proposed = np.zeros((1, 6, 2), dtype=bool)
    proposed[0, 0] = True, True
    proposed[0, 1] = True, False
    found = source_metrics(
        Ragged.from_lists([[3]]),
        ["a", "b"],
        candidates,
        proposed,
        np.array([[5, 3, -1]]),
        {"a": np.array([[3, 5]]), "b": np.array([[3, -1]])},
        {},
        np.array([0]),
        UserBootstrap(1, draws=0),
    )
    assert (found["a"]["credit_of_candidates"], found["b"]["credit_of_candidates"]) == (0.75, 0.25)
    assert (found["a"]["share_of_candidates"], found["b"]["share_of_candidates"]) == (1.0, 0.5)
    assert (found["a"]["share_of_candidates_alone"], found["b"]["share_of_candidates_alone"]) == (0.5, 0.0)
    assert (found["a"]["credit_of_list@3"], found["b"]["credit_of_list@3"]) == (0.75, 0.25)
    assert (found["a"]["credit_of_hits@3"], found["b"]["credit_of_hits@3"]) == (0.5, 0.5)
    assert (found["a"]["recall"], found["b"]["recall"]) == (1.0, 1.0)
