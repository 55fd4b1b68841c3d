"""Popularity in the towers' scores: moved by tau log p, chosen by validation, for one tower as for several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.funnel.folder import load_run, load_weights, save_tensors
from recsys.retrieval.towers.adjustment import (
    GRID,
    WEIGHTS,
    Adjustment,
    _surely_best,
    adjust,
    check_adjustment,
    chosen_adjustment,
    log_popularity,
)
from recsys.retrieval.towers.ensemble import as_one
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, item_vectors, query_vectors, requests
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.tiny import TINY, TinyRun

CONFIG = RetrievalConfig.model_validate({"logit_adjustment": "auto", "tower": {"dim": 8}})


@pytest.fixture(scope="module")
def data(tiny_run: TinyRun) -> TowerData:
    return TowerData.of(load_run(open_run(tiny_run.folder)).dataset, CONFIG.tower, "")


def scores(model: TwoTower, data: TowerData) -> np.ndarray:
    users, _, _ = requests(data, Part.VALID)
    model.eval()
    return query_vectors(model, data, users, data.ends(Part.VALID)[users]) @ item_vectors(model, data).T


@pytest.mark.parametrize("members", [1, 2])
def test_every_score_moves_by_tau_log_p(data: TowerData, members: int) -> None:
    model = as_one([build_two_tower(data, CONFIG.tower, seed) for seed in range(members)])
    before = scores(model, data)
    adjust(model, data, Adjustment(0.75))
    rows = data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)]
    expected = 0.75 * log_popularity(data)[rows].numpy()
    np.testing.assert_allclose(scores(model, data) - before, np.broadcast_to(expected, before.shape), atol=1e-4)


@pytest.mark.parametrize("members", [1, 2])
def test_only_who_has_no_history_is_answered_by_weighed_biases(data: TowerData, members: int) -> None:
    model = as_one([build_two_tower(data, CONFIG.tower, seed) for seed in range(members)]).eval()
    adjust(model, data, Adjustment(0.75))
    users = np.arange(len(data.history.ptr) - 1)
    first, last = data.history.ptr[:-1], data.ends(Part.VALID)
    known = last > first
    assert known.any()

    def answers(ends: np.ndarray) -> np.ndarray:
        return query_vectors(model, data, users, ends) @ item_vectors(model, data).T

    before = answers(first), answers(last)
    adjust(model, data, Adjustment(0.0, 3.0))
    np.testing.assert_array_equal(answers(last)[known], before[1][known])
    rows = data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)]
    more = 2 * 0.75 * log_popularity(data)[rows].numpy()  # the biases weighed once and weigh three times now
    np.testing.assert_allclose(answers(first) - before[0], np.broadcast_to(more, before[0].shape), atol=1e-3)


@pytest.mark.parametrize("members", [1, 2])
def test_likeness_is_of_all_members_and_of_no_bias(data: TowerData, members: int) -> None:
    model = as_one([build_two_tower(data, CONFIG.tower, seed) for seed in range(members)]).eval()
    plain = model.without_bias(item_vectors(model, data))
    assert plain.shape[1] == members * CONFIG.tower.dim
    adjust(model, data, Adjustment(5.0, 3.0))
    np.testing.assert_array_equal(model.without_bias(item_vectors(model, data)), plain)


def test_few_users_decide_nothing(data: TowerData, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user has no spread, so that any gain would be sure."""
    users, seen, truth = requests(data, Part.VALID)
    begin, ends = data.history.ptr[users], data.ends(Part.VALID)
    one = ends.copy()
    one[users[0]] = begin[0]
    monkeypatch.setattr(TowerData, "ends", lambda self, moment: one)
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.requests", lambda *_: (users, seen, truth))
    assert chosen_adjustment(build_two_tower(data, CONFIG.tower, 1), data, CONFIG).empty_weight == 1.0
    assert _surely_best([np.array([0.1 * weight]) for weight in WEIGHTS]) == 0


def test_of_what_is_surely_better_the_best_is_taken() -> None:
    """A larger mean within chance does not stand in the way of a gain that is sure."""
    none = np.zeros(100)
    sure, chance = np.full(100, 0.01) + 0.01 * np.tile([1, -1], 50), np.full(100, 0.02) + 0.5 * np.tile([1, -1], 50)
    assert _surely_best([none, sure, chance]) == 1
    assert _surely_best([none, sure, 2 * sure]) == 2
    assert _surely_best([none, -sure, chance]) == 0


def test_users_without_a_history_choose_their_weight_and_no_others(
    data: TowerData, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = build_two_tower(data, CONFIG.tower, 1)
    assert chosen_adjustment(blind, data, CONFIG).empty_weight == 1.0  # all of the tiny world have a history
    users, seen, truth = requests(data, Part.VALID)
    begin, ends = data.history.ptr[users], data.ends(Part.VALID)
    half = ends.copy()
    half[users[::2]] = begin[::2]  # every other one is asked about before the first event
    monkeypatch.setattr(TowerData, "ends", lambda self, moment: half)
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.requests", lambda *_: (users, seen, truth))
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.FEWEST", 5)  # it is a tiny world
    model = build_two_tower(data, CONFIG.tower, 1)
    adjust(model, data, Adjustment(0.05))
    chosen = chosen_adjustment(model, data, CONFIG)
    assert chosen.empty_weight > 1


def test_a_run_of_an_earlier_version_weighs_all_biases_alike(tiny_run: TinyRun, tmp_path: Path) -> None:
    model = load_run(open_run(tiny_run.folder)).retriever.model
    kept = {name: values for name, values in model.state_dict().items() if not name.endswith("empty_weight")}
    assert len(kept) < len(model.state_dict())
    save_tensors(kept, tmp_path / "towers.safetensors")
    load_weights(model, tmp_path / "towers.safetensors")
    assert model.empty_weight.item() == 1.0


def test_popularity_is_that_of_the_training_part_alone(data: TowerData) -> None:
    shares = log_popularity(data).exp()
    assert shares.sum().item() == pytest.approx(1.0)
    rows = data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)]
    events = data.popularity(Part.VALID)
    often, seldom = int(events.argmax()), int(events.argmin())
    ratio = (events[often] + 1) / (events[seldom] + 1)
    assert (shares[rows[often]] / shares[rows[seldom]]).item() == pytest.approx(float(ratio), rel=0.5)
    assert events.sum() < len(data.history.items)  # what is held out is not counted


def test_what_validation_says_is_taken(data: TowerData) -> None:
    blind = build_two_tower(data, CONFIG.tower, 1)  # knows nothing, so that popularity can only help it
    chosen = chosen_adjustment(blind, data, CONFIG).tau
    assert chosen > 0
    assert chosen in GRID
    spoilt = build_two_tower(data, CONFIG.tower, 1)
    adjust(spoilt, data, Adjustment(40.0))  # popularity alone decides already, and more of it changes no order
    assert chosen_adjustment(spoilt, data, CONFIG).tau == 0.0


def test_a_gain_within_chance_is_none(data: TowerData, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = build_two_tower(data, CONFIG.tower, 1)
    assert chosen_adjustment(blind, data, CONFIG).tau > 0
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.SURE", 1e6)  # nothing is as sure as that
    assert chosen_adjustment(blind, data, CONFIG) == Adjustment()


def test_a_number_is_taken_as_it_is_and_nothing_chooses_without_a_metric(data: TowerData) -> None:
    model = build_two_tower(data, CONFIG.tower, 1)
    fixed = RetrievalConfig.model_validate({"logit_adjustment": 0.3, "tower": {"dim": 8}})
    assert chosen_adjustment(model, data, fixed) == Adjustment(0.3)
    blind = RetrievalConfig.model_validate({"logit_adjustment": "auto", "tower": {"dim": 8}, "fit": {"metric": ""}})
    assert chosen_adjustment(model, data, blind) == Adjustment()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    adjust(model, data, Adjustment())
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("members", [1, 2])
def test_the_bias_of_new_items_is_set_and_moves_no_other(data: TowerData, members: int) -> None:
    """Set twice it is the same: a training that goes on finds what an earlier one left."""
    column = data.layout.item.categorical.index(data.layout.item_id)
    items = replace(data.items, categorical=data.items.categorical.clone())
    items.categorical[::3, column] = UNKNOWN
    met = replace(data, items=items)
    new = items.categorical[:, column].numpy() == UNKNOWN
    model = as_one([build_two_tower(met, CONFIG.tower, seed) for seed in range(members)])
    before = scores(model, met)
    for _ in range(2):
        adjust(model, met, Adjustment(new_items=0.6))
        moved = scores(model, met) - before
        np.testing.assert_allclose(moved[:, new], 0.6, atol=1e-4)  # the bias began at 0
        assert not moved[:, ~new].any()
    adjust(model, met, Adjustment(0.5, new_items=0.6))
    shift = 0.5 * log_popularity(met)[items.categorical[:, column]].numpy()
    np.testing.assert_allclose(scores(model, met) - before, shift + np.where(new, 0.6, 0.0) + 0 * before, atol=1e-4)


def test_a_training_sets_the_bias_of_new_items(tiny_run: TinyRun) -> None:
    short = [*TINY, "retrieval.fit.epochs=1", "retrieval.scorers=[]", "retrieval.new_item_bias=0.75"]
    run = recsys.train(config=tiny_run.config_file, settings=short, stage="retrieval").trained
    assert run.retriever is not None
    model = run.retriever.model
    assert isinstance(model, TwoTower)
    assert model.bias is not None
    biases = model.bias.rows_of(model.layout.item_id).detach()[:, 0]
    assert float(biases[UNKNOWN]) == 0.75
    assert float(biases[UNKNOWN + 1 :].abs().max()) < 0.5


@pytest.mark.parametrize("tower", [{"similarity": "cosine"}, {"item_bias": False}])
@pytest.mark.parametrize("key", ["logit_adjustment", "new_item_bias"])
def test_scores_without_a_bias_cannot_be_adjusted(key: str, tower: dict[str, object]) -> None:
    config = RetrievalConfig.model_validate({key: 1.0, "tower": tower})
    with pytest.raises(ConfigError, match=f"{key} is part of the item bias"):
        check_adjustment(config)
