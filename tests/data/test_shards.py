"""A data set in shards by user: joined it is the one taken apart, byte for byte; a shard is that of its users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.base.errors import ConfigError, RunError
from recsys.base.files import visible_files
from recsys.data.dataset import NOW, Dataset
from recsys.data.hashing import text_hashes
from recsys.data.shards import SHARDS, join_shards, load_shard, save_shards
from recsys.data.split import Part
from recsys.data.store import save_dataset
from recsys.tests.data.test_store import assert_equal
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

DERIVED = [
    {"name": "idle", "kind": "since"},
    {"name": "home", "kind": "cross", "inputs": ["user.city", "context.tab"]},
    {"name": "worth", "kind": "ratio", "inputs": ["item.price", "user.age"]},
]
COUNT = 3


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in visible_files(folder)}


def sharded(dataset: Dataset, folder: Path, count: int = COUNT) -> Path:
    folder.mkdir()
    save_shards(dataset, folder, count)
    return folder


@pytest.mark.parametrize("count", [3, 13])
def test_joined_shards_are_the_data_set_byte_for_byte(shop: Shop, tmp_path: Path, count: int) -> None:
    """Of thirteen shards some have no user."""
    dataset = shop.dataset("time", derived=DERIVED, propensity="stars")
    (tmp_path / "whole").mkdir()
    (tmp_path / "joined").mkdir()
    save_dataset(dataset, tmp_path / "whole")
    shards = sharded(dataset, tmp_path / "shards", count)
    save_dataset(join_shards(shards), tmp_path / "joined")
    assert (count == 13) == any(not load_shard(shards, number).num_users for number in range(count))
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) > 50


@pytest.mark.parametrize("split", ["time", "random"])
def test_a_shard_is_the_data_set_of_its_users(shop: Shop, tmp_path: Path, split: str) -> None:
    derived = DERIVED if split == "time" else DERIVED[1:]
    dataset = shop.dataset(split, derived=derived)
    folder = sharded(dataset, tmp_path / "shards")
    owner = text_hashes(dataset.user_ids.array) % np.uint64(COUNT)
    found = 0
    for number in range(COUNT):
        shard = load_shard(folder, number)
        users = np.flatnonzero(owner == number)
        assert list(shard.user_ids) == [dataset.user_ids[user] for user in users]
        rows = np.flatnonzero(np.isin(dataset.events.users, users))
        assert_equal(shard.batch(torch.arange(len(shard.events))), dataset.batch(torch.from_numpy(rows)))
        items = np.tile(np.arange(dataset.num_catalogue), (len(users), 1))
        # what is asked of the whole log (the default context, counts of now) is as the whole log says
        asked = np.zeros(len(users))
        for moment in (Part.VALID, Part.TEST):
            known = dataset.history("").ends(moment)[users] > dataset.history("").ptr[users]
            own = np.flatnonzero(known)
            assert_equal(
                shard.candidates(own, items[own], moment, asked[own]),
                dataset.candidates(users[own], items[own], moment, asked[own]),
            )
        assert np.array_equal(shard.sequence_bounds("recent", NOW), np.cumsum(np.diff(shard.sequences["recent"].ptr)))
        found += len(shard.events)
    assert found == len(dataset.events)


def test_a_changed_or_missing_file_is_one_sentence_and_other_shards_need_not_be_there(
    shop: Shop, tmp_path: Path
) -> None:
    folder = sharded(shop.dataset("time"), tmp_path / "shards")
    victim = next(name for name in nonempty(visible_files(folder)) if name.startswith("shard-00001"))
    (folder / victim).write_bytes(b"else")
    assert load_shard(folder, 0).num_users
    with pytest.raises(RunError, match="is changed; copy it again"):
        load_shard(folder, 1)
    (folder / victim).unlink()
    with pytest.raises(RunError, match="is missing; copy it again"):
        join_shards(folder)
    (folder / SHARDS).unlink()
    with pytest.raises(RunError, match="holds no shards"):
        join_shards(folder)


def test_without_users_there_is_nothing_to_shard_by(shop: Shop, tmp_path: Path) -> None:
    features = [feature for feature in shop.config().model_dump()["features"] if feature["side"] != "user"]
    counts = [{"keys": ["tab"], "tasks": []}]
    dataset = shop.dataset("time", users=False, user="", features=features, counts=counts)
    with pytest.raises(ConfigError, match=r"by the hash of the user, and data\.user is empty"):
        sharded(dataset, tmp_path / "shards")
