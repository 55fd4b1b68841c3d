"""The search of a run's blend: its two objectives by hand, who is asked, and that the test part is not."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.artifacts.folder import open_run
from recsys.data.dataset import Dataset
from recsys.data.schema import TaskSpec
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.pipeline.requests import select_requests
from recsys.ranking.blend import BlendConfig, blend
from recsys.ranking.blend_search import FoundBlend, find_blend, search_on_requests, search_on_rows
from recsys.ranking.config import RankingConfig
from recsys.ranking.held import held_out
from recsys.ranking.probabilities import task_probabilities
from recsys.ranking.requests import SELECT, RequestSet
from recsys.ranking.scoring import request_logits, request_ndcg
from recsys.ranking.train import TrainedRanker, train_ranker
from recsys.tests.support.shop import Shop
from recsys.tests.support.taken import taken_at
from recsys.tests.support.tiny import TinyRun
from recsys.training.runtime import Runtime

RUNTIME = Runtime(1)
SEARCH = BlendConfig(search=True, tries=40)
TASKS = (TaskSpec(name="click", weight=3.0), TaskSpec(name="like"), TaskSpec(name="watch", kind="regression"))


@pytest.fixture(scope="module")
def world(tiny_run: TinyRun) -> tuple[Dataset, RequestSet]:
    """The tiny world, and requests from its trained retriever."""
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    return stages.dataset, select_requests(stages.dataset, stages.retriever, stages.config)


def train(dataset: Dataset, asked: RequestSet | None, blend_config: BlendConfig = SEARCH) -> TrainedRanker:
    model = {"kind": "mmoe", "num_experts": 2, "expert_hidden": [8], "input": {"embedding_dim": 4}}
    select = {"requests_per_step": 8, "hidden": [8], "holdout": 0.4}
    config = {"model": model, "batch_size": 512, "select": select, "fit": {"epochs": 1, "metric": ""}}
    return train_ranker(dataset, RankingConfig.model_validate(config), RUNTIME, 0, asked, blend=blend_config)


def relabelled(dataset: Dataset, part: Part) -> Dataset:
    """The labels of a part dealt out anew among its rows."""
    rows = dataset.rows(part).numpy()
    labels = dataset.events.labels.copy()
    labels[rows] = labels[np.random.default_rng(1).permutation(rows)]
    assert not np.array_equal(labels, dataset.events.labels)
    return replace(dataset, events=replace(dataset.events, labels=labels))


def requests(rows: Any, target: Any) -> RequestSet:
    """Requests of which only the rows and the answers are looked at."""
    rows, target = np.asarray(rows), np.asarray(target)
    empty = np.empty((*rows.shape, 0), dtype=np.float32)
    nothing: Any = None
    return RequestSet(
        dataset=nothing,
        moment=int(Part.VALID),
        users=np.arange(len(rows)),
        rows=rows,
        features=empty,
        prior=np.zeros(rows.shape),
        taken=taken_at(target, rows.shape[1]),
        wanted=np.ones(len(rows), dtype=np.int64),
    )


def ndcg_of_one(scores: np.ndarray, target: np.ndarray) -> float:
    """Of requests that ask for one item each."""
    return request_ndcg(scores, taken_at(target, scores.shape[1]), np.ones(len(target), dtype=np.int64))


def test_ndcg_of_requests_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.7], [0.2, 0.2, 0.2], [0.1, 0.3, -np.inf], [0.4, 0.3, 0.2]])
    target = np.array([1, 1, 1, -1])  # third of three; second among equals, as lists keep their order; first; missed
    expected = np.mean([1 / np.log2(4), 1 / np.log2(3), 1.0, 0.0])
    assert ndcg_of_one(scores, target) == pytest.approx(expected)
    long = -np.arange(12.0)[None, :]
    assert ndcg_of_one(long, np.array([9])) == pytest.approx(1 / np.log2(11))
    assert ndcg_of_one(long, np.array([10])) == 0.0


def test_ndcg_of_requests_that_ask_for_several_items() -> None:
    scores = np.array([[0.9, 0.5, 0.7, 0.1]])
    taken = np.array([[False, True, True, False]])
    gains = 1 / np.log2([3, 4])  # second and third of the order
    assert request_ndcg(scores, taken, np.array([2])) == pytest.approx(gains.sum() / (1 + 1 / np.log2(3)))
    ideal = (1 / np.log2([2, 3, 4])).sum()  # a third item was no candidate
    assert request_ndcg(scores, taken, np.array([3])) == pytest.approx(gains.sum() / ideal)


def test_among_requests_the_search_finds_who_knows_and_forgets_the_pads() -> None:
    rng = np.random.default_rng(0)
    rows, target = rng.integers(0, 50, (80, 20)), rng.integers(0, 15, 80)
    rows[:, 15:] = -1
    like = rng.uniform(0.1, 0.5, rows.shape)
    like[np.arange(80), target] += 0.3
    like[:, 15:] = 1.0  # pads must not stand in the list
    given = {"click": rng.uniform(0.1, 0.9, rows.shape), "like": like, SELECT: rng.dirichlet(np.ones(20), 80)}
    found = search_on_requests(given, requests(rows, target), SEARCH, seed=3)
    assert found.weights["like"] > 0.5
    assert found.value > found.default_value + 0.1
    assert found.default == {SELECT: 1.0}
    assert found.cases == 80
    present = np.where(rows >= 0, blend(given, BlendConfig(weights=dict(found.weights))), -np.inf)
    assert found.value == pytest.approx(ndcg_of_one(present, target))
    assert found == search_on_requests(given, requests(rows, target), SEARCH, seed=3)
    assert FoundBlend(**found.to_json()) == found


def test_on_rows_it_is_the_mean_auc_of_the_tasks_by_their_weights() -> None:
    rng = np.random.default_rng(0)
    score = {name: rng.uniform(0.1, 0.9, 300) for name in ("click", "like", "watch")}
    labels = np.stack([rng.random(300) < score["click"], rng.random(300) < score["like"], rng.random(300)], axis=1)
    mask = np.ones((300, 3), dtype=bool)
    mask[:150, 1] = False
    found = search_on_rows(score, TASKS, labels.astype(float), mask, SEARCH, seed=0)
    assert found is not None
    mixed = blend(score, BlendConfig(weights=dict(found.weights)))

    def pairs(known: Any, scores: Any) -> float:
        wins = scores[known][:, None] - scores[~known][None, :]
        return float(((wins > 0) + 0.5 * (wins == 0)).mean())

    by_hand = (3 * pairs(labels[:, 0] > 0, mixed) + pairs(labels[150:, 1] > 0, mixed[150:])) / 4
    assert found.value == pytest.approx(by_hand)
    assert found.weights["click"] > found.weights["watch"]
    assert found.default == {"click": 1.0, "like": 1.0, "watch": 1.0}
    none = search_on_rows(score, TASKS, np.ones((300, 3)), mask, SEARCH, seed=0)
    assert none is None


def test_a_training_searches_on_requests_of_users_who_trained_nothing(world: tuple[Dataset, RequestSet]) -> None:
    dataset, asked = world
    trained = train(dataset, asked)
    found = trained.blend
    assert found is not None
    held = asked.take(np.flatnonzero(held_out(dataset.num_users, 0.4, 0)[asked.users]))
    assert (found.objective, found.cases) == ("ndcg@10 of held-out requests", len(held))
    assert set(found.weights) == {"click", "conversion", SELECT}
    given = task_probabilities(request_logits(trained.model, held), dataset.config.tasks, trained.calibrators)
    scores = blend(given, BlendConfig(weights=dict(found.weights)))
    assert found.value == pytest.approx(
        request_ndcg(np.where(held.rows >= 0, scores, -np.inf), held.taken, held.wanted)
    )
    assert found.value >= found.default_value


def test_test_labels_change_nothing_among_requests(world: tuple[Dataset, RequestSet]) -> None:
    dataset, asked = world
    before = train(dataset, asked).blend
    other = relabelled(dataset, Part.TEST)
    assert before is not None
    assert train(other, replace(asked, dataset=other)).blend == before


def test_test_labels_change_nothing_on_rows(shop: Shop) -> None:
    dataset = shop.dataset()
    before = train(dataset, None).blend
    assert before is not None
    assert before.objective == "weighted mean AUC of the tasks"
    assert before.cases == len(dataset.rows(Part.VALID))
    assert train(relabelled(dataset, Part.TEST), None).blend == before
    assert train(relabelled(dataset, Part.VALID), None).blend != before  # the search does read what it may


def test_given_weights_win(world: tuple[Dataset, RequestSet], caplog: pytest.LogCaptureFixture) -> None:
    dataset, asked = world
    nothing: Any = None  # no model is asked for anything

    def found(config: BlendConfig) -> FoundBlend | None:
        return find_blend(config, nothing, nothing, {}, dataset, asked, dataset.rows(Part.VALID), 0)

    with caplog.at_level(logging.WARNING):
        for given in (BlendConfig(search=True, weights={"click": 1.0}), BlendConfig(search=True, kind="task")):
            assert found(given) is None
    assert sum("blend.search has no effect" in record.getMessage() for record in caplog.records) == 2
    assert found(BlendConfig()) is None
