"""A data set written to files and read back makes the same batches, without pickle; large files are mapped."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.errors import RunError
from recsys.data import store
from recsys.data.batch import Batch, Block
from recsys.data.dataset import NOW, Dataset
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.tests import support
from recsys.tests.support.shop import Shop


def flat(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch."""

    def inside(block: Block) -> list[torch.Tensor]:
        return [block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors]

    owner = [] if batch.owner is None else [batch.owner]
    return [*inside(batch.query), *inside(batch.item), *owner, batch.labels, batch.mask, batch.weight]


def assert_equal(one: Batch, other: Batch) -> None:
    """Every tensor is the same to the last bit."""
    for first, second in zip(flat(one), flat(other), strict=True):
        assert first.dtype == second.dtype
        assert torch.equal(first.nan_to_num(-9.0), second.nan_to_num(-9.0))


@pytest.fixture(params=["time", "random"])
def pair(request: pytest.FixtureRequest, shop: Shop, tmp_path: Path) -> tuple[Dataset, Dataset]:
    dataset = shop.dataset(request.param, propensity="stars")
    store.save_dataset(dataset, tmp_path)
    return dataset, store.load_dataset(tmp_path.joinpath)


def test_batches_come_back_identical(pair: tuple[Dataset, Dataset]) -> None:
    before, after = pair
    rows = torch.arange(len(before.events))
    users, items = np.arange(before.num_users), np.tile(np.arange(before.num_catalogue), (before.num_users, 1))
    made = [
        [dataset.batch(rows), *(dataset.candidates(users, items, moment) for moment in (Part.VALID, Part.TEST, NOW))]
        for dataset in pair
    ]
    for one, other in zip(*made, strict=True):
        assert_equal(one, other)
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


def test_the_manifest_names_every_file_and_what_it_holds(shop: Shop, tmp_path: Path) -> None:
    dataset = shop.dataset("time", title="genre")
    store.save_dataset(dataset, tmp_path)
    manifest = json.loads((tmp_path / store.MANIFEST).read_text())
    assert manifest["rows"] == {"events": shop.EVENTS, "users": shop.USERS, "items": shop.ITEMS}
    named = {store.MANIFEST, store.ENCODERS, store.SCHEMA}
    for entry in manifest["arrays"].values():
        values = np.load(tmp_path / entry["file"], allow_pickle=False)
        assert (str(values.dtype), list(values.shape)) == (entry["dtype"], entry["shape"])
        named.add(entry["file"])
    for entry in manifest["texts"].values():
        named |= {entry["file"], entry["order"]}
    assert {path.name for path in tmp_path.iterdir()} == named
    small = manifest["arrays"]["row_query/small"]
    assert (small["dtype"], small["shape"][0]) == ("uint8", shop.EVENTS)
    assert json.loads((tmp_path / store.SCHEMA).read_text())["data"]["split"]["kind"] == "time"


def test_names_of_features_are_no_names_of_files(shop: Shop, tmp_path: Path) -> None:
    """Whatever a feature is called, its file lies in the folder, and no two files are one."""
    names = ("../up/and", "a/b", "a.b", "A/B", "Größe " * 40)
    features = [{"name": "user_id", "side": "user"}, {"name": "item_id", "side": "item"}]
    features += [{"name": name, "side": "context", "column": "tab"} for name in names]
    dataset = shop.dataset("time", features=features, counts=[{"keys": [name], "tasks": []} for name in names])
    folder = tmp_path / "inner"
    folder.mkdir()
    store.save_dataset(dataset, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert store.load_dataset(folder.joinpath).encoders.state() == dataset.encoders.state()


def test_large_files_are_mapped_and_read_only(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = shop.dataset("time")
    store.save_dataset(dataset, tmp_path)
    monkeypatch.setattr(store, "MAPPED", 1)
    mapped = store.load_dataset(tmp_path.joinpath)
    for array in (mapped.events.times, mapped.row_query.numbers, mapped.users.wide):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    rows, users = torch.arange(len(dataset.events)), np.arange(dataset.num_users)
    items = np.tile(np.arange(dataset.num_catalogue), (len(users), 1))
    asked = [one.candidates(users, items, NOW, np.zeros(len(users))) for one in (dataset, mapped)]
    assert_equal(dataset.batch(rows), mapped.batch(rows))
    assert_equal(*asked)
    assert [mapped.user_rows[user] for user in dataset.user_ids] == users.tolist()
    with pytest.raises(KeyError):
        mapped.user_rows["nobody"]


def test_a_file_that_holds_something_else_is_named(shop: Shop, tmp_path: Path) -> None:
    store.save_dataset(shop.dataset("time"), tmp_path)
    manifest = json.loads((tmp_path / store.MANIFEST).read_text())
    file = tmp_path / manifest["arrays"]["events/times"]["file"]
    np.save(file, np.zeros(3, dtype=np.float32))
    with pytest.raises(RunError, match=rf"{file.name} holds float32 \[3\], the manifest says float64 \[500\]"):
        store.load_dataset(tmp_path.joinpath)
    (tmp_path / store.MANIFEST).write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(RunError, match="version 99, this recsys reads 2"):
        store.load_dataset(tmp_path.joinpath)


class OfVersion1(Shop):
    """The log whose data set lies, as version 1 of the format wrote it, in tests/support/run_of_version_1."""

    USERS, ITEMS, EVENTS, CUTS = 10, 12, 120, (240, 290)


def test_a_run_of_the_format_before_is_read() -> None:
    folder = Path(support.__file__).parent / "run_of_version_1"
    kept = load_run(open_run(folder)).dataset
    built = OfVersion1().dataset(propensity="stars", title="genre")
    rows, users = torch.arange(len(built.events)), np.arange(built.num_users)
    items = np.tile(np.arange(built.num_catalogue), (len(users), 1))
    assert_equal(kept.batch(rows), built.batch(rows))
    for moment in (Part.VALID, NOW):
        assert_equal(kept.candidates(users, items, moment), built.candidates(users, items, moment))
    assert (kept.user_ids, kept.item_ids, kept.titles) == (built.user_ids, built.item_ids, built.titles)
    theirs, ours = kept.encoders.state(), built.encoders.state()
    numbers, again = theirs.pop("numerics"), ours.pop("numerics")
    assert theirs == ours
    assert numbers.keys() == again.keys()
    for name, learned in numbers.items():
        for key, value in again[name].items():  # the last bit of a logarithm is the processor's
            assert learned[key] == (value if value is None else pytest.approx(value, rel=1e-12)), (name, key)
    assert np.array_equal(kept.events.propensities, built.events.propensities)


def test_a_log_without_propensities_has_none_afterwards(shop: Shop, tmp_path: Path) -> None:
    store.save_dataset(shop.dataset("time"), tmp_path)
    assert store.load_dataset(tmp_path.joinpath).events.propensities is None
