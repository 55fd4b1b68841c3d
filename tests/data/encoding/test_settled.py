"""Rows appended to what a run learned from: the data set is the one that all rows, encoded again, would have given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.base.arrays import AnyArray
from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.encoding import settled
from recsys.data.parts import Parts
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

CUTS = ((150, 175), (230, 260), (300, 320))
"""Where validation and test begin on each day; the log of a day ends 25 seconds after its test begins."""
ENDS = (200, 280, 340)
DERIVED = [
    {"name": "pause", "kind": "since", "bins": 4},
    {"name": "clock", "kind": "weekday"},
    {"name": "place", "kind": "cross", "inputs": ["user.city", "context.tab"], "hash_buckets": 300, "min_count": 2},
    {"name": "worth", "kind": "ratio", "inputs": ["item.price", "context.hour"]},
]


@pytest.fixture(scope="module")
def log(shop: Shop) -> pd.DataFrame:
    """The shop's log; every day brings users, items and tabs of its own, one more tabs than a byte counts."""
    rng = np.random.default_rng(3)
    frame = shop.events.copy()
    for day, (start, end) in enumerate(zip((0, *ENDS), ENDS, strict=False)):
        inside = frame.index[(frame["timestamp"] >= start) & (frame["timestamp"] < end)]
        for column in ("user_id", "item_id", "tab"):
            chosen = rng.choice(inside, len(inside) // 5, replace=False)
            frame.loc[chosen, column] = f"{column} of day {day}"
    second = frame.index[(frame["timestamp"] >= ENDS[0]) & (frame["timestamp"] < CUTS[1][0])]
    return pd.concat([frame, *([frame.loc[second].assign(tab=[f"{n} {i}" for i in second]) for n in range(9)])])


def day(
    shop: Shop, log: pd.DataFrame, number: int, source: Dataset | None, recount: bool = False, **keys: Any
) -> Dataset:
    start, end = (0, *ENDS)[number], ENDS[number]
    rows = log[(log["timestamp"] >= start) & (log["timestamp"] < end)]
    users, items = keys.pop("users", shop.users), keys.pop("items", shop.items)
    split = {"kind": "time", "valid_from": str(CUTS[number][0]), "test_from": str(CUTS[number][1])}
    config = shop.config(**{"split": split, "derived": DERIVED, **keys})
    return build_dataset(read_tables(rows, users, items), config, 1, source=source, recount=recount)


def assert_equal(appended: Dataset, whole: Dataset) -> None:
    """Every array, text and number; of the settled rows all but the computed columns, which nothing reads any more."""
    mine, theirs = Parts.of(appended), Parts.of(whole)
    assert (mine.schema, mine.encoders) == (theirs.schema, theirs.encoders)
    assert mine.texts == theirs.texts
    assert mine.arrays.keys() == theirs.arrays.keys()
    read = appended.events.parts > Part.PRIOR
    assert 0 < read.sum() < len(read)
    for name, array in nonempty(theirs.arrays.items()):
        found = mine.arrays[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape), name
        if not name.startswith(("row_query", "row_item")):
            assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f"), name
    for table in ("row_query", "row_item"):
        one, other = getattr(appended, table).whole(), getattr(whole, table).whole()
        kept = [len(whole.sides["context"].categorical), len(whole.sides["context"].numeric)]
        kept = kept if table == "row_query" else [0, 0]
        for width, pair in zip(kept, ((one.categorical, other.categorical), (one.numeric, other.numeric)), strict=True):
            ours, all_again = (values.nan_to_num(-9.0).numpy() for values in pair)
            assert np.array_equal(ours[:, :width], all_again[:, :width])
            assert np.array_equal(ours[read], all_again[read])
        assert all(np.array_equal(*pair) for pair in zip(one.bags, other.bags, strict=True))


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("memory", ["1TB", "1kB"])
@pytest.mark.parametrize("step", [7, 1000])
def test_appending_is_encoding_all_rows_again(
    shop: Shop, log: pd.DataFrame, tmp_path: Path, parts_of: Callable[[int], None], listed: bool, memory: str, step: int
) -> None:
    """Day after day, through files, with and without a table of users, in memory and out of it."""
    parts_of(step)
    keys: dict[str, Any] = {"memory": memory} | ({} if listed else {"users": None})
    if not listed:
        sequences = [f for f in shop.config().features if f.name not in ("city", "age", "clicked")]
        keys |= {"features": [f.model_dump() for f in sequences], "derived": DERIVED[:2]}
    source = day(shop, log, 0, None, **keys)
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        store.save_dataset(source, folder)
        source = store.load_dataset(folder.joinpath)
        appended, whole = (day(shop, log, number, source, recount, **keys) for recount in (False, True))
        assert_equal(appended, whole)
        source = appended


@pytest.fixture
def parts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of rows that are read together."""

    def limit(rows: int) -> None:
        for module in ("interleaved", "settled", "counts", "groups"):
            monkeypatch.setattr(f"recsys.data.encoding.{module}.STEP", rows)

    return limit


def copied(monkeypatch: pytest.MonkeyPatch) -> list[AnyArray]:
    """The rows that were held out, of every append from now on."""
    found: list[AnyArray] = []
    joined = settled.Settled.joined

    def noted(self: settled.Settled, later: Dataset) -> Dataset:
        found.append(self.held_out)
        return joined(self, later)

    monkeypatch.setattr(settled.Settled, "joined", noted)
    return found


def test_a_number_of_rows_over_two_to_the_24_is_counted_on_exactly(shop: Shop, log: pd.DataFrame) -> None:
    """Float32 does not hold 2**24 + 1: the counters are whole numbers."""
    source = day(shop, log, 0, None)
    table = source.counts[0]
    assert table.sums is not None
    table.sums.seen[:] = 2**24 + 1
    after = day(shop, log, 1, source).counts[0]
    assert after.sums is not None
    assert (after.sums.seen[: len(table.keys)] > 2**24).all()
    assert (after.sums.seen[after.sums.seen > 2**24] % 2 == 0).any()
    assert (after.sums.seen[after.sums.seen > 2**24] % 2 == 1).any()


@pytest.mark.parametrize("why", ["an earlier version", "a key that moved", "a split per user", "rows given again"])
def test_where_counters_do_not_hold_all_rows_are_encoded_again(
    shop: Shop, log: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    appends = copied(monkeypatch)
    source = day(shop, log, 0, None)
    assert len(day(shop, log, 1, source).events) == (log["timestamp"] < ENDS[1]).sum()
    assert len(appends) == 1
    if why == "an earlier version":
        parts = Parts.of(source)
        old = {name: array for name, array in parts.arrays.items() if not name.startswith("sums/")}
        source = Parts(old, parts.texts, parts.encoders, parts.schema).dataset()
        after = day(shop, log, 1, source)
    elif why == "a key that moved":
        after = day(shop, log, 1, source, items=shop.items.assign(genre=np.roll(shop.items["genre"], 1)))
        again = day(shop, log, 1, source, True, items=shop.items.assign(genre=np.roll(shop.items["genre"], 1)))
        assert np.array_equal(after.counts[2].positives, again.counts[2].positives)
    elif why == "a split per user":
        source = day(shop, log, 0, None, split={"kind": "leave_last"})
        after = day(shop, log, 1, source)
    else:
        second = log[(log["timestamp"] >= ENDS[0] - 20) & (log["timestamp"] < ENDS[1])]
        config = shop.config(split={"kind": "time", "valid_from": "230", "test_from": "260"}, derived=DERIVED)
        after = build_dataset(read_tables(second, shop.users, shop.items), config, 1, source=source)
    assert len(appends) == 1
    assert len(after.events) == (log["timestamp"] < ENDS[1]).sum()
