"""Two features of one table: one vocabulary learned from both, and one embedding for the same value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.nn.features import FeatureConfig, FeatureEncoder
from recsys.retrieval.towers.two_tower import TwoTower, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.shop import Shop

FAVOURITE = {"name": "favourite", "side": "user", "shared_with": "genre"}
LIKES = {"name": "likes", "side": "user", "kind": "multi", "shared_with": "genre", "max_length": 2}
LAST = {"name": "last", "side": "context", "after_event": True, "shared_with": "genre"}


def features(shop: Shop, *further: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(spec.model_dump() for spec in shop.config().features), *further]


def built(shop: Shop, source: Dataset | None = None, late: str = "") -> Dataset:
    rng = np.random.default_rng(3)
    users, events = shop.users.copy(), shop.events.copy()
    users["favourite"] = rng.choice(["g1", "g3", "only here"], len(users))
    users["likes"] = rng.choice(["g2", "g2|g1", "", "also here|g3"], len(users))
    events["last"] = rng.choice(["g1", "after"], len(events))
    if late:
        events["timestamp"] += 1000
        users.loc[::2, "favourite"] = late
        moved = {"kind": "time", "valid_from": "1260", "test_from": "1300"}
    changes = {"split": moved} if late else {}
    config = shop.config(features=features(shop, FAVOURITE, LIKES, LAST), **changes)
    return build_dataset(read_tables(events, users, shop.items), config, seed=1, source=source)


@pytest.fixture
def dataset(shop: Shop) -> Dataset:
    return built(shop)


def test_one_vocabulary_is_learned_from_all_of_them(dataset: Dataset) -> None:
    found = dataset.encoders.vocabularies
    assert set(found["genre"].values) == {"g1", "g2", "g3", "only here", "also here", "after"}
    assert found["favourite"] is found["genre"]
    counted = dict.fromkeys(found["genre"].values, 0)
    train = dataset.events.parts == Part.TRAIN
    genre = dataset.items.whole().categorical[:, dataset.sides["item"].categorical.index("genre")].numpy()
    favourite = dataset.users.whole().categorical[:, dataset.sides["user"].categorical.index("favourite")].numpy()
    likes = dataset.users.whole().bags[dataset.sides["user"].bags.index("likes")].numpy()
    users, items = dataset.events.users[train], dataset.events.items[train]
    for codes in (genre[items], favourite[users], likes[users].ravel(), dataset.event_codes["last"][train]):
        for name in found["genre"].names([code for code in codes.tolist() if code]):
            counted[name] += 1
    assert list(counted.values()) == sorted(counted.values(), reverse=True)  # the most frequent in all comes first


def test_the_same_value_has_the_same_embedding_in_both_stages(dataset: Dataset) -> None:
    encoder = FeatureEncoder(dataset.layout, FeatureConfig())
    batch = dataset.candidates(np.arange(24), np.tile(np.arange(20), (24, 1)), NOW)
    encoded = encoder(batch)
    layout = dataset.layout
    mine, theirs = layout.query.categorical.index("favourite"), layout.item.categorical.index("genre")
    codes = batch.query.categorical[:, mine], batch.item.categorical[:, theirs]
    user, item = next((u, i) for u in range(24) for i in range(480) if codes[0][u] == codes[1][i] > UNKNOWN)
    assert torch.equal(encoded.query.fields[user, mine], encoded.item.fields[item, theirs])
    assert encoder.table.weight.shape[0] == sum(rows for n, rows in layout.sizes.items() if n not in layout.shared)
    lent = TwoTowerConfig(dim=4, item_features=("item_id",), event_features=("last",))  # the owner itself is not read
    towers = TwoTower(lent, TowerData.of(dataset, lent, "click").layout)
    assert towers.table.sizes["genre"] == len(dataset.encoders.vocabularies["genre"])
    assert not {"favourite", "likes", "last"} & towers.table.sizes.keys()
    assert towers.user_content is not None
    place = towers.layout.user.categorical.index("favourite")
    assert towers.user_content.offsets[place] == towers.event_offsets[0] == towers.table.offsets["genre"]


def test_it_is_kept_and_grown(shop: Shop, dataset: Dataset, tmp_path: Path) -> None:
    store.save_dataset(dataset, tmp_path)
    after = store.load_dataset(tmp_path.joinpath)
    assert after.layout == dataset.layout
    assert after.encoders.vocabularies == dataset.encoders.vocabularies
    old = dataset.encoders.vocabularies["genre"].values
    grown = built(shop, source=dataset, late="brand new").encoders.vocabularies
    assert grown["genre"].values == (*old, "brand new")
    assert grown["favourite"] == grown["genre"]


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ({"name": "x", "side": "user", "shared_with": "nothing"}, "is for two categorical or multi features"),
        ({"name": "x", "side": "user", "shared_with": "price"}, "is for two categorical or multi features"),
        ({"name": "x", "side": "user", "shared_with": "x"}, "is for two categorical or multi features"),
        ({"name": "x", "side": "user", "shared_with": "favourite"}, "has a table of its own"),
        ({"name": "x", "side": "user", "kind": "numeric", "shared_with": "genre"}, "is for two categorical or multi"),
        ({"name": "x", "side": "user", "shared_with": "genre", "min_count": 2}, 'has the table of "genre"'),
    ],
)
def test_a_table_that_cannot_be_shared_is_refused(shop: Shop, further: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        shop.config(features=features(shop, FAVOURITE, further))
