"""Hashed features: fixed tables, the same codes in rows, in requests, in a kept run and in one that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

import recsys
from recsys.configs.run import RunConfig
from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.check.check import check_data
from recsys.data.dataset import NOW, Dataset
from recsys.data.encoding.subjects import encode_subjects
from recsys.data.hashing import HashedVocabulary
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.subject import Subject
from recsys.data.vocabulary import PAD, UNKNOWN
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


DOUBLE = {"user_id": {"hash_buckets": 40, "hashes": 2}, "tab": {"hash_buckets": 30, "hashes": 2, "min_count": 60}}


def _double(shop: Shop) -> list[dict[str, Any]]:
    return [spec.model_dump() | DOUBLE.get(spec.name, {}) for spec in shop.config().features]


@pytest.fixture(scope="module")
def double(shop: Shop) -> Dataset:
    return shop.dataset("time", features=_double(shop))


def test_two_hashes_tell_apart_what_one_does_not() -> None:
    """A thousand values in a hundred rows: each shares its first row, hardly any shares both."""
    values = pa.array([f"value {n}" for n in range(1000)])
    pairs = HashedVocabulary.fit(values, np.ones(1000, dtype=np.int64), 100).pairs(values)
    assert pairs.min() >= 2
    assert pairs.max() < 102
    assert len(np.unique(pairs[:, 0])) == 100
    assert len(np.unique(pairs, axis=0)) > 930  # 1,000 in 10,000 places: some 48 share one by chance
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.1


def test_both_rows_stand_in_rows_in_requests_and_in_a_kept_run(double: Dataset, tmp_path: Path) -> None:
    encoders, users = double.encoders, double.events.users
    asked = double.candidates(users, double.events.items[:, None], NOW)
    for batch in (double.batch(torch.arange(len(double.events))), asked):
        bag = batch.query.bags[double.layout.query.bags.index("user_id")].numpy()
        expected = encoders.hashed["user_id"].pairs(pa.array([double.user_ids[row] for row in users]))
        assert np.array_equal(bag, expected)
        assert "user_id" not in double.layout.query.categorical
    tabs = double.batch(torch.arange(len(double.events))).query.bags[double.layout.query.bags.index("tab")].numpy()
    rare = tabs[:, 0] == UNKNOWN
    assert (tabs[rare, 1] == PAD).all()
    assert (tabs[~rare] > UNKNOWN).all()
    store.save_dataset(double, tmp_path)
    after = store.load_dataset(tmp_path.joinpath)
    assert after.layout == double.layout
    strangers = pa.array(["never seen", "u1"])
    assert np.array_equal(
        after.encoders.hashed["user_id"].pairs(strangers), encoders.hashed["user_id"].pairs(strangers)
    )


def test_what_goes_on_and_what_a_request_tells_have_the_same_rows(shop: Shop, double: Dataset) -> None:
    people = encode_subjects(double, [Subject(user="u1"), Subject(user="stranger", context={"tab": "home"})], "click")
    place = double.layout.query.bags.index("user_id")
    query = people.candidates(np.array([0, 1]), np.array([[0], [0]]), NOW).query
    expected = double.encoders.hashed["user_id"].pairs(pa.array(["u1", "stranger"]))
    assert np.array_equal(query.bags[place].numpy(), expected)
    events = shop.events.assign(timestamp=shop.events["timestamp"] + 1000)
    split = {"kind": "time", "valid_from": "1260", "test_from": "1300"}
    config = shop.config(features=_double(shop), split=split)
    grown = build_dataset(read_tables(events, shop.users, shop.items), config, seed=1, source=double)
    codes = grown.users.bags[grown.sides["user"].bags.index("user_id")]
    assert np.array_equal(codes, grown.encoders.hashed["user_id"].pairs(pa.array(list(grown.user_ids))))


@pytest.mark.parametrize(
    ("feature", "sentence"),
    [
        ({"name": "x", "side": "user", "hashes": 2}, "hashes = 2 is for categorical features with hash_buckets"),
        ({"name": "x", "side": "user", "hash_buckets": 9, "hashes": 2, "shared_with": "city"}, "set min_count"),
        ({"name": "recent2", "side": "user", "kind": "sequence", "of": ["shelf"]}, "has hashes = 2"),
    ],
)
def test_where_two_hashes_cannot_stand(shop: Shop, feature: dict[str, Any], sentence: str) -> None:
    shelf = {"name": "shelf", "side": "item", "column": "genre", "hash_buckets": 9, "hashes": 2}
    with pytest.raises(ValidationError, match=sentence):
        shop.config(features=[*(spec.model_dump() for spec in shop.config().features), shelf, feature])


def test_items_of_hashed_ids_alone_are_refused_for_they_would_be_one(shop: Shop) -> None:
    hashed = [
        spec.model_dump() | ({"hash_buckets": 5} if spec.name == "item_id" else {}) for spec in shop.config().features
    ]
    data = shop.config(features=hashed).model_dump()
    small = {"num_candidates": 10, "tower": {"item_features": ["item_id", "genre"]}}
    judged = {"ks": [5], "list_k": 5}
    RunConfig.model_validate({"name": "x", "data": data, "retrieval": small, "evaluation": judged})
    alone = {**small, "tower": {"item_features": ["item_id"]}}
    with pytest.raises(ValidationError, match="two items would have one vector"):
        RunConfig.model_validate({"name": "x", "data": data, "retrieval": alone, "evaluation": judged})


def test_both_stages_train_and_answer_with_two_hashes(shop: Shop) -> None:
    section = {"positive": "click", "num_candidates": 8, "fit": {"epochs": 1}, "tower": {"dim": 8}}
    ranking = {"fit": {"epochs": 1}, "model": {"kind": "shared_bottom"}}
    config = RunConfig.model_validate(
        {
            "name": "shop",
            "data": shop.config(features=_double(shop)).model_dump(),
            "retrieval": section,
            "ranking": ranking,
            "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
        }
    )
    rec = recsys.train(shop.events, shop.items, shop.users, config=config)
    assert len(rec.recommend(["u1", "u2"], k=3)) == 6
    assert rec.evaluate()["funnel"]["users"] > 0
