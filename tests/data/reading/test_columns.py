"""Strict conversion: every good spelling is taken, every bad value is quoted with its line, column and mend."""

from __future__ import annotations

import csv
import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.base.errors import DataError
from recsys.data.notation import Notation
from recsys.data.reading.columns import as_float32, as_ids, as_int64, as_labels, as_strings, as_time, require_columns
from recsys.data.reading.readers import read_tables
from recsys.data.reading.tables import BadRows, Tables

STRICT = BadRows()


def csv_of(folder: Path, column: str, values: list[str]) -> Tables:
    path = folder / "ratings.csv"
    path.write_text(f"row,{column}\n" + "".join(f"{row},{value}\n" for row, value in enumerate(values)))
    return read_tables(path)


def frame_of(column: str, values: Any) -> Tables:
    return read_tables(pa.table({"row": pa.array(range(len(values))), column: pa.array(values)}))


def sentence(convert: Any, tables: Tables, column: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        convert(tables, "events", column, STRICT, **options)
    return str(caught.value)


def test_whole_numbers(tmp_path: Path) -> None:
    tables = csv_of(tmp_path, "n", ["1", " 2", "-3", "4.0"])
    assert as_int64(tables, "events", "n", STRICT).tolist() == [1, 2, -3, 4]
    assert as_int64(frame_of("n", [1.0, 2.0]), "events", "n", STRICT).tolist() == [1, 2]
    assert as_int64(frame_of("n", [True, False]), "events", "n", STRICT).tolist() == [1, 0]
    assert as_int64(frame_of("n", [1, 2]), "events", "n", STRICT).flags.writeable
    assert sentence(as_int64, csv_of(tmp_path, "n", ["1", "", "2"]), "n") == (
        'ratings.csv, line 3, column "n": found nothing, expected a whole number; mend the value or set '
        'on_bad_rows = "drop"'
    )
    assert 'found "1.5", expected a whole number' in sentence(as_int64, csv_of(tmp_path, "n", ["1.5"]), "n")
    assert 'found "9223372036854775808"' in sentence(as_int64, csv_of(tmp_path, "n", ["9223372036854775808"]), "n")
    assert sentence(as_int64, frame_of("n", [1.0, 1.5]), "n").startswith(
        'the events frame, row 2, column "n": found 1.5, expected a whole number'
    )


def test_numbers_take_missing_values_but_no_infinity(tmp_path: Path) -> None:
    numbers = as_float32(csv_of(tmp_path, "x", ["1.5", "", "nan", "1e3"]), "events", "x", STRICT)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, [1.5, np.nan, np.nan, 1000])
    assert 'found "inf", expected a number' in sentence(as_float32, csv_of(tmp_path, "x", ["inf"]), "x")
    assert 'line 3, column "x": found "two"' in sentence(as_float32, csv_of(tmp_path, "x", ["1", "two"]), "x")
    assert "found nothing" in sentence(as_float32, csv_of(tmp_path, "x", ["1", ""]), "x", allow_missing=False)
    assert 'found "-1", expected a weight' in sentence(
        as_float32, csv_of(tmp_path, "x", ["-1"]), "x", minimum=0.0, expected="a weight"
    )


@pytest.mark.parametrize("value", ["1.7976931348623157e308", "-3.5e38", "inf", "-Infinity"])
def test_what_float32_makes_infinite_is_no_number(tmp_path: Path, value: str) -> None:
    expected = f'ratings.csv, line 3, column "x": found "{value}", expected a number within ±3.4e38, or an empty value'
    column = csv_of(tmp_path, "x", ["1", value, "3.4e38"])
    assert sentence(as_float32, column, "x").startswith(expected)
    assert f'found "{value}", expected a number' in sentence(as_labels, column, "x", kind="number")
    dropped = BadRows("drop")
    np.testing.assert_allclose(as_float32(column, "events", "x", dropped), [1, np.nan, 3.4e38])
    assert dropped.count() == 1


def test_decimals_behind_a_comma_are_read_or_told_and_thousands_are_never_guessed(tmp_path: Path) -> None:
    def prices(*values: str, decimal: str = ",") -> Tables:
        return replace(csv_of(tmp_path, "x", [f'"{value}"' for value in values]), notation=Notation(decimal))

    numbers = as_float32(prices("3,5", "-0,25", "7", "1e3", "0.125", ""), "events", "x", STRICT)
    np.testing.assert_array_equal(numbers, [3.5, -0.25, 7, 1000, 0.125, np.nan])
    for value in ("1.234", "1.234,5", "1.234.567"):
        assert f'found "{value}", expected a number, its decimals behind a comma and its thousands not parted' in (
            sentence(as_float32, prices("3,5", value), "x")
        )
    for value in ("3,5", "1,234.5", "1.234,5"):
        told = f'found "{value}", expected a number, its thousands not parted; where decimals stand behind a comma'
        assert told in sentence(as_float32, prices("1", value, decimal="."), "x")
        assert told in sentence(as_labels, prices("1", value, decimal="."), "x", kind="number")
    assert as_float32(prices("1.234", decimal="."), "events", "x", STRICT).tolist() == pytest.approx([1.234])


def test_labels_stay_in_their_range(tmp_path: Path) -> None:
    tables = csv_of(tmp_path, "click", ["0", "1", "1.0", "true", "False"])
    assert as_labels(tables, "events", "click", STRICT).tolist() == [0, 1, 1, 1, 0]
    words = csv_of(tmp_path, "click", ["yes", "No", " TRUE", "t", "f", "Y", "n", "0"])
    assert as_labels(words, "events", "click", STRICT).tolist() == [1, 0, 1, 1, 0, 1, 0, 0]
    assert 'found "Ja", expected 0 or 1; for grades set at_least, for other words equals' in (
        sentence(as_labels, csv_of(tmp_path, "click", ["Ja", "Nein"]), "click")
    )
    assert sentence(as_labels, csv_of(tmp_path, "click", ["0", "2", "1", "-1"]), "click") == (
        'ratings.csv, line 3, column "click": found "2", expected 0 or 1; for grades set at_least, for '
        "other words equals; mend it and 1 more like it or set "
        'on_bad_rows = "drop"'
    )
    assert "found nothing, expected 0 or 1" in sentence(as_labels, csv_of(tmp_path, "click", ["0", ""]), "click")
    unobserved = as_labels(csv_of(tmp_path, "click", ["1", ""]), "events", "click", STRICT, allow_missing=True)
    np.testing.assert_array_equal(unobserved, [1, np.nan])
    assert 'found "-4", expected a duration of 0 or more' in sentence(
        as_labels, csv_of(tmp_path, "dwell", ["3", "-4"]), "dwell", kind="duration"
    )
    stars = as_labels(csv_of(tmp_path, "stars", ["-4", "4.5"]), "events", "stars", STRICT, kind="number")
    assert stars.tolist() == [-4, 4.5]


MOMENT = 1_651_550_400_000  # 2022-05-03 04:00 UTC in milliseconds


@pytest.mark.parametrize(
    "value",
    [
        "1651550400",
        "1651550400.0",
        "1651550400000",
        "1651550400000000",
        "2022-05-03 04:00",
        "2022-05-03T04:00:00Z",
        "2022-05-03T12:00:00+08:00",
        "2022-05-03 04:00:00.000",
        "2022-05-03 04:00:00 UTC",
        "2022-05-03 06:00:00.000000+02",
        "2022/05/03 04:00:00",
        " 2022-05-03T00:00:00-04:00 ",
        "20220503T040000Z",
    ],
)
def test_one_moment_in_every_spelling(tmp_path: Path, value: str) -> None:
    assert as_time(csv_of(tmp_path, "t", [value] * 2), "events", "t", STRICT).tolist() == [MOMENT] * 2


def test_times_of_typed_tables() -> None:
    moment = dt.datetime(2022, 5, 3, 4, tzinfo=dt.UTC)
    assert as_time(frame_of("t", [moment]), "events", "t", STRICT).tolist() == [MOMENT]
    assert as_time(frame_of("t", [moment.date()]), "events", "t", STRICT).tolist() == [MOMENT - 4 * 3_600_000]
    assert as_time(frame_of("t", [MOMENT]), "events", "t", STRICT).tolist() == [MOMENT]
    assert as_time(frame_of("t", [7, 8]), "events", "t", STRICT, unit="ms").tolist() == [7, 8]
    assert as_time(frame_of("t", [7, 8]), "events", "t", STRICT).tolist() == [7000, 8000]


def test_calendar_days_are_no_seconds(tmp_path: Path) -> None:
    days = as_time(csv_of(tmp_path, "t", ["20220503", "20220504"]), "events", "t", STRICT)
    assert (days[0], days[1] - days[0]) == (MOMENT - 4 * 3_600_000, 86_400_000)
    impossible = csv_of(tmp_path, "t", ["20240228", "20240229", "20230229"])
    assert 'line 4, column "t": found "20230229", expected a calendar day' in sentence(as_time, impossible, "t")


def test_a_time_that_is_no_time(tmp_path: Path) -> None:
    assert sentence(as_time, csv_of(tmp_path, "timestamp", ["978300760", "yesterday"]), "timestamp") == (
        'ratings.csv, line 3, column "timestamp": found "yesterday", expected a whole number of seconds or an ISO '
        'date; mend the value or set on_bad_rows = "drop"'
    )
    dates = csv_of(tmp_path, "t", ["2022-05-03", "2022-13-03", "2022-05-04"])
    assert 'line 3, column "t": found "2022-13-03", expected' in sentence(as_time, dates, "t")
    mixed = csv_of(tmp_path, "t", ["978300760", "978300761", "978300762000"])
    assert 'line 4, column "t": found "978300762000", expected a time between 1970 and 2200 in seconds' in (
        sentence(as_time, mixed, "t")
    )
    assert 'found "-5", expected a time between 1970' in sentence(as_time, csv_of(tmp_path, "t", ["5", "-5"]), "t")
    assert "found nothing" in sentence(as_time, csv_of(tmp_path, "t", ["5", ""]), "t")


SECONDS = MOMENT // 1000


@pytest.mark.parametrize(
    ("values", "found", "unit"),
    [
        ([str(MOMENT), str(MOMENT + 1), str(SECONDS)], f'"{SECONDS}"', "milliseconds"),
        ([MOMENT * 1000, MOMENT * 1000, SECONDS], str(SECONDS), "microseconds"),
        ([MOMENT * 10**6, MOMENT * 10**6, MOMENT], str(MOMENT), "nanoseconds"),
        ([str(SECONDS), str(SECONDS), "0"], '"0"', "seconds"),
        (["2022-05-03", "2022-05-03T04:00+08:00", "1970-01-01"], '"1970-01-01"', "milliseconds"),
        ([dt.datetime(2022, 5, 3), dt.datetime(2022, 5, 4), dt.datetime(1970, 1, 1)], "1970-01-01 00:00:00", "micro"),
    ],
)
def test_a_smaller_unit_and_a_zero_among_times_are_no_times_of_1970(values: list[Any], found: str, unit: str) -> None:
    expected = f'the events frame, row 3, column "t": found {found}, expected a time in {unit}'
    assert sentence(as_time, frame_of("t", values), "t").startswith(expected)
    dropped = BadRows("drop")
    assert (as_time(frame_of("t", values), "events", "t", dropped)[:2] > MOMENT - 86_400_000).all()
    assert dropped.count() == 1


def test_times_from_a_beginning_of_their_own_may_be_small() -> None:
    assert as_time(frame_of("t", [0, 5, 86_400]), "events", "t", STRICT).tolist() == [0, 5000, 86_400_000]


def test_ids_are_text_and_never_missing_or_doubled(tmp_path: Path) -> None:
    assert as_ids(csv_of(tmp_path, "user_id", ["07", "x"]), "events", "user_id", STRICT).texts().to_pylist() == [
        "07",
        "x",
    ]
    assert 'line 3, column "user_id": found nothing, expected an id' in (
        sentence(as_ids, csv_of(tmp_path, "user_id", ["1", ""]), "user_id")
    )
    doubled = csv_of(tmp_path, "user_id", ["1", "2", "1"])
    assert as_ids(doubled, "events", "user_id", STRICT).texts().to_pylist() == ["1", "2", "1"]
    assert sentence(as_ids, doubled, "user_id", unique=True) == (
        'ratings.csv, line 4, column "user_id": found "1" again (first at line 2), expected each id once in the '
        'events table; mend the value or set on_bad_rows = "drop"'
    )


@pytest.mark.parametrize(
    "values", [[4, None], [4.0, None], ["4", None], pa.array(["4", None]).dictionary_encode(), [4.0, float("nan")]]
)
def test_an_id_is_the_same_text_whatever_type_carried_it(values: Any) -> None:
    assert as_strings(frame_of("id", values), "events", "id").to_pylist() == ["4", None]


def test_large_ids_in_a_float_column_keep_their_digits() -> None:
    ids = as_strings(frame_of("id", [91_556_971_410.0, None, float(2**53)]), "events", "id")
    assert ids.to_pylist() == ["91556971410", None, "9007199254740992"]


def test_fractions_and_lists_as_text() -> None:
    assert as_strings(frame_of("id", [4.5, 1.0]), "events", "id").to_pylist() == ["4.5", "1"]
    with pytest.raises(DataError, match=r"holds list<.*>, expected text or numbers"):
        as_strings(frame_of("id", [[1], [2]]), "events", "id")


def test_a_missing_column_and_a_missing_table_are_named(tmp_path: Path) -> None:
    tables = csv_of(tmp_path, "timestamp", ["1"])
    with pytest.raises(DataError) as caught:
        require_columns(tables, "events", ["row", "timestmap"])
    assert str(caught.value) == (
        'ratings.csv: no column "timestmap" in the events table, which has row, timestamp; did you mean "timestamp"?'
    )
    with pytest.raises(DataError, match="no users table was given, only events; give one, or declare no users columns"):
        as_strings(tables, "users", "user_id")


def test_bad_rows_are_collected_dropped_counted_and_written(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,click,t\nu,1,5\nu,3,yesterday\n,0,6\nw,0,7,8\nx,0,9\n")
    bad = BadRows("drop")
    tables = read_tables(path, bad=bad)
    as_ids(tables, "events", "user_id", bad)
    labels = as_labels(tables, "events", "click", bad)
    times = as_time(tables, "events", "t", bad)
    assert len(labels) == len(times) == 4
    kept = tables.keep("events", bad.mask("events", 4))
    assert kept.events["user_id"].to_pylist() == ["u", "x"]
    assert as_time(kept, "events", "t", STRICT).tolist() == [5000, 9000]
    assert [kept.origin["events"].find(row) for row in (0, 1)] == [("log.csv", "line 2"), ("log.csv", "line 6")]
    assert bad.count() == bad.count("events") == 3, "the row with two bad values is one row"
    bad.write(tmp_path / "bad_rows.csv")
    with (tmp_path / "bad_rows.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {(row["place"], row["column"], row["found"]) for row in rows} == {
        ("line 5", "", "4 values"),
        ("line 4", "user_id", "nothing"),
        ("line 3", "click", '"3"'),
        ("line 3", "t", '"yesterday"'),
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad_rows.csv", "log.csv"]


def test_places_stay_true_after_dropping_twice(tmp_path: Path) -> None:
    tables = csv_of(tmp_path, "x", [str(n) for n in range(6)])
    odd = np.array([False, True, False, True, False, True])
    once = tables.keep("events", odd)
    twice = once.keep("events", np.array([True, False, True]))
    assert [twice.origin["events"].find(row)[1] for row in (0, 1)] == ["line 3", "line 7"]
    frame = frame_of("x", [1, 2, 3]).keep("events", np.array([False, False, True]))
    assert frame.origin["events"].find(0) == ("the events frame", "row 3")


def test_dropping_everything_is_an_error(tmp_path: Path) -> None:
    bad = BadRows("drop")
    tables = csv_of(tmp_path, "click", ["7", "8"])
    as_labels(tables, "events", "click", bad)
    with pytest.raises(DataError) as caught:
        bad.mask("events", 2)
    assert str(caught.value) == (
        'all 2 rows of the events table are bad, nothing remains; the first: ratings.csv, line 2, column "click": '
        'found "7", expected 0 or 1; for grades set at_least, for other words equals'
    )
