"""A built data set equals the one worked out row by row, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.data.build import build_dataset
from recsys.data.reading.readers import read_tables
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
