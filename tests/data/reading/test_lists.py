"""A cell of several values is the same in every form: separated text, lists of any container and value type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recsys.base.errors import DataError
from recsys.data.build import build_dataset
from recsys.data.infer.schema import infer_schema
from recsys.data.reading.lists import as_several, split_values
from recsys.data.reading.readers import read_tables
from recsys.tests.support.shop import Shop

CELLS: list[list[str] | None] = [["7", "5"], None, [], ["5", "12"], ["7", "7"]]
WHOLE = [None if cell is None else [int(value) for value in cell] for cell in CELLS]
GAPS = [[7, None], [None, None], None, [5, 12], [7, 5]]
"""Rows of two, for lists of one length."""


def parquet(folder: Path, values: pa.Array) -> Path:
    pl.from_arrow(pa.table({"tags": values})).write_parquet(folder / "t.parquet")  # type: ignore[union-attr]
    return folder / "t.parquet"


FORMS: dict[str, Callable[[Path], Any]] = {
    "text": lambda _: pd.DataFrame({"tags": [None if cell is None else " | ".join(cell) for cell in CELLS]}),
    "arrow": lambda _: pa.table({"tags": pa.array(CELLS)}),
    "large": lambda _: pa.table({"tags": pa.array(WHOLE, pa.large_list(pa.int32()))}),
    "dictionary": lambda _: pa.table({"tags": pa.array(CELLS, pa.list_(pa.dictionary(pa.int8(), pa.string())))}),
    "pandas": lambda _: pd.DataFrame({"tags": CELLS}),
    "arrays": lambda _: pd.DataFrame({"tags": [None if c is None else np.array(c, dtype=float) for c in WHOLE]}),
    "mixed": lambda _: pd.DataFrame({"tags": [["7", 5], *CELLS[1:]]}),
    "polars": lambda _: pl.DataFrame({"tags": WHOLE}),
    "categories": lambda _: pl.DataFrame({"tags": CELLS}, schema={"tags": pl.List(pl.Categorical)}),
    "parquet": lambda folder: parquet(folder, pa.array(CELLS)),
    "parquet of numbers": lambda folder: parquet(folder, pa.array(WHOLE)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_values(tmp_path: Path, form: str) -> None:
    column = as_several(read_tables(FORMS[form](tmp_path)), "events", "tags")
    values, ptr = split_values(column.take(pa.array([3, None, 0, 1, 2, 4])), "|")
    assert values.to_pylist() == ["5", "12", "7", "5", "7", "7"]
    assert ptr.tolist() == [0, 2, 2, 4, 4, 4, 6]


@pytest.mark.parametrize(
    "frame",
    [
        pa.table({"tags": pa.array(GAPS, pa.list_(pa.int64(), 2))}),
        pl.DataFrame({"tags": GAPS}, schema={"tags": pl.Array(pl.Int64, 2)}),
    ],
)
def test_lists_of_one_length_lose_what_is_missing(frame: Any) -> None:
    values, ptr = split_values(as_several(read_tables(frame), "events", "tags"), "|")
    assert values.to_pylist() == ["7", "5", "12", "7", "5"]
    assert ptr.tolist() == [0, 1, 1, 1, 3, 5]


def test_a_data_set_of_lists_is_that_of_separated_text(shop: Shop) -> None:
    def listed(texts: pd.Series[str], separator: str) -> list[list[str]]:
        return [[part for part in text.split(separator) if part] for text in texts]

    config = shop.config(attributes=["labels"])
    items = shop.items.assign(labels=shop.items["tags"])
    text = build_dataset(read_tables(shop.events, shop.users, items), config, seed=1)
    tags, before = listed(items["tags"], "|"), listed(shop.users["before"], " ")
    vectors = [[float(part) for part in cell] for cell in listed(items["text"], "|")]
    lists = build_dataset(
        read_tables(
            shop.events,
            pl.from_pandas(shop.users).with_columns(before=pl.Series(before)),
            items.assign(tags=tags, labels=tags, text=vectors),
        ),
        config,
        seed=1,
    )
    assert [bag.tolist() for bag in lists.items.bags] == [bag.tolist() for bag in text.items.bags]
    assert [part.tolist() for part in lists.items.vectors] == [part.tolist() for part in text.items.vectors]
    assert lists.sequences["clicked"].items.tolist() == text.sequences["clicked"].items.tolist()
    wanted = np.array([value == "a" for value in lists.item_columns["labels"].values])
    passed = lists.item_columns["labels"].where(wanted)
    assert passed.tolist() == [*("a" in cell for cell in tags), *[False] * (len(passed) - len(tags))]


def test_what_is_inferred_from_a_list_can_be_read(shop: Shop) -> None:
    items = shop.items.assign(tags=[text.split("|") for text in shop.items["tags"]])
    config = infer_schema(shop.events, items=items).config
    assert {spec.name: spec.kind for spec in config.features}["tags"] == "multi"
    dataset = build_dataset(read_tables(shop.events, None, items), config, seed=1)
    assert sorted(dataset.encoders.vocabularies["tags"].values) == ["a", "b", "c", "d"]


def test_a_list_of_lists_and_a_list_for_one_value_are_told(shop: Shop) -> None:
    nested = shop.items.assign(tags=pd.Series([[[1]]] * len(shop.items), dtype=object))
    with pytest.raises(DataError, match=r'column "tags" holds list<.*>, expected text or numbers'):
        build_dataset(read_tables(shop.events, shop.users, nested), shop.config(), seed=1)
    genres = shop.items.assign(genre=pd.Series([["g1"]] * len(shop.items), dtype=object))
    with pytest.raises(DataError, match=r'column "genre" holds list<.*kind = "multi"'):
        build_dataset(read_tables(shop.events, shop.users, genres), shop.config(), seed=1)


def test_numbers_among_texts_are_text() -> None:
    frame = pd.DataFrame({"c": [7, "a", None, 7.0, float("nan"), True, 2**70]})
    column = as_several(read_tables(frame), "events", "c")
    assert column.to_pylist() == ["7", "a", None, "7", None, "True", str(2**70)]


def test_a_text_among_declared_numbers_is_told_by_its_row(shop: Shop) -> None:
    prices: list[Any] = shop.items["price"].tolist()
    prices[3] = "free"
    tables = read_tables(shop.events, shop.users, shop.items.assign(price=pd.Series(prices, dtype=object)))
    with pytest.raises(DataError, match=r'row 4, column "price": found "free", expected a number'):
        build_dataset(tables, shop.config(), seed=1)


def test_lists_among_texts_are_told_by_their_rows() -> None:
    with pytest.raises(DataError, match=r'column "c" holds str \(row 1\) and list \(row 3\)'):
        read_tables(pd.DataFrame({"c": ["a", None, ["b"], "c"]}))
