"""The first stage as a whole: lists equal brute force, nothing seen, opinions and priors as they are described."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recsys.data.dataset import NOW
from recsys.data.split import Part
from recsys.errors import ConfigError
from recsys.evaluation.ragged import Ragged
from recsys.nn.sequence import SequenceConfig
from recsys.retrieval.baseline_core import Baseline
from recsys.retrieval.baselines import build_baseline
from recsys.retrieval.index_bitmap import Bitmap
from recsys.retrieval.index_tuning import build_index
from recsys.retrieval.retriever import TOWER, Retriever, merge
from recsys.retrieval.train import build_two_tower, item_vectors
from recsys.retrieval.two_tower import TwoTowerConfig
from recsys.retrieval.windows import TowerData

USERS = np.arange(24)
BASELINES = ("popularity", "item_knn", "ease")


@pytest.fixture(scope="module")
def parts(shop: Any) -> tuple[Any, TowerData, dict[str, Baseline]]:
    dataset = shop.dataset("time")
    data = TowerData.of(dataset, TwoTowerConfig(dim=8, history=SequenceConfig(encoder="mean")), "click")
    history = data.history
    owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    known = history.parts < Part.VALID
    fitted = {
        name: build_baseline(name).fit(
            owner[known], history.items[known], np.zeros(known.sum()), history.num_users, data.num_items
        )
        for name in BASELINES
    }
    return dataset, data, fitted


def retriever(parts: tuple[Any, TowerData, dict[str, Baseline]], **options: Any) -> Retriever:
    _, data, fitted = parts
    similarity = options.pop("similarity", "dot")
    config = TwoTowerConfig(dim=8, history=SequenceConfig(encoder="mean"), similarity=similarity, init_std=0.5)
    model = build_two_tower(data, config, seed=1)
    return Retriever(model, data, fitted, **options)


def by_hand(found: Retriever, moment: int, k: int) -> list[list[int]]:
    """The tower's best unseen items of every user, one at a time."""
    lists = []
    for user in USERS:
        scores = found.queries(np.array([user]), moment)[0] @ found.item_vectors.T
        end = found.data.ends(moment)[user]
        seen = set(found.data.history.items[found.data.history.ptr[user] : end].tolist())
        best = [int(i) for i in np.argsort(-scores, kind="stable") if int(i) not in seen]
        lists.append(best[:k])
    return lists


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("moment", [Part.VALID, Part.TEST, NOW])
def test_the_towers_list_is_the_brute_force_top_k_of_what_is_unseen(parts: Any, similarity: str, moment: int) -> None:
    found = retriever(parts, similarity=similarity)
    lists = found.candidates(USERS, moment, 6)
    for row, wanted in zip(lists.rows, by_hand(found, moment, 6), strict=True):
        assert row[row >= 0].tolist() == wanted


def test_an_index_answers_like_the_exact_product(parts: Any) -> None:
    exact = retriever(parts)
    index, _ = build_index(exact.item_vectors, exact.queries(USERS, NOW), "Flat", 0.98, k=10, check_queries=20, seed=0)
    indexed = retriever(parts, index=index)
    one, other = exact.candidates(USERS, NOW, 7), indexed.candidates(USERS, NOW, 7)
    assert np.array_equal(one.rows, other.rows)
    assert np.allclose(one.features, other.features, atol=1e-5)


def test_the_scale_of_training_changes_no_order(parts: Any) -> None:
    found = retriever(parts, similarity="cosine")
    before = found.candidates(USERS, NOW, 10)
    assert found.model.log_scale is not None
    with torch.no_grad():
        found.model.log_scale.fill_(-1.5)
    after = found.candidates(USERS, NOW, 10)
    assert np.array_equal(after.rows, before.rows)
    assert np.allclose(after.features, before.features, atol=1e-4)
    assert not np.allclose(after.prior, before.prior, atol=1e-2)


def test_a_short_catalogue_pads_the_list_and_pads_say_nothing(parts: Any) -> None:
    found = retriever(parts, scorers=("ease",))
    lists = found.candidates(USERS, NOW, 20)
    present = lists.rows >= 0
    assert present.any(1).all()
    assert not present.all()
    assert (lists.prior[~present] == -np.inf).all()
    assert (lists.features[..., :-1][~present] == 0).all()
    assert not lists.proposed[~present].any()
    assert np.isfinite(lists.features).all()


def test_allowed_items_and_other_exclusions_are_obeyed(parts: Any) -> None:
    found = retriever(parts)
    allowed = np.array([2, 5, 7, 11])
    bitmap = Bitmap.from_rows(allowed, found.data.num_items)
    lists = found.candidates(USERS, NOW, 10, bitmap)
    assert set(lists.rows[lists.rows >= 0].tolist()) <= set(allowed.tolist())
    out = Ragged.from_lists([[0, 1, 2]] * len(USERS))
    lists = found.candidates(USERS, NOW, 20, excluded=out)
    assert {0, 1, 2}.isdisjoint(lists.rows[lists.rows >= 0].tolist())
    assert (lists.rows >= 0).sum(1).tolist() == [17] * len(USERS)  # instead of the history, not beside it


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_proposes_its_own_best(parts: Any, name: str) -> None:
    found = retriever(parts, proposers=(name,))
    histories = found.histories(USERS, Part.TEST)
    lists = found.candidates(USERS, Part.TEST, 5)
    for user in USERS:
        seen = set(histories.items[histories.ptr[user] : histories.ptr[user + 1]].tolist())
        scores = found.companions[name].score(histories.block(int(user), int(user) + 1))[0]
        row = lists.rows[user]
        chosen = row[row >= 0]
        assert seen.isdisjoint(chosen.tolist())
        rest = [i for i in range(found.data.num_items) if i not in seen and i not in chosen]
        assert scores[chosen].min() >= scores[rest].max() - 1e-6
        assert (np.diff(scores[chosen]) <= 1e-6).all()


def test_opinions_are_standardised_scores_and_log_ranks(parts: Any) -> None:
    found = retriever(parts, proposers=(TOWER, "popularity"), scorers=("ease", "item_knn"))
    lists = found.candidates(USERS, Part.TEST, 8)
    assert lists.features.shape == (24, 8, len(found.feature_names))
    assert found.feature_names[:2] == ("two_tower.score", "two_tower.log_rank")
    assert found.feature_names[-1] == "log_history"
    histories = found.histories(USERS, Part.TEST)
    for user in USERS:
        own = lists.rows[user] >= 0
        rows = lists.rows[user][own]
        tower = found.queries(np.array([user]), Part.TEST)[0] @ found.item_vectors[rows].T
        ease = found.companions["ease"].score(histories.block(int(user), int(user) + 1))[0][rows]
        for scores, place in ((tower, 0), (ease, 2)):
            centred = (scores - scores.mean()) / max(scores.std(), 1e-6)
            assert np.allclose(lists.features[user, own, place], centred, atol=1e-3)
            if len(np.unique(scores)) == len(scores):
                rank = np.argsort(np.argsort(-scores))
                assert np.allclose(lists.features[user, own, place + 1], np.log1p(rank), atol=1e-5)
        length = histories.ptr[user + 1] - histories.ptr[user]
        assert np.allclose(lists.features[user, :, -1], np.log1p(length))


def test_the_prior_is_the_towers_log_probability_among_the_candidates(parts: Any) -> None:
    found = retriever(parts, similarity="cosine")
    lists = found.candidates(USERS, Part.TEST, 8)
    assert np.exp(lists.prior.astype(np.float64)).sum(1) == pytest.approx(1.0, abs=1e-5)
    queries = found.queries(USERS, Part.TEST)
    for user in USERS:
        rows = lists.rows[user][lists.rows[user] >= 0]
        assert isinstance(found.model.scale, torch.Tensor)
        scores = found.model.scale.item() * (queries[user] @ found.item_vectors[rows].T)
        wanted = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        assert np.allclose(lists.prior[user][: len(rows)], wanted, atol=1e-4)


def test_lists_are_merged_by_reciprocal_rank(parts: Any) -> None:
    lists = [np.array([[3, 1, 2, -1], [5, -1, -1, -1]]), np.array([[1, 4, -1, -1], [6, 5, -1, -1]])]

    def fused(request: int) -> list[int]:
        gain: dict[int, float] = {}
        for found in lists:
            for place, item in enumerate(found[request].tolist()):
                if item >= 0:
                    gain[item] = gain.get(item, 0) + 1 / (61 + place)
        return sorted(gain, key=lambda item: (-gain[item], item))

    rows = merge(lists, 4, 10)
    for request in (0, 1):
        wanted = fused(request)[:4]
        assert rows[request].tolist() == wanted + [-1] * (4 - len(wanted))
    assert merge(lists, 2, 10).tolist() == [row[:2] for row in rows.tolist()]


def test_every_candidate_says_who_proposed_it(parts: Any) -> None:
    found = retriever(parts, proposers=(TOWER, "popularity"))
    lists = found.candidates(USERS, NOW, 6)
    histories, queries = found.histories(USERS, NOW), found.queries(USERS, NOW)
    own = [found.propose(name, queries, histories, 6) for name in found.proposers]
    for user in USERS:
        for place, item in enumerate(lists.rows[user]):
            if item >= 0:
                assert lists.proposed[user, place].tolist() == [item in rows[user] for rows in own]
                assert lists.proposed[user, place].any()


def test_one_request_gets_the_answer_it_gets_among_others(parts: Any) -> None:
    found = retriever(parts, proposers=(TOWER, "ease"), scorers=("item_knn",))
    together = found.candidates(USERS, NOW, 6)
    for user in (0, 3, 17):
        alone = found.candidates(np.array([user]), NOW, 6)
        assert np.array_equal(alone.rows[0], together.rows[user])
        assert np.allclose(alone.features[0], together.features[user], atol=1e-4)


@pytest.mark.parametrize("role", ["proposers", "scorers"])
def test_a_retriever_that_was_not_fitted_is_named(parts: Any, role: str) -> None:
    with pytest.raises(
        ConfigError, match='no retriever is called "als"; there are: two_tower, popularity, item_knn, ease'
    ):
        retriever(parts, **{role: ("als",)})


def test_the_vectors_kept_are_those_of_the_model(parts: Any) -> None:
    found = retriever(parts)
    fresh: NDArray[np.float32] = item_vectors(found.model, found.data)
    assert np.array_equal(found.item_vectors, fresh)
