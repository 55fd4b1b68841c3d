"""The first stage as a whole: lists equal brute force, nothing seen, opinions and priors as they are described."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.base.arrays import F32
from recsys.base.errors import ConfigError
from recsys.base.ragged import Ragged
from recsys.data.dataset import NOW
from recsys.data.split import Part
from recsys.retrieval.baselines import build_baseline
from recsys.retrieval.baselines.base import Baseline
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.tuning import build_index
from recsys.retrieval.merge import merge
from recsys.retrieval.retriever import TOWER, Retriever
from recsys.retrieval.towers.train import build_two_tower, item_vectors
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

USERS = np.arange(24)
BASELINES = ("popularity", "item_knn", "ease")


@pytest.fixture(scope="module")
def parts(shop: Shop) -> tuple[Any, TowerData, dict[str, Baseline]]:
    dataset = shop.dataset("time")
    data = TowerData.of(dataset, TwoTowerConfig(dim=8, history=TowerHistory(encoder="mean")), "click")
    history = data.history
    owner = np.repeat(np.arange(history.num_users), np.diff(history.ptr))
    known = history.parts < Part.VALID
    wanted = {name: build_baseline(name) for name in BASELINES}
    wanted["taciturn"] = build_baseline("item_knn", neighbours=2, last=1)  # knows two items, of whom it knows any
    fitted = {
        name: baseline.fit(owner[known], history.items[known], np.zeros(known.sum()), history.num_users, data.num_items)
        for name, baseline in wanted.items()
    }
    return dataset, data, fitted


def retriever(parts: tuple[Any, TowerData, dict[str, Baseline]], **options: Any) -> Retriever:
    _, data, fitted = parts
    similarity = options.pop("similarity", "dot")
    config = TwoTowerConfig(dim=8, history=TowerHistory(encoder="mean"), similarity=similarity, init_std=0.5)
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


def test_requests_of_now_are_later_than_all_data(parts: Any) -> None:
    found = retriever(parts)
    asked = {moment: found.histories(USERS, moment).asked_at for moment in (Part.TEST, NOW)}
    assert np.isinf(asked[NOW]).all()
    assert np.isfinite(asked[Part.TEST]).any()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("moment", [Part.VALID, Part.TEST, NOW])
def test_the_towers_list_is_the_brute_force_top_k_of_what_is_unseen(parts: Any, similarity: str, moment: int) -> None:
    found = retriever(parts, similarity=similarity)
    lists = found.candidates(USERS, moment, 6)
    for row, wanted in nonempty(zip(lists.rows, by_hand(found, moment, 6), strict=True)):
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
    assert np.allclose(after.features[..., 1:], before.features[..., 1:], atol=1e-4)
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
    for user in nonempty(USERS):
        seen = set(histories.events[user].tolist())
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
    assert found.feature_names[:3] == ("two_tower.score", "two_tower.standardised", "two_tower.log_rank")
    assert found.feature_names[-1] == "log_history"
    histories = found.histories(USERS, Part.TEST)
    for user in USERS:
        own = lists.rows[user] >= 0
        rows = lists.rows[user][own]
        tower = found.queries(np.array([user]), Part.TEST)[0] @ found.item_vectors[rows].T
        ease = found.companions["ease"].score(histories.block(int(user), int(user) + 1))[0][rows]
        assert np.allclose(lists.features[user, own, 0], lists.prior[user, own])
        assert np.allclose(lists.features[user, own, 3], ease, atol=1e-5)
        for scores, place in ((tower, 1), (ease, 4)):
            centred = (scores - scores.mean()) / max(scores.std(), 1e-6)
            assert np.allclose(lists.features[user, own, place], centred, atol=1e-3)
            if len(np.unique(scores)) == len(scores):
                rank = np.argsort(np.argsort(-scores))
                assert np.allclose(lists.features[user, own, place + 1], np.log1p(rank), atol=1e-5)
        length = len(histories.events[user])
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


def test_every_candidate_says_who_proposed_it_and_where(parts: Any) -> None:
    found = retriever(parts, proposers=(TOWER, "popularity"))
    lists = found.candidates(USERS, NOW, 6)
    histories, queries = found.histories(USERS, NOW), found.queries(USERS, NOW)
    own = [found.propose(name, queries, histories, 6) for name in found.proposers]
    for user in nonempty(USERS):
        for place, item in nonempty(enumerate(lists.rows[user])):
            if item >= 0:
                places = [rows[user].tolist().index(item) + 1 if item in rows[user] else 0 for rows in own]
                assert lists.ranks[user, place].tolist() == places
                assert lists.proposed[user, place].any()


@pytest.mark.parametrize("quotas", [None, {"two_tower": 2, "item_knn": 3, "popularity": 1}])
def test_lists_are_merged_as_configured(parts: Any, quotas: dict[str, int] | None) -> None:
    found = retriever(parts, proposers=(TOWER, "item_knn", "popularity"), quotas=quotas)
    lists = found.candidates(USERS, Part.TEST, 6)
    histories, queries = found.histories(USERS, Part.TEST), found.queries(USERS, Part.TEST)
    own = [found.propose(name, queries, histories, 6) for name in found.proposers]
    wanted = merge(own, 6, found.data.num_items, None if quotas is None else list(quotas.values()))
    assert np.array_equal(lists.rows, wanted.rows)
    assert np.array_equal(lists.ranks, wanted.ranks)


def test_a_companion_names_nothing_it_knows_nothing_of(parts: Any) -> None:
    found = retriever(parts)
    histories, queries = found.histories(USERS, Part.TEST), found.queries(USERS, Part.TEST)
    popularity = found.data.popularity(Part.VALID).numpy()
    silent = 0
    for name in (*BASELINES, "taciturn"):
        scores = found.companions[name].score(histories)
        known = found.propose(name, queries, histories, 20)
        whole = found.propose(name, queries, histories, 20, complete=True)
        for user in USERS:
            seen = set(histories.events[user].tolist())
            named = known[user][known[user] >= 0]
            assert set(named.tolist()) == {i for i in range(20) if scores[user, i] != 0 and i not in seen}
            assert whole[user][: len(named)].tolist() == named.tolist()
            rest = whole[user][len(named) :]
            others = set(range(20)) - seen - set(named.tolist())
            assert rest[rest >= 0].tolist() == sorted(others, key=lambda item: (-popularity[item], item))
            silent += len(others)
    assert silent > 100


@pytest.mark.parametrize("first", ["taciturn", "popularity", TOWER])
@pytest.mark.parametrize("quotas", [None, 3])
def test_no_request_gets_fewer_than_there_are(parts: Any, first: str, quotas: int | None) -> None:
    """Even where one retriever knows two items, alone or among others, and much of the catalogue was seen."""
    proposers = (first, "item_knn") if first == TOWER else (first,)
    own = None if quotas is None else dict.fromkeys(proposers, quotas)
    found = retriever(parts, proposers=proposers, quotas=own)
    for moment in (Part.VALID, Part.TEST, NOW):
        histories = found.histories(USERS, moment)
        for k in (3, 9, 20):
            lists = found.candidates(USERS, moment, k)
            for user in USERS:
                seen = set(histories.events[user].tolist())
                row = lists.rows[user][lists.rows[user] >= 0].tolist()
                assert len(row) == len(set(row)) == min(k, 20 - len(seen))
                assert seen.isdisjoint(row)
                assert lists.proposed[user, : len(row)].any(1).all()
    if first == "taciturn":
        answers = found.proposals(USERS, NOW, 9)
        assert (answers.lists["taciturn"] >= 0).sum() < (found.merged(answers).rows >= 0).sum()


def test_what_is_described_beside_the_served_list_changes_nothing_in_it(parts: Any) -> None:
    found = retriever(parts, scorers=("ease", "item_knn"))
    answers = found.proposals(USERS, Part.TEST, 5)
    served = found.merged(answers)
    alone = found.describe(served.rows, answers.queries, answers.histories, served.ranks)
    others = np.stack([np.setdiff1d(np.arange(20), row)[:4] for row in served.rows])
    longer = np.concatenate([served.rows, others], axis=1)
    nobody = np.zeros((*longer.shape, 1), dtype=np.int32)
    both = found.describe(longer, answers.queries, answers.histories, nobody, 5)
    assert np.array_equal(both.features[:, :5], alone.features)
    assert np.array_equal(both.prior[:, :5], alone.prior)
    for column in range(4):  # nor does one beside it change another
        one = found.describe(longer[:, [*range(5), 5 + column]], answers.queries, answers.histories, nobody[:, :6], 5)
        assert np.allclose(one.features[:, 5], both.features[:, 5 + column], atol=1e-6)
        assert np.allclose(one.prior[:, 5], both.prior[:, 5 + column], atol=1e-6)
    scores = [answers.queries[user] @ found.item_vectors[longer[user]].T for user in USERS]
    for user, own in enumerate(scores):
        if (served.rows[user] < 0).any():
            continue
        expected = own[5:] - np.log(np.exp(own[:5].astype(np.float64)).sum())
        assert np.allclose(both.prior[user, 5:], expected, atol=1e-4)
        better = (own[:5, None] >= own[None, 5:]).sum(0)
        assert np.allclose(both.features[user, 5:, 2], np.log1p(better), atol=1e-6)


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
        ConfigError, match='no retriever is called "als"; there are: two_tower, popularity, item_knn, ease, taciturn'
    ):
        retriever(parts, **{role: ("als",)})


def test_the_vectors_kept_are_those_of_the_model(parts: Any) -> None:
    found = retriever(parts)
    fresh: F32 = item_vectors(found.model, found.data)
    assert np.array_equal(found.item_vectors, fresh)
