"""Requests of users without any row: the commonest context of training, never one row's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.tests.support.shop import Shop


@pytest.fixture
def events(shop: Shop) -> pd.DataFrame:
    """The log with a commonest tab and hour in training, and others everywhere in the test part."""
    log = shop.events.copy()
    late = log["timestamp"] >= shop.CUTS[1]
    log["tab"] = np.where(np.arange(len(log)) % 3 == 0, log["tab"], "search")
    log["hour"] = np.where(np.arange(len(log)) % 2 == 0, log["hour"], 7.0)
    log.loc[late, "tab"], log.loc[late, "hour"] = "feed", 3.0
    log["lists"] = "p|q"
    return log


@pytest.fixture
def dataset(shop: Shop, events: pd.DataFrame) -> Dataset:
    silent = pd.DataFrame([["silent", "A", 30.0, ""]], columns=shop.users.columns)
    users = pd.concat([shop.users, silent], ignore_index=True)
    features = [spec.model_dump() for spec in shop.config().features]
    features.append({"name": "lists", "side": "context", "kind": "multi"})
    return build_dataset(read_tables(events, users, shop.items), shop.config(features=features), seed=1)


@pytest.mark.parametrize("moment", [Part.VALID, Part.TEST, NOW])
def test_who_has_no_row_gets_the_commonest_context(dataset: Dataset, events: pd.DataFrame, moment: int) -> None:
    silent = dataset.user_rows["silent"]
    batch = dataset.candidates(np.array([silent, 0]), np.array([[0, 1], [0, 1]]), moment)
    layout = dataset.layout.query
    tab = dataset.encoders.vocabularies["tab"]
    categorical = dict(zip(layout.categorical, batch.query.categorical[0].tolist(), strict=True))
    train = events[events["timestamp"] < 260]
    assert train["tab"].mode()[0] == "search"
    assert tab.names([categorical["tab"]]) == ["search"]
    assert categorical["hour"] == dataset.encoders.numerics["hour"].buckets(np.array([7.0], np.float32))[0]
    assert batch.query.numeric[0, layout.numeric.index("hour")].isnan()
    bag = batch.query.bags[layout.bags.index("lists")]
    assert not bag[0].any()
    assert bag[1].any()


def test_statistics_of_the_commonest_context_are_its_own(dataset: Dataset) -> None:
    """Counts by tab, and by user and tab, ask about the same tab as the feature says."""
    silent = dataset.user_rows["silent"]
    batch = dataset.candidates(np.array([silent]), np.array([[0]]), NOW)
    layout = dataset.layout.query
    column = dataset.sides["context"].categorical.index("tab")
    tabs = dataset.row_query.whole().categorical[:, column].numpy()
    code = int(batch.query.categorical[0, layout.categorical.index("tab")])
    seen = np.float32((tabs == code).sum())
    place = layout.numeric.index("tab.n")
    assert batch.query.numeric[0, place] == dataset.encoders.numerics["tab.n"].scaled(np.array([seen]))[0]


def test_who_has_a_row_keeps_the_latest_context(dataset: Dataset) -> None:
    users = np.arange(24)
    batch = dataset.candidates(users, np.zeros((24, 1), dtype=np.int64), NOW)
    last = np.array([np.flatnonzero(dataset.events.users == user)[-1] for user in users])
    width = len(dataset.sides["context"].categorical)
    start = len(dataset.sides["user"].categorical)
    wanted = dataset.row_query.whole().categorical[torch.from_numpy(last), :width]
    assert torch.equal(batch.query.categorical[:, start : start + width], wanted)
