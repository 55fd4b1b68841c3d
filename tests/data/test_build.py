"""A built data set equals the one worked out row by row, to the last bit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.build import build_dataset
from recsys.data.encoding import numeric
from recsys.data.reading.readers import read_tables
from recsys.data.reading.stored import StoredTable
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.tests.support.plain_build import PlainBuild, arrays_of, differences
from recsys.tests.support.shop import Shop

KINDS = ("time", "leave_last", "random", "column")
PLAIN = ("user_id", "city", "age", "item_id", "genre", "tags", "price", "tab", "hour", "stars", "recent", "clicked")
"""Features of the shop that the plain build knows."""


def shop_config(shop: Shop, kind: str) -> DataConfig:
    """The shop's schema without vectors and without what happened before the log."""
    whole = shop.config(kind)
    features = [
        spec.model_copy(update={"prior": ""}) if spec.kind == "sequence" else spec
        for spec in whole.features
        if spec.name in PLAIN
    ]
    return whole.model_copy(update={"features": tuple(features)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("listed", [True, False])
def test_the_shop_is_built_as_by_hand(shop: Shop, kind: str, listed: bool) -> None:
    events = shop.events if kind != "time" else shop.events.sample(frac=1.0, random_state=3)  # and out of time order
    config = shop_config(shop, kind)
    if not listed:
        config = config.model_copy(
            update={"features": tuple(s for s in config.features if s.name not in ("city", "age"))}
        )
    users = shop.users if listed else None
    built = build_dataset(read_tables(events, users, shop.items), config, seed=4)
    assert differences(PlainBuild(events, users, shop.items, config, 4).arrays(), arrays_of(built)) == []


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("mapped", [True, False])
def test_neither_the_size_of_the_parts_nor_where_they_lie_changes_a_bit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, rows: int, mapped: bool
) -> None:
    """Rows that are typed, counted and encoded together; columns in memory and in files."""
    whole = shop.dataset("time")
    for name, module in list(sys.modules.items()):
        if name.startswith(("recsys.base", "recsys.data")) and hasattr(module, "STEP"):
            monkeypatch.setattr(module, "STEP", rows)
    monkeypatch.setattr(numeric, "BLOCK", max(rows, 128))  # numpy cuts no shorter sum
    tables = replace(read_tables(shop.events, shop.users, shop.items), step=rows)
    config = shop.config("time", memory="1kB" if mapped else "1TB")
    built = build_dataset(tables, config, seed=1)
    assert differences(arrays_of(whole), arrays_of(built)) == []
    assert built.encoders.state() == whole.encoders.state()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_no_bit(shop: Shop, workers: int) -> None:
    tables = read_tables(shop.events, shop.users, shop.items)
    one, more = (build_dataset(tables, shop.config("time", workers=count), seed=1) for count in (1, workers))
    assert len(one.counts) > 1
    assert differences(arrays_of(one), arrays_of(more)) == []
    assert json.dumps(one.encoders.state(), default=list) == json.dumps(more.encoders.state(), default=list)


def test_parquet_that_stays_on_disk_is_built_as_a_frame(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    shop.events.to_parquet(file, row_group_size=90)
    config = shop.config("time", on_bad_rows="drop")
    on_disk = read_tables(file, shop.users, shop.items, stored=True)
    assert isinstance(on_disk.events, StoredTable)
    expected = build_dataset(read_tables(shop.events, shop.users, shop.items), config, seed=1)
    assert differences(arrays_of(expected), arrays_of(build_dataset(on_disk, config, seed=1))) == []
    spoilt = shop.events.assign(click=shop.events["click"].where(shop.events.index % 50 != 7, 3))
    spoilt.to_parquet(file)
    bad = BadRows("drop")
    built = build_dataset(read_tables(file, shop.users, shop.items, stored=True), config, 1, bad)
    assert bad.count("events") == len(shop.events) - len(built.events) == 10
    assert bad.records[0].place == "row 8"
    kept = spoilt[spoilt["click"] != 3].reset_index(drop=True)
    again = build_dataset(read_tables(kept, shop.users, shop.items), config, seed=1)
    assert differences(arrays_of(again), arrays_of(built)) == []


@st.composite
def logs(draw: st.DrawFn) -> tuple[pd.DataFrame, DataConfig, int]:
    """A log of a few users and items, and a schema of it whose columns all stand in the events."""
    rows = draw(st.integers(8, 60))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    times = rng.integers(0, draw(st.sampled_from([3, 20, 1000])), rows)
    price = rng.choice(
        [0.0, 1.0, 2.5, 1e6, -3.0, np.nan],
        rows,
        p=draw(st.sampled_from([(0.5, 0.5, 0, 0, 0, 0), (0.2, 0.2, 0.2, 0.1, 0.1, 0.2)])),
    )
    like = rng.choice([0.0, 1.0, np.nan], rows)
    events = pd.DataFrame(
        {
            "user_id": rng.integers(0, draw(st.integers(1, 12)), rows),
            "item_id": [f"i{i}" for i in rng.integers(0, draw(st.integers(1, 15)), rows)],
            "timestamp": np.sort(times) if draw(st.booleans()) else times,
            "tab": rng.choice(["a", "b", "c", None], rows),
            "price": price,
            "click": rng.integers(0, 2, rows),
            "like": like,
        }
    )
    kind = draw(st.sampled_from(["leave_last", "random", "time"]))
    scale = draw(st.sampled_from(["log", "standard", "equal_frequency", "none"]))
    counted = "log" if scale == "none" else scale
    bins = draw(st.integers(1, 5))
    features: list[dict[str, Any]] = [
        {"name": "user_id", "side": "user"},
        {"name": "item_id", "side": "item", "min_count": draw(st.integers(1, 3))},
        {"name": "tab", "side": "context"},
        {"name": "price", "side": "context", "kind": "numeric", "bins": bins, "scale": scale},
        {"name": "clicked", "side": "user", "kind": "sequence", "of": ["item_id"], "where": "click"},
    ]
    config = DataConfig.model_validate(
        {
            "events": "events",
            "features": features,
            "tasks": [{"name": "click"}, {"name": "like", "where": draw(st.sampled_from(["", "click"]))}],
            "counts": [
                {"keys": ["item_id"], "tasks": ["click", "like"], "bins": bins, "scale": counted},
                {"keys": ["user_id", "tab"], "tasks": ["like"], "smoothing": 3.0},
            ],
            "split": {"kind": kind, "valid": 0.2, "test": 0.2},
        }
    )
    return events, config, seed


@given(logs())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_log_is_built_as_by_hand(log: tuple[pd.DataFrame, DataConfig, int]) -> None:
    events, config, seed = log
    by_hand = PlainBuild(events, None, None, config, seed)
    assume({Part.TRAIN, Part.TEST} <= set(by_hand.part))
    built = build_dataset(read_tables(events), config, seed)
    assert differences(by_hand.arrays(), arrays_of(built)) == []
