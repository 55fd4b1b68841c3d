"""Ids of the events and of the other tables: what does not meet is told with its cause."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from recsys.base.errors import DataError
from recsys.data.build import build_dataset
from recsys.data.joins import join_notes
from recsys.data.reading.readers import read_tables
from recsys.data.reading.tables import Tables
from recsys.data.schema import DataConfig
from recsys.data.split_spec import SplitSpec

CONFIG = DataConfig(time="", title="title", split=SplitSpec(kind="random"))


def tables_of(seen: list[Any], listed: list[Any]) -> Tables:
    events = {"user_id": ["u"] * len(seen), "item_id": seen}
    return read_tables(pa.table(events), None, pa.table({"item_id": listed, "title": [f"T{i}" for i in listed]}))


@pytest.mark.parametrize(
    ("seen", "listed", "why"),
    [
        (["1.0", "2.0"], ["1", "2"], 'the events frame says "1.0" and the items frame "1"; write whole numbers'),
        (["1", "2"], ["1.0", "2.0"], 'the events frame says "1" and the items frame "1.0"; write whole numbers'),
        ([" 1", " 2"], ["1", "2"], 'says " 1" and the items frame "1"; write them without blanks'),
        (["1", "2"], ["001", "002"], 'says "1" and the items frame "001"; write the same leading zeros'),
        (["ab", "cd"], ["AB", "CD"], 'says "ab" and the items frame "AB"; write the same capital letters'),
        (["x", "y"], ["1", "2"], 'correct "item_id" in one of them, or leave the items table out'),
    ],
)
def test_tables_without_a_common_id_are_refused_with_the_cause(seen: list[Any], listed: list[Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        build_dataset(tables_of(seen, listed), CONFIG, 0)
    assert str(caught.value).startswith("the events frame and the items frame have no id in common: 2 of the 2 items")
    assert why in str(caught.value)


def test_a_few_unlisted_ids_are_a_note_of_the_data_set() -> None:
    tables = tables_of(["1", "2", "3.0", "2", "1", "2", "1", "2", "1", "2"], ["1", "2", "3", "4"])
    dataset = build_dataset(tables, CONFIG, 0)
    assert dataset.notes == (
        "1 of the 3 items with events are not in the items table; their features are missing: the events frame says "
        '"3.0" and the items frame "3"; write whole numbers without ".0".',
    )
    assert join_notes(tables_of(["1", "9"], ["1", "2"]), CONFIG) == [
        "1 of the 2 items with events are not in the items table; their features are missing."
    ]
    assert join_notes(tables_of(["1", "2"], ["1", "2"]), CONFIG) == []


def test_ids_of_different_types_meet() -> None:
    assert join_notes(tables_of([1.0, 2.0], ["1", "2"]), CONFIG) == []
    assert join_notes(tables_of([1, 2], [1.0, 2.0]), CONFIG) == []
