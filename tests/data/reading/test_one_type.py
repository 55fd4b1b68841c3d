"""Types of columns: several files of one table, and the forms in which Parquet holds numbers and texts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.base.errors import DataError
from recsys.data.reading.columns import as_float32, as_strings
from recsys.data.reading.readers import read, read_tables
from recsys.data.reading.tables import BadRows


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [
        ([7, 8], ["7", "x"], ["7", "8", "7", "x"]),
        ([7.0, None], ["7", "x"], ["7", None, "7", "x"]),
        ([7, 8], [7.0, None], [7, 8, 7, None]),
        ([2**60 + 1, 8], [7.0, None], [2**60 + 1, 8, 7, None]),
        ([7, 8], [7.5, 8.0], [7.0, 8.0, 7.5, 8.0]),
        ([7, 8], [None, None], [7, 8, None, None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["b", "c"], ["a", "b", "b", "c"]),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode(), ["a", "b", "c", "a"]),
        ([True, False], ["true", "x"], ["true", "false", "true", "x"]),
        (pa.array([1, 2], pa.uint8()), pa.array([300, 4], pa.int16()), [1, 2, 300, 4]),
        (pa.array([2**64 - 1, 1], pa.uint64()), [1, 2], [str(2**64 - 1), "1", "1", "2"]),
        ([["a"], []], [["b", "c"], None], [["a"], [], ["b", "c"], None]),
    ],
)
def test_files_that_hold_a_column_in_different_types_are_one_table(first: Any, second: Any, values: list[Any]) -> None:
    frames = [pa.table({"n": [1, 2], "id": pa.array(column)}) for column in (first, second)]
    assert read(frames).table["id"].to_pylist() == values


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["7", None, "12"], pa.string_view()),
        pa.array([b"7", None, b"12"]),
        pa.array([b"7", None, b"12"], pa.large_binary()),
        pa.array(["7", None, "12"], pa.large_string()),
        pa.RunEndEncodedArray.from_arrays([1, 2, 3], pa.array([7, None, 12])),
        pa.array([Decimal("7.00"), None, Decimal("12.00")]),
        pa.array([7, None, 12], pa.uint8()),
        pa.array([7, None, 12]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_every_type_that_holds_a_number_gives_the_same_ids_and_numbers(tmp_path: Path, values: pa.Array) -> None:
    sources: list[Any] = [pa.table({"x": values})]
    if not pa.types.is_run_end_encoded(values.type):
        pq.write_table(sources[0], tmp_path / "x.parquet")
        sources.append(tmp_path / "x.parquet")
    for source in sources:
        tables = read_tables(source)
        assert as_strings(tables, "events", "x").to_pylist() == ["7", None, "12"]
        np.testing.assert_array_equal(as_float32(tables, "events", "x", BadRows()), [7, np.nan, 12])


def test_bytes_that_are_no_text_are_told_where_they_are_read_and_nowhere_else() -> None:
    tables = read_tables(pa.table({"x": [b"\xff\xfe", b"a"], "y": ["1", "2"]}))
    assert as_strings(tables, "events", "y").to_pylist() == ["1", "2"]
    with pytest.raises(DataError, match='the events frame: column "x" holds binary, expected text or numbers'):
        as_strings(tables, "events", "x")


def test_decimals_with_a_fraction_keep_it() -> None:
    halves = read_tables(pa.table({"x": [Decimal("7.50"), Decimal("12.00")]}))
    assert as_strings(halves, "events", "x").to_pylist() == ["7.50", "12.00"]


def test_lists_beside_single_values_are_named(tmp_path: Path) -> None:
    frames = [pa.table({"id": [["a"], ["b"]]}), pa.table({"id": ["a", "b"]})]
    with pytest.raises(DataError) as caught:
        read(frames)
    assert str(caught.value) == (
        'column "id" holds list<item: string> in the events frame and string in the events frame; write it the '
        "same way in both"
    )
