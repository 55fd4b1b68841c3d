"""A data set written to files and read back makes the same batches, without pickle."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data import store
from recsys.data.batch import Batch, Block
from recsys.data.dataset import NOW, Dataset
from recsys.data.split import Part
from recsys.tests.support.shop import Shop

FILES = (store.ARRAYS, store.ENCODERS, store.IDS, store.SCHEMA)


def flat(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch."""

    def inside(block: Block) -> list[torch.Tensor]:
        return [block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors]

    owner = [] if batch.owner is None else [batch.owner]
    return [*inside(batch.query), *inside(batch.item), *owner, batch.labels, batch.mask, batch.weight]


@pytest.fixture(params=["time", "random"])
def pair(request: pytest.FixtureRequest, shop: Shop, tmp_path: Path) -> tuple[Dataset, Dataset]:
    dataset = shop.dataset(request.param, propensity="stars")
    store.save_dataset(dataset, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    return dataset, store.load_dataset_files(*(tmp_path / name for name in FILES))


def test_batches_come_back_identical(pair: tuple[Dataset, Dataset]) -> None:
    before, after = pair
    rows = torch.arange(len(before.events))
    users, items = np.arange(before.num_users), np.tile(np.arange(before.num_catalogue), (before.num_users, 1))
    made = [
        [dataset.batch(rows), *(dataset.candidates(users, items, moment) for moment in (Part.VALID, Part.TEST, NOW))]
        for dataset in pair
    ]
    for one, other in zip(*made, strict=True):
        for first, second in zip(flat(one), flat(other), strict=True):
            assert first.dtype == second.dtype
            assert torch.equal(first.nan_to_num(-9.0), second.nan_to_num(-9.0))
    assert after.layout == before.layout


def test_everything_else_comes_back_too(pair: tuple[Dataset, Dataset]) -> None:
    before, after = pair
    for name in ("config", "user_ids", "item_ids", "titles", "num_catalogue", "sides", "fingerprint", "notes"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.encoders.state() == before.encoders.state()
    for field in fields(before.events):
        assert np.array_equal(getattr(after.events, field.name), getattr(before.events, field.name)), field.name
    for where in ("", "click"):
        assert np.array_equal(after.history(where).items, before.history(where).items)
    assert np.array_equal(after.event_codes["stars"], before.event_codes["stars"])


def test_what_people_read_is_json_and_nothing_is_code(shop: Shop, tmp_path: Path) -> None:
    dataset = shop.dataset("time")
    store.save_dataset(dataset, tmp_path)
    ids = json.loads((tmp_path / store.IDS).read_text())
    assert ids["users"] == list(dataset.user_ids)
    assert json.loads((tmp_path / store.SCHEMA).read_text())["data"]["split"]["kind"] == "time"
    for file in tmp_path.iterdir():
        start = file.read_bytes()[:9]
        assert start.startswith(b"{") or start[8:9] == b"{", file.name  # JSON, or safetensors with its JSON header


def test_a_log_without_propensities_has_none_afterwards(shop: Shop, tmp_path: Path) -> None:
    store.save_dataset(shop.dataset("time"), tmp_path)
    assert store.load_dataset_files(*(tmp_path / name for name in FILES)).events.propensities is None
