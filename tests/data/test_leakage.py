"""The cardinal sin: rows after the cut are changed in every way, and nothing that training sees may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch, Block
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.retrieval.towers.two_tower import TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.support.shop import Shop

KINDS = ["time", "leave_last", "random", "column"]


def tensors(value: Block | Batch) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside, with its path."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, Block):
            yield from ((f"{field.name}.{name}", tensor) for name, tensor in tensors(inner))
        elif isinstance(inner, tuple):
            yield from ((f"{field.name}[{i}]", tensor) for i, tensor in enumerate(inner))
        elif inner is not None:
            yield field.name, inner


def assert_same(first: Block | Batch, second: Block | Batch) -> None:
    for (name, one), (_, other) in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(one.nan_to_num(-9.0), other.nan_to_num(-9.0)), name


def altered(shop: Shop, dataset: Dataset, first: Part, *, users: bool = False) -> pd.DataFrame:
    """The log with every value of the rows of `first` and later parts replaced: items nobody met, new tabs, all labels
    turned, numbers far out of range; with `users`, by users nobody met too.
    """
    rng = np.random.default_rng(9)
    later = dataset.events.source_rows[dataset.events.parts >= first]
    frame = shop.events.copy()
    count = len(later)
    frame.loc[later, "item_id"] = rng.choice([*(f"i{i}" for i in range(20)), "new1", "new2"], count)
    frame.loc[later, "tab"] = rng.choice(["home", "other", "else"], count)
    frame.loc[later, "hour"] = rng.normal(1e4, 1e4, count)
    frame.loc[later, "stars"] = rng.integers(5, 30, count)
    frame.loc[later, "click"] = 1 - frame.loc[later, "click"]
    frame.loc[later, "like"] = 1.0
    if users:
        frame.loc[later, "user_id"] = rng.choice(["u1", "u2", "nobody", "somebody"], count)
    return frame


def compare(before: Dataset, after: Dataset, *, until: Part) -> None:
    """Everything that rows and moments before `until` and at its start are made of."""
    assert after.encoders.state() == before.encoders.state()
    assert after.sides == before.sides
    for one, other in zip(before.counts, after.counts, strict=True):
        for name in ("keys", "seen", "rows", "positives", "prior"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert after.item_ids[: after.num_catalogue] == before.item_ids[: before.num_catalogue]
    for part in (Part.TRAIN, Part.VALID):
        if part < until:
            rows, others = before.rows(part), after.rows(part)
            sources = before.events.source_rows[rows], after.events.source_rows[others]
            assert np.array_equal(*sources)
            assert_same(before.batch(rows), after.batch(others))
    users = np.arange(shared := min(before.num_users, after.num_users))
    assert before.user_ids[:shared] == after.user_ids[:shared]
    items = np.tile(np.arange(before.num_catalogue), (shared, 1))
    assert_same(before.candidates(users, items, until), after.candidates(users, items, until))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [Part.VALID, Part.TEST])
def test_rows_after_the_cut_change_nothing_before_it(shop: Shop, kind: str, first: Part) -> None:
    before = shop.dataset(kind)
    after = shop.dataset(kind, events=altered(shop, before, first))
    assert np.array_equal(after.events.parts, before.events.parts)
    assert not np.array_equal(after.events.labels, before.events.labels)
    compare(before, after, until=first)


@pytest.mark.parametrize("first", [Part.VALID, Part.TEST])
def test_nor_do_users_who_come_later(shop: Shop, first: Part) -> None:
    before = shop.dataset("time")
    after = shop.dataset("time", events=altered(shop, before, first, users=True))
    assert "nobody" in after.user_ids
    compare(before, after, until=first)


def test_nor_does_where_they_stand_in_the_file(shop: Shop) -> None:
    """Without a user table users are numbered as they come; rows of the future that come first must not decide."""
    backwards = shop.events.iloc[::-1].reset_index(drop=True)
    plain = {**vars(shop.config())}
    features = tuple(spec for spec in plain["features"] if spec.side != "user" or spec.name == "user_id")
    changes = {"features": features, "counts": ()}
    before = shop.dataset("time", events=backwards, users=False, **changes)
    later = before.events.source_rows[before.events.parts >= Part.VALID]
    frame = backwards.copy()
    frame.loc[later, "user_id"] = frame.loc[later, "user_id"].to_numpy()[::-1]
    after = shop.dataset("time", events=frame, users=False, **changes)
    compare(before, after, until=Part.VALID)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positive", ["", "click"])
def test_the_towers_train_on_training_rows_alone(shop: Shop, kind: str, positive: str) -> None:
    config = TwoTowerConfig(dim=4, event_features=("gap", "stars", "tab"))
    before = shop.dataset(kind)
    after = shop.dataset(kind, events=altered(shop, before, Part.VALID))
    one, other = (TowerData.of(dataset, config, positive) for dataset in (before, after))
    assert torch.equal(one.popularity(Part.VALID), other.popularity(Part.VALID))
    assert one.layout == other.layout
    assert_same(one.items, other.items)
    batches = 0
    for first, second in zip(WindowLoader(one, Part.VALID, 64, 0), WindowLoader(other, Part.VALID, 64, 0), strict=True):
        assert torch.equal(first.items, second.items)
        assert torch.equal(first.properties, second.properties)
        assert torch.equal(first.present, second.present)
        assert_same(first.users, second.users)
        batches += 1
    assert batches > 3
    trained = one.ends(Part.VALID) - one.history.ptr[:-1]
    chosen = before.events.parts == Part.TRAIN
    if positive:
        chosen &= before.events.labels[:, 0] > 0
    early = (one.history.parts == Part.PRIOR).sum()
    assert trained.sum() - early == (chosen & (before.events.items < before.num_catalogue)).sum()


def test_a_label_is_no_input_of_its_own_row_or_moment(shop: Shop) -> None:
    """What is known after the event may describe later rows' histories only. (Counts: see the loop in test_counts.)"""
    before = shop.dataset("time", counts=())
    rows = before.rows("train")
    middle = np.median(before.events.times[rows])
    frame = shop.events.copy()
    late = frame["timestamp"].between(middle, shop.CUTS[0] - 1)
    frame.loc[late, "click"] = 1 - frame.loc[late, "click"]
    frame.loc[late, "stars"] = 6 - frame.loc[late, "stars"]
    after = shop.dataset("time", events=frame, counts=())
    early = rows[torch.from_numpy(before.events.times[rows] <= middle)]
    same = rows[torch.from_numpy(before.events.times[rows] == middle)]
    assert len(same)
    assert not torch.equal(before.batch(same).labels, after.batch(same).labels)
    assert_same(before.batch(early).query, after.batch(early).query)
    assert_same(before.batch(early).item, after.batch(early).item)
    one, other = before.batch(rows).query.sequences, after.batch(rows).query.sequences
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_columns_of_the_outcome_are_not_inputs(shop: Shop) -> None:
    layout = shop.dataset("time").layout
    names = [*layout.query.categorical, *layout.query.numeric, *layout.item.categorical, *layout.item.numeric]
    assert not {"click", "like", "stars", "part"} & set(names)
