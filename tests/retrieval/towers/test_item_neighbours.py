"""Neighbours inside the item tower: who they are, that the training part alone names them, and what they add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.base.errors import ConfigError
from recsys.data.dataset import Dataset
from recsys.data.history import History
from recsys.data.split import Part
from recsys.retrieval.retriever import Retriever
from recsys.retrieval.towers.item_neighbours import item_neighbours
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, item_vectors, train_two_tower
from recsys.retrieval.towers.two_tower import TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.shop import Shop
from recsys.training.runtime import Runtime


def history_of(*users: list[int]) -> History:
    items = np.array([item for user in users for item in user], dtype=np.int32)
    ptr = np.cumsum([0, *map(len, users)])
    parts = np.full(len(items), Part.TRAIN, dtype=np.int8)
    return History(items, np.arange(len(items), dtype=np.float64), parts, np.arange(len(items)), ptr)


def test_neighbours_share_two_users_and_are_the_nearest() -> None:
    """Items 0 and 1 have three users in common, 0 and 2 two of many, 0 and 3 one."""
    history = history_of(*[[0, 1]] * 3, *[[0, 2]] * 2, *[[2]] * 9, [0, 3], [3, 4])
    near = item_neighbours(history, 6, 3)
    assert [set(row.tolist()) - {-1} for row in near] == [{1, 2}, {0}, {0}, set(), set(), set()]
    assert item_neighbours(history, 6, 1)[0].tolist() == [1]


def test_an_item_taken_again_by_one_user_has_one_user() -> None:
    assert (item_neighbours(history_of([0, 1, 0, 1]), 2, 5) == -1).all()


def with_other_answers(dataset: Dataset) -> Dataset:
    """The same training part; validation and test events of other items."""
    events = dataset.events
    later = events.parts >= Part.VALID
    items = events.items.copy()
    items[later] = (items[later] + 7) % dataset.num_catalogue
    return replace(dataset, events=replace(events, items=items))


@pytest.mark.parametrize("kind", ["leave_last", "time"])
def test_only_the_training_part_names_neighbours(shop: Shop, kind: str) -> None:
    config, dataset = TwoTowerConfig(neighbours=4), shop.dataset(kind)
    changed = with_other_answers(dataset)
    assert not np.array_equal(dataset.events.items, changed.events.items)
    first, second = (TowerData.of(one, config, "").items.bags[-1] for one in (dataset, changed))
    assert (first > 0).any()
    assert torch.equal(first, second)


def test_a_vector_is_the_items_own_and_the_mean_of_its_neighbours(shop: Shop) -> None:
    config = TwoTowerConfig(neighbours=4, item_features=("item_id",), dim=8)
    data = TowerData.of(shop.dataset("leave_last"), config, "")
    model = build_two_tower(data, config, 3)
    near = item_neighbours(data.history.before(Part.VALID), data.num_items, 4)
    own = model.table.rows_of(data.layout.item_id)[data.items.categorical[:, 0]].detach().numpy()
    expected = own + np.stack([own[[n for n in row if n >= 0]].mean(0) if row[0] >= 0 else own[0] * 0 for row in near])
    np.testing.assert_allclose(item_vectors(model, data)[:, :8], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["full_softmax", "mixed"])
def test_towers_with_neighbours_train_and_place_items_nobody_met(shop: Shop, loss: str) -> None:
    table = {"loss": loss, "tower": {"dim": 8, "neighbours": 3}, "fit": {"epochs": 1}}
    dataset, config = shop.dataset("leave_last"), RetrievalConfig.model_validate(table)
    model, data, history = train_two_tower(dataset, config, Runtime(1), seed=1)
    assert np.isfinite(history.records[-1]["loss"])
    retriever = Retriever(model, data, {}, scorers=())
    met = retriever.vectors_of(dataset.items.whole().select(torch.arange(data.num_items)), dataset.sides["item"])
    alone = (data.items.bags[-1] == 0).all(1).numpy()
    found = item_vectors(model, data)
    np.testing.assert_allclose(met[alone], found[alone], rtol=1e-5, atol=1e-7)
    assert np.abs(met[~alone] - found[~alone]).max() > 1e-4


def test_without_the_item_id_there_are_no_neighbours_to_name(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="neighbours needs the item id"):
        TowerData.of(shop.dataset("leave_last"), TwoTowerConfig(neighbours=4, item_features=("genre",)), "")
