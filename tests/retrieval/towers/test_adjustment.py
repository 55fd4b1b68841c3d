"""Popularity in the towers' scores: moved by tau log p, chosen by validation, for one tower as for several."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.retrieval.towers.adjustment import GRID, adjust, check_adjustment, chosen_adjustment, log_popularity
from recsys.retrieval.towers.ensemble import as_one
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, item_vectors, query_vectors, requests
from recsys.retrieval.towers.two_tower import TwoTower
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.tiny import TinyRun

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
    adjust(model, data, 0.75)
    rows = data.items.categorical[:, data.layout.item.categorical.index(data.layout.item_id)]
    expected = 0.75 * log_popularity(data)[rows].numpy()
    np.testing.assert_allclose(scores(model, data) - before, np.broadcast_to(expected, before.shape), atol=1e-4)


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
    chosen = chosen_adjustment(blind, data, CONFIG)
    assert chosen > 0
    assert chosen in GRID
    spoilt = build_two_tower(data, CONFIG.tower, 1)
    adjust(spoilt, data, 40.0)  # popularity alone decides already, and more of it changes no order
    assert chosen_adjustment(spoilt, data, CONFIG) == 0.0


def test_a_gain_within_chance_is_none(data: TowerData, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = build_two_tower(data, CONFIG.tower, 1)
    assert chosen_adjustment(blind, data, CONFIG) > 0
    monkeypatch.setattr("recsys.retrieval.towers.adjustment.SURE", 1e6)  # nothing is as sure as that
    assert chosen_adjustment(blind, data, CONFIG) == 0.0


def test_a_number_is_taken_as_it_is_and_nothing_chooses_without_a_metric(data: TowerData) -> None:
    model = build_two_tower(data, CONFIG.tower, 1)
    fixed = RetrievalConfig.model_validate({"logit_adjustment": 0.3, "tower": {"dim": 8}})
    assert chosen_adjustment(model, data, fixed) == 0.3
    blind = RetrievalConfig.model_validate({"logit_adjustment": "auto", "tower": {"dim": 8}, "fit": {"metric": ""}})
    assert chosen_adjustment(model, data, blind) == 0.0
    before = {name: values.clone() for name, values in model.state_dict().items()}
    adjust(model, data, 0.0)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("tower", [{"similarity": "cosine"}, {"item_bias": False}])
def test_scores_without_a_bias_cannot_be_adjusted(tower: dict[str, object]) -> None:
    config = RetrievalConfig.model_validate({"logit_adjustment": 1.0, "tower": tower})
    with pytest.raises(ConfigError, match="item bias"):
        check_adjustment(config)
