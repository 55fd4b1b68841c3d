"""Derived features: what a reader computes by hand, the same for a row of the log and for the same values asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.base.arrays import F64, AnyArray
from recsys.base.errors import DataError
from recsys.data import store
from recsys.data.batch import Block, SideLayout
from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.encoding.numeric import NumericEncoder
from recsys.data.hashing import hash_column
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.vocabulary import UNKNOWN
from recsys.nn.features import FeatureConfig, FeatureEncoder
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

START = 1_650_000_000
"""Friday, 15 April 2022, 05:20 UTC; an event of the shop lies `timestamp` hours after it."""
DERIVED: list[dict[str, Any]] = [
    {"name": "hour of day", "kind": "hour", "utc_offset": 8},
    {"name": "weekday", "kind": "weekday"},
    {"name": "signup hour", "kind": "hour", "inputs": ["user.signup"]},
    {"name": "since last", "kind": "since", "fill": -1.0},
    {"name": "item age", "kind": "since", "inputs": ["item.released"], "scale": "standard"},
    {"name": "dear", "kind": "ratio", "inputs": ["item.price", "user.age"], "bins": 8},
    {"name": "city x genre", "kind": "cross", "inputs": ["user.city", "item.genre"], "hash_buckets": 50},
    {"name": "tab x genre", "kind": "cross", "inputs": ["context.tab", "item.genre"], "min_count": 40},
    {"name": "page share", "kind": "ratio", "inputs": ["context.hour", "context.stars_shown"], "edges": [0.5, 2, 5]},
]
OF_CONTEXT = {"tab x genre", "page share"}


def tables(shop: Shop) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    events, users, items = shop.events.copy(), shop.users.copy(), shop.items.copy()
    events["timestamp"] = START + 3600 * events["timestamp"]
    events["stars_shown"] = events["stars"].where(np.arange(len(events)) % 7 > 0, 0)
    users["signup"] = [f"2022-04-{1 + u % 9:02d}T{u:02d}:30:00" for u in range(len(users))]
    items["released"] = [None if i == 4 else str(START - 86_400 * i) for i in range(len(items))]
    return events, users, items


def built(shop: Shop, events: pd.DataFrame | None = None, source: Dataset | None = None, later: int = 0) -> Dataset:
    log, users, items = tables(shop)
    valid, test = (str(START + 3600 * cut + later) for cut in shop.CUTS)
    split = {"kind": "time", "valid_from": valid, "test_from": test}
    given = log if events is None else events
    return build_dataset(
        read_tables(given, users, items), shop.config(derived=DERIVED, split=split), seed=1, source=source
    )


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    return built(shop)


def columns(layout: SideLayout, block: Block) -> dict[str, torch.Tensor]:
    """Codes and numbers of the derived features, by name and form."""
    found = {f"{n} code": block.categorical[:, i] for i, n in enumerate(layout.categorical) if n in NAMES}
    return found | {f"{n} number": block.numeric[:, i] for i, n in enumerate(layout.numeric) if n in NAMES}


NAMES = {one["name"] for one in DERIVED}


def plain(shop: Shop, dataset: Dataset) -> dict[str, F64]:
    """Every number computed from the tables, one event row after the other."""
    log, users, items = tables(shop)
    rows = log.iloc[dataset.events.source_rows]
    rows = rows.merge(users, on="user_id", how="left").merge(items, on="item_id", how="left")
    moment = pd.to_datetime(rows["timestamp"], unit="s")
    past: dict[int, list[tuple[float, int]]] = {}
    since = []
    for user, when, part in zip(dataset.events.users, dataset.events.times, dataset.events.parts, strict=True):
        known = [t for t, p in past.get(user, []) if t < when and (p < part or part == Part.TRAIN)]
        since.append(when - max(known) if known else -1.0)
        past.setdefault(user, []).append((when, part))
    ratio = rows["hour"] / rows["stars_shown"].where(rows["stars_shown"] != 0)
    return {
        "hour of day": (moment + pd.Timedelta(hours=8)).dt.hour.to_numpy(float),
        "weekday": moment.dt.day_of_week.to_numpy(float),
        "signup hour": pd.to_datetime(rows["signup"]).dt.hour.to_numpy(float),
        "since last": np.array(since),
        "item age": rows["timestamp"].to_numpy(float) - pd.to_numeric(rows["released"]).to_numpy(float),
        "dear": (rows["price"] / rows["age"]).to_numpy(float),
        "page share": ratio.to_numpy(float),
    }


def test_rows_hold_what_a_reader_computes(shop: Shop, dataset: Dataset) -> None:
    batch, encoders = dataset.batch(torch.arange(len(dataset.events))), dataset.encoders
    found = columns(dataset.layout.query, batch.query) | columns(dataset.layout.item, batch.item)
    expected = plain(shop, dataset)
    train = dataset.events.parts == Part.TRAIN
    for name, values in expected.items():
        numbers = values.astype(np.float32)
        spec = next(one for one in dataset.config.derived if one.name == name)
        learned = NumericEncoder.fit(numbers[train], spec.bins, spec.scale, spec.edges)
        assert repr(encoders.numerics[name].state()) == repr(learned.state()), name  # NaN is NaN here
        assert np.array_equal(found[f"{name} code"].numpy(), learned.buckets(numbers)), name
        np.testing.assert_array_equal(found[f"{name} number"].numpy(), learned.scaled(numbers))
    assert len(np.unique(expected["weekday"])) == 7
    assert np.isnan(expected["item age"]).any()
    assert found["page share code"].unique().tolist() == [UNKNOWN, 3, 4, 5, 6]  # nothing, then one bucket per interval


def test_a_cross_has_a_row_per_combination(dataset: Dataset) -> None:
    batch = dataset.batch(torch.arange(len(dataset.events)))
    side, block = dataset.layout.item, batch.item
    genre = block.categorical[:, side.categorical.index("genre")].numpy()
    query = dataset.layout.query.categorical
    train = dataset.events.parts == Part.TRAIN
    for name, other, least in (("city x genre", "city", 1), ("tab x genre", "tab", 40)):
        first = batch.query.categorical[:, query.index(other)].numpy()
        codes = block.categorical[:, side.categorical.index(name)].numpy()
        missing = first == dataset.encoders.missing_row(other)
        seen = pd.Series(train).groupby([first, genre]).transform("sum").to_numpy()
        assert np.array_equal(codes == UNKNOWN, missing | (seen < least)), name
        assert (pd.Series(codes).groupby([first, genre]).nunique() == 1).all()
        assert len(np.unique(codes)) > 4
    assert (codes == UNKNOWN).any()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_same_values_asked_for_are_encoded_as_in_the_row(dataset: Dataset, data: st.DataObject) -> None:
    """A row of the test part and a request at its time; and a user's last row, for what is read from the context."""
    events = dataset.events
    later = np.flatnonzero(events.parts == Part.TEST)
    last = np.flatnonzero(np.append(events.users[1:] != events.users[:-1], True))
    for rows, moment, of_context in ((later, int(Part.TEST), False), (last, NOW, True)):
        chosen = np.array(data.draw(st.lists(st.sampled_from(rows.tolist()), min_size=1, max_size=6)))
        logged = dataset.batch(torch.from_numpy(chosen))
        users, items = events.users[chosen], events.items[chosen, None]
        asked = dataset.candidates(users, items, moment, events.times[chosen])
        layout = dataset.layout
        for side, one, other in ((layout.query, logged.query, asked.query), (layout.item, logged.item, asked.item)):
            mine, theirs = columns(side, one), columns(side, other)
            names = [name for name in mine if (name.rpartition(" ")[0] in OF_CONTEXT) == of_context]
            for name in nonempty(names):
                assert torch.equal(mine[name].nan_to_num(-9.0), theirs[name].nan_to_num(-9.0)), name


def test_a_request_of_a_part_stands_at_the_users_first_event_of_it(dataset: Dataset) -> None:
    events = dataset.events
    users = np.arange(dataset.num_users)
    for part in (Part.VALID, Part.TEST):
        later = events.parts >= part
        own = [events.times[later & (events.users == user)] for user in users]
        expected = [times.min() if len(times) else events.times[later].min() for times in own]
        assert dataset.request_times(users, part).tolist() == expected


def test_what_later_rows_say_changes_nothing_that_was_learned(shop: Shop, dataset: Dataset) -> None:
    log = tables(shop)[0]
    late = log["timestamp"] >= START + 3600 * shop.CUTS[0]
    for name, value in (("tab", "new"), ("hour", 900.0), ("stars_shown", 3)):
        log.loc[late, name] = value
    log.loc[late, "timestamp"] += 1800
    assert repr(built(shop, log).encoders.state()) == repr(dataset.encoders.state())


def test_it_is_kept_and_goes_on(shop: Shop, dataset: Dataset, tmp_path: Path) -> None:
    store.save_dataset(dataset, tmp_path)
    kept = store.load_dataset(tmp_path.joinpath)
    users, items = np.arange(24), np.tile(np.arange(20), (24, 1))
    asked = [one.candidates(users, items, NOW, np.full(24, START + 1e6)) for one in (dataset, kept)]
    assert torch.equal(asked[0].item.numeric.nan_to_num(-9.0), asked[1].item.numeric.nan_to_num(-9.0))
    assert torch.equal(asked[0].query.categorical, asked[1].query.categorical)
    day = tables(shop)[0]
    day["timestamp"] += 3600 * 400
    second = built(shop, day, source=kept, later=3600 * 400)
    carried = np.flatnonzero(second.events.source_rows < 0)
    assert len(carried) == len(dataset.events)
    order = np.lexsort((dataset.events.times, dataset.events.users))
    in_order = np.lexsort((second.events.times[carried], second.events.users[carried]))
    again = second.batch(torch.from_numpy(carried[in_order]))
    first = dataset.batch(torch.from_numpy(order))
    trained = torch.from_numpy(dataset.events.parts[order] == Part.TRAIN)
    for layout, mine, theirs in (
        (dataset.layout.query, first.query, again.query),
        (dataset.layout.item, first.item, again.item),
    ):
        one, other = columns(layout, mine), columns(layout, theirs)
        for name in [name for name in one if not name.startswith("tab x genre")]:  # more combinations have a row now
            rows = trained if name.startswith("since last") else torch.ones_like(trained)  # held-out rows know more now
            assert torch.equal(one[name][rows].nan_to_num(-9.0), other[name][rows].nan_to_num(-9.0)), name


def test_models_read_them(dataset: Dataset) -> None:
    batch = dataset.candidates(np.arange(4), np.tile(np.arange(6), (4, 1)), NOW)
    encoder = FeatureEncoder(dataset.layout, FeatureConfig())
    assert encoder(batch).split().item.shape[0] == 24
    assert encoder.table.sizes["city x genre"] == 52


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"kind": "ratio", "inputs": ["item.price"]}, "ratio takes 2 inputs, found 1"),
        ({"kind": "cross", "inputs": ["city", "item.genre"]}, 'found input "city", expected a side and a column'),
        ({"kind": "hour", "edges": [3, 1]}, "edges are ascending"),
        ({"kind": "cross", "inputs": ["context.click", "user.city"]}, "known only after the event"),
        ({"kind": "cross", "inputs": ["context.stars", "user.city"]}, "known only after the event"),
        ({"name": "genre", "kind": "hour"}, "a feature has this name too"),
    ],
)
def test_what_cannot_be_computed_is_refused(shop: Shop, spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        shop.config(derived=[{"name": "x", **spec}])


def test_time_since_the_row_before_asks_for_a_split_in_time(shop: Shop) -> None:
    with pytest.raises(ValidationError, match=r"asks for data\.user and a split in time"):
        shop.config("random", derived=[{"name": "x", "kind": "since"}])
    with pytest.raises(ValidationError, match=r"data\.time is empty"):
        shop.config(time="", derived=[{"name": "x", "kind": "hour"}])


def test_an_input_that_is_not_there_is_named(shop: Shop) -> None:
    for kind, inputs in (("cross", ["user.town", "item.genre"]), ("since", ["item.birth"])):
        with pytest.raises(DataError, match=r'no column "(town|birth)"'):
            shop.dataset(derived=[{"name": "x", "kind": kind, "inputs": inputs}])
    with pytest.raises(DataError, match=r"a time between 1970 and 2200|an ISO date"):
        shop.dataset(derived=[{"name": "x", "kind": "since", "inputs": ["item.genre"]}])


def hashes(values: list[str | None]) -> AnyArray:
    import pyarrow as pa

    return hash_column(pa.array(values, pa.string()))


def test_hashes_of_a_column_are_those_of_its_texts() -> None:
    found = hashes(["a", None, "b", "a", ""])
    assert found[1] == found[4] == 0
    assert found[0] == found[3] != found[2]
