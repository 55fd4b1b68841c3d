"""Raw item columns that stay with the data set: texts, lists and numbers, exactly as the tables have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.base.errors import DataError
from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.encoding.attributes import TextColumn, numbers_or_texts
from recsys.data.reading.readers import read_tables
from recsys.tests.support.shop import Shop

LISTS = st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=8)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.sets(st.sampled_from("abc")), st.integers(0, 8))
def test_an_item_passes_when_any_of_its_texts_does(lists: list[list[str]], wanted: set[str], count: int) -> None:
    column = TextColumn.several(pa.array(["|".join(texts) for texts in lists], pa.string()), "|")
    passed = np.array([value in wanted for value in column.values], dtype=bool)
    expected = [bool(wanted & set(texts)) for texts in lists]
    assert len(column) == len(lists)
    assert column.where(passed).tolist() == expected
    assert column.first(min(count, len(lists))).where(passed).tolist() == expected[:count]


def test_nothing_is_no_text() -> None:
    column = TextColumn.single(pa.array(["x", None, "", "y", "x"]))
    assert sorted(column.values) == ["x", "y"]
    assert column.where(np.ones(2, dtype=bool)).tolist() == [True, False, False, True, True]


def test_a_column_of_numbers_is_numbers() -> None:
    numbers = numbers_or_texts(pa.array(["1.5", None, "", "1e3"]))
    assert isinstance(numbers, np.ndarray)
    assert np.array_equal(numbers, [1.5, np.nan, np.nan, 1000.0], equal_nan=True)
    assert isinstance(numbers_or_texts(pa.array(["1.5", "two"])), TextColumn)
    assert isinstance(numbers_or_texts(pa.array(["", None])), TextColumn)


@pytest.fixture
def items(shop: Shop) -> pd.DataFrame:
    """The shop's items with a column no model reads, a number beyond single precision, and one item nobody met."""
    table = shop.items.copy()
    table["price"] = table["price"].astype(float)
    table.loc[0, "price"] = 1_700_000_001.0
    table["colour"] = ["red", None] * (len(table) // 2)
    new = {"item_id": "i99", "genre": "unheard", "tags": "a|z", "price": 3.3, "text": "1|2|3", "colour": "blue"}
    return pd.concat([table, pd.DataFrame([new])], ignore_index=True)


def test_the_columns_come_back_from_disk_as_the_tables_had_them(
    shop: Shop, items: pd.DataFrame, tmp_path: Path
) -> None:
    config = shop.config(title="colour", attributes=["text"])
    dataset = build_dataset(read_tables(shop.events, shop.users, items), config, seed=1)
    store.save_dataset(dataset, tmp_path)
    table = items.set_index("item_id").loc[list(dataset.item_ids[: dataset.num_catalogue])]
    for one in (dataset, store.load_dataset(tmp_path.joinpath)):
        columns = one.item_columns
        assert sorted(columns) == ["colour", "genre", "item_id", "price", "tags", "text"]
        assert np.array_equal(columns["price"], table["price"], equal_nan=True)
        for name, value, expected in (
            ("genre", "unheard", table["genre"] == "unheard"),  # of no training row: no vocabulary knows it
            ("tags", "z", table["tags"].str.contains("z")),
            ("colour", "red", table["colour"] == "red"),
            ("item_id", "i99", table.index == "i99"),
            ("text", "1|2|3", table["text"] == "1|2|3"),
        ):
            column = columns[name]
            assert isinstance(column, TextColumn)
            asked = np.array([text == value for text in column.values])
            assert column.where(asked).tolist() == list(expected), name


def test_a_column_that_does_not_exist_or_is_kept_already_is_refused(shop: Shop) -> None:
    with pytest.raises(DataError, match=r'no column "colour" in the items table'):
        shop.dataset(attributes=["colour"])
    with pytest.raises(ValueError, match='"genre" is an item feature, so it is kept already'):
        shop.config(attributes=["genre"])
