"""Hashed features: fixed tables, the same codes in rows, in requests, in a kept run and in one that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.check.check import check_data
from recsys.data.dataset import NOW, Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.pipeline.leaks import leak_findings
from recsys.tests.support.shop import Shop

HASHED: dict[str, dict[str, Any]] = {
    "user_id": {"hash_buckets": 5},
    "item_id": {"hash_buckets": 8, "min_count": 16},
    "tags": {"hash_buckets": 3},
    "stars": {"hash_buckets": 4},
}


def features(shop: Shop) -> list[dict[str, Any]]:
    found = [spec.model_dump() | HASHED.get(spec.name, {}) for spec in shop.config().features]
    return [*found, {"name": "twin", "side": "context", "column": "tab", "shared_with": "user_id"}]


@pytest.fixture
def dataset(shop: Shop) -> Dataset:
    return shop.dataset("time", features=features(shop))


def test_rows_and_requests_have_the_codes_of_their_raw_values(dataset: Dataset) -> None:
    sizes, encoders = dataset.layout.sizes, dataset.encoders
    assert (sizes["user_id"], sizes["item_id"], sizes["tags"]) == (7, 10, 5)
    assert not {"user_id", "item_id", "tags", "stars", "twin"} & encoders.vocabularies.keys()
    rows = torch.arange(len(dataset.events))
    users, items = dataset.events.users, dataset.events.items
    asked = dataset.candidates(users, items[:, None], NOW)
    for batch in (dataset.batch(rows), asked):
        for side, block, name, ids, entity in (
            (dataset.layout.query, batch.query, "user_id", dataset.user_ids, users),
            (dataset.layout.item, batch.item, "item_id", dataset.item_ids, items),
        ):
            expected = encoders.hashed[name].rows(pa.array([ids[row] for row in entity]))
            assert np.array_equal(block.categorical[:, side.categorical.index(name)].numpy(), expected)
    train = items[dataset.events.parts == Part.TRAIN]
    seen = np.bincount(train, minlength=len(dataset.item_ids))
    codes = dataset.items.whole().categorical[:, dataset.sides["item"].categorical.index("item_id")].numpy()
    assert np.array_equal(codes == UNKNOWN, seen < 16)
    assert 0 < (seen < 16).sum() < len(seen)
    assert encoders.hashed["item_id"].collisions.rare == int(((seen > 0) & (seen < 16)).sum())
    assert encoders.hashed["twin"] is encoders.hashed["user_id"]
    assert not [finding for finding in leak_findings(dataset) if "vocabulary" in finding.sentence]


def test_it_is_kept_and_goes_on_with_the_same_rows(shop: Shop, dataset: Dataset, tmp_path: Path) -> None:
    store.save_dataset(dataset, tmp_path)
    after = store.load_dataset(tmp_path.joinpath)
    assert after.layout == dataset.layout
    assert after.encoders.state() == dataset.encoders.state()
    events = shop.events.assign(timestamp=shop.events["timestamp"] + 1000)
    events.loc[events["item_id"] == "i3", "item_id"] = "brand new"
    split = {"kind": "time", "valid_from": "1260", "test_from": "1300"}
    config = shop.config(features=features(shop), split=split)
    grown = build_dataset(read_tables(events, shop.users, shop.items), config, seed=1, source=after)
    assert grown.layout.sizes["item_id"] == dataset.layout.sizes["item_id"]
    asked = pa.array(dataset.item_ids)
    before, now = (one.encoders.hashed["item_id"].rows(asked) for one in (dataset, grown))
    assert np.array_equal(now[before != UNKNOWN], before[before != UNKNOWN])
    assert grown.encoders.hashed["item_id"].rows(pa.array(["brand new"]))[0] != UNKNOWN


def test_data_check_tells_of_the_collisions(shop: Shop, tmp_path: Path) -> None:
    for name in ("events", "users", "items"):
        getattr(shop, name).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: f"{name}.csv" for name in ("events", "users", "items")}
    report = check_data(shop.config(features=features(shop)[:-1], **files), tmp_path, seed=1)
    assert report["hashed"]["user_id"]["values"] > report["hashed"]["user_id"]["used"]
    told = {found["about"]: found for found in report["findings"] if found["message"].startswith("Hashed feature")}
    assert told["user_id"]["level"] == "warning"
    assert "share a row with another; raise hash_buckets" in told["user_id"]["message"]


@pytest.mark.parametrize("further", [{"kind": "numeric"}, {"pretrained": "vectors.csv"}])
def test_hashing_where_it_means_nothing_is_refused(shop: Shop, further: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="hash_buckets is for categorical and multi features"):
        shop.config(features=[{"name": "x", "side": "user", "hash_buckets": 5, **further}])
