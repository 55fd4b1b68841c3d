"""A fill value is as good as one that stood in the table: in codes, numbers and counts, in rows and in answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.feature_spec import FeatureSpec
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.tests.support.shop import Shop

FILLS: dict[str, float | str] = {"city": "B", "age": 41.0, "tags": "c", "tab": "feed", "hour": 7.0, "price": 3.0}


def built(shop: Shop, events: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame, fills: bool) -> Dataset:
    features: list[dict[str, Any]] = [spec.model_dump() for spec in shop.config().features]
    for feature in features if fills else ():
        feature["fill"] = FILLS.get(feature["name"])
    return build_dataset(read_tables(events, users, items), shop.config(features=features), seed=1)


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Nothing in every fifth value of the columns that are filled."""
    gapped = frame.copy()
    for place, name in enumerate(sorted(set(FILLS) & set(frame.columns))):
        gapped.loc[np.arange(len(gapped)) % 5 == place, name] = None
    return gapped


@pytest.fixture
def pair(shop: Shop) -> tuple[Dataset, Dataset]:
    """Missing values filled by the schema, and the same values written into the tables."""
    log = shop.events.astype({"tab": object, "hour": float})
    tables = [with_gaps(frame) for frame in (log, shop.users, shop.items)]
    tables[1] = pd.concat([tables[1], pd.DataFrame([["silent", None, None, ""]], columns=shop.users.columns)])
    written = [frame.fillna({n: v for n, v in FILLS.items() if n in frame}) for frame in tables]
    written[2]["tags"] = written[2]["tags"].replace("", FILLS["tags"])
    return built(shop, *tables, fills=True), built(shop, *written, fills=False)


def test_filled_and_written_values_are_encoded_alike(pair: tuple[Dataset, Dataset]) -> None:
    filled, written = pair
    assert filled.encoders.state() == written.encoders.state()
    rows = torch.arange(len(filled.events))
    users, items = np.arange(24), np.tile(np.arange(filled.num_catalogue), (24, 1))
    batches = [(d.batch(rows), d.candidates(users, items, Part.TEST)) for d in pair]
    for one, other in zip(*batches, strict=True):
        for mine, theirs in ((one.query, other.query), (one.item, other.item)):
            assert torch.equal(mine.categorical, theirs.categorical)
            assert torch.equal(mine.numeric.nan_to_num(-9.0), theirs.numeric.nan_to_num(-9.0))
            assert all(torch.equal(*bags) for bags in zip(mine.bags, theirs.bags, strict=True))
    prices = filled.attributes["price"]  # a filter asks for what stood in the table
    assert isinstance(prices, np.ndarray)
    assert np.isnan(prices[0])


def test_a_request_without_a_context_is_filled_too(pair: tuple[Dataset, Dataset]) -> None:
    dataset = pair[0]
    silent = dataset.candidates(np.array([dataset.user_rows["silent"]]), np.array([[0]]), NOW)
    layout, encoders = dataset.layout.query, dataset.encoders
    found = dict(zip(layout.categorical, silent.query.categorical[0].tolist(), strict=True))
    hour = np.array([FILLS["hour"]], np.float32)
    assert encoders.vocabularies["tab"].names([found["tab"]]) == ["feed"]
    assert found["hour"] == encoders.numerics["hour"].buckets(hour)[0]
    assert silent.query.numeric[0, layout.numeric.index("hour")] == encoders.numerics["hour"].scaled(hour)[0]
    feed = dataset.key_codes["tab"] == encoders.keys["tab"].values.index("feed") + 2
    seen = encoders.numerics["tab.n"].scaled(np.array([feed.sum()], np.float32))
    assert silent.query.numeric[0, layout.numeric.index("tab.n")] == seen[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "numeric", "fill": "none"}, "found fill = 'none', expected a finite number"),
        ({"kind": "numeric", "fill": float("nan")}, "expected a finite number"),
        ({"kind": "vector", "fill": 0.0}, "fill is for categorical, multi and numeric"),
        ({"fill": ""}, "empty text is missing"),
    ],
)
def test_a_fill_that_is_no_value_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        FeatureSpec(name="age", side="user", **changes)
