"""A full vocabulary over days: the least recent values leave, what named them says unknown, and nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.parts import Parts
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.tests.support.nonempty import nonempty

LIMIT, DAY, VALID, TEST = 4, 100, 90, 95
"""Values of a vocabulary, seconds of a day, and where in a day its validation and test parts begin."""
ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{i}" for i in range(12)],
        "genre": [f"g{i % 7}" for i in range(12)],
        "tags": [f"t{i % 5}|t{i % 6}" for i in range(12)],
    }
)


def config(number: int, *, described: bool = True, time: str = "timestamp") -> DataConfig:
    features: list[dict[str, Any]] = [
        {"name": "user_id", "side": "user", "max_rows": LIMIT},
        {"name": "item_id", "side": "item", "max_rows": LIMIT},
        {"name": "tab", "side": "context", "max_rows": LIMIT},
        {"name": "after", "column": "tab", "side": "context", "after_event": True, "max_rows": LIMIT},
    ]
    if described:
        features += [
            {"name": "genre", "side": "item", "max_rows": LIMIT},
            {"name": "tags", "side": "item", "kind": "multi", "max_rows": LIMIT},
        ]
    split = {"kind": "time", "valid_from": str(number * DAY + VALID), "test_from": str(number * DAY + TEST)}
    whole = {"events": "events", "features": features, "tasks": [{"name": "click"}], "split": split, "time": time}
    counts = [{"keys": ["user_id"], "tasks": ["click"]}]
    return DataConfig.model_validate({**whole, "counts": counts})


def a_log(seed: int, days: int = 3) -> pd.DataFrame:
    """The second day has other users, items and tabs than the first and the third."""
    rng = np.random.default_rng(seed)
    rows = 24 * days
    frame = pd.DataFrame({"timestamp": np.sort(rng.integers(0, DAY * days, rows))})
    near = frame["timestamp"] // DAY * 4
    frame["user_id"] = [f"u{n}" for n in (near + rng.integers(0, 5, rows)) % 8]
    frame["item_id"] = [f"i{n}" for n in (near + rng.integers(0, 5, rows)) % 8]
    frame["tab"] = [f"tab{n}" for n in (near + rng.integers(0, 5, rows)) % 8]
    frame["click"] = rng.integers(0, 2, rows)
    for day in range(days):  # each part of each day has rows
        frame = pd.concat([frame, *(frame.iloc[:1].assign(timestamp=day * DAY + at) for at in (1, VALID, TEST))])
    return frame.sort_values("timestamp", kind="stable").reset_index(drop=True)


def days_of(log: pd.DataFrame, recount: bool = False, **keys: Any) -> list[Dataset]:
    found: list[Dataset] = []
    for number in range(3):
        rows = log[log["timestamp"] // DAY == number]
        source = found[-1] if found else None
        tables = read_tables(rows, None, ITEMS)
        found.append(build_dataset(tables, config(number, **keys), 1, source=source, recount=recount))
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_least_recent_leave_and_no_vocabulary_exceeds_its_limit(seed: int) -> None:
    log = a_log(seed)
    days = days_of(log)
    for number, dataset in nonempty(enumerate(days)):
        known = log[log["timestamp"] < number * DAY + VALID]
        begins = (number - 1) * DAY + VALID
        for name, column in (("user_id", "user_id"), ("item_id", "item_id"), ("tab", "tab"), ("after", "tab")):
            values = list(dataset.encoders.vocabularies[name].values)
            assert len(values) == len(set(values)) <= LIMIT
            if not number:
                continue
            before = list(days[number - 1].encoders.vocabularies[name].values)
            last = known.groupby(column)["timestamp"].max()
            places = [place for place, (old, new) in enumerate(zip(before, values, strict=False)) if old != new]
            assert dataset.freed.get(name, np.empty(0)).tolist() == [place + FIRST for place in places]
            left = {before[place] for place in places}
            stale = {value for value in before if last[value] < begins}
            assert left <= stale
            assert not left or not stale - left or last[list(left)].max() <= last[list(stale - left)].min()
            seen = begins if column != "tab" else number * DAY  # earlier rows are not encoded again
            missed = {value for value in last.index if last[value] >= seen} - set(values)
            assert not missed or (left == stale and len(values) == LIMIT)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_row_never_names_a_value_that_its_event_did_not_have(seed: int) -> None:
    """Settled rows and new ones: their own value, or unknown; a value that comes back has its old rows no more."""
    log = a_log(seed)
    for number, dataset in nonempty(enumerate(days_of(log))):
        events, inside = dataset.events, log[log["timestamp"] // DAY <= number]
        order = inside.sort_values(["timestamp"], kind="stable")
        order = order.iloc[np.argsort([dataset.user_rows[user] for user in order["user_id"]], kind="stable")]
        assert np.array_equal(order["timestamp"], events.times)
        vocabulary = dataset.encoders.vocabularies["tab"]
        of_tab = dataset.row_query.codes(dataset.sides["context"].categorical.index("tab"))
        for codes in (of_tab, dataset.event_codes["after"]):
            pairs = list(zip(vocabulary.names(codes.tolist()), order["tab"], strict=True))
            assert all(named in (value, "<unknown>") for named, value in pairs)
            learned = (events.parts == Part.TRAIN) & (events.source_rows >= 0)
            owned = [value in set(vocabulary.values) for value in order["tab"]]
            assert (codes[learned & owned] != UNKNOWN).all()
        genres = dataset.items.codes(dataset.sides["item"].categorical.index("genre"))
        for item, named in zip(dataset.item_ids, dataset.encoders.vocabularies["genre"].names(genres), strict=True):
            assert named in (f"g{int(item[1:]) % 7}", "<unknown>")


@pytest.mark.parametrize("seed", range(4))
def test_appending_to_full_vocabularies_is_encoding_all_rows_again(seed: int) -> None:
    log, left = a_log(seed), 0
    for appended, whole in zip(days_of(log), days_of(log, recount=True), strict=True):
        left += sum(len(rows) for rows in appended.freed.values())
        mine, theirs = Parts.of(appended), Parts.of(whole)
        assert (mine.texts, mine.encoders) == (theirs.texts, theirs.encoders)
        assert (mine.schema["notes"], len(appended.notes)) == (theirs.schema["notes"], len(appended.freed))
        for name in [n for n in mine.arrays if n.startswith(("users", "items", "event_codes", "row_query/wide"))]:
            assert np.array_equal(mine.arrays[name], theirs.arrays[name]), name
        context = range(len(appended.sides["context"].categorical))
        assert all(np.array_equal(appended.row_query.codes(c), whole.row_query.codes(c)) for c in context)
    assert left > 5


def test_items_of_which_only_the_id_is_known_keep_their_rows() -> None:
    log = a_log(1)
    assert "item_id" in set().union(*(day.freed for day in days_of(log)))
    days = days_of(log, described=False)
    assert "item_id" not in set().union(*(day.freed for day in days))
    assert len({tuple(day.encoders.vocabularies["item_id"].values) for day in days}) == 1


def test_without_times_nobody_knows_who_is_the_least_recent() -> None:
    log = a_log(1)
    tables = read_tables(log, None, ITEMS)
    keys: dict[str, Any] = {"time": "", "split": {"kind": "random"}}
    untimed = config(0).model_copy(update={"time": ""})
    untimed = DataConfig.model_validate({**untimed.model_dump(exclude={"split"}), **keys})
    before = build_dataset(read_tables(log.iloc[:30], None, ITEMS), untimed, 1)
    after = build_dataset(tables, untimed, 1, source=before)
    assert not after.freed
    assert list(after.encoders.vocabularies["tab"].values) == list(before.encoders.vocabularies["tab"].values)
