"""Times in a format and a zone of one's own, and words for nothing: what is read is what was meant."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from recsys.base.errors import DataError
from recsys.data.build import build_dataset
from recsys.data.notation import Notation
from recsys.data.reading.columns import as_float32, as_strings, as_time
from recsys.data.reading.readers import read_tables
from recsys.data.reading.sparse_times import as_seconds
from recsys.data.reading.tables import BadRows, Tables
from recsys.data.reading.written import formats_of
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.tests.support.nonempty import nonempty

BERLIN = ZoneInfo("Europe/Berlin")
SUMMER = datetime(2024, 7, 3, 18, 30, tzinfo=BERLIN)
WINTER = datetime(2024, 12, 31, 23, 59, tzinfo=BERLIN)


def stamps(values: object, notation: Notation) -> list[int]:
    tables = read_tables(pa.table({"t": pa.array(values)})).written(notation)
    return as_time(tables, "events", "t", BadRows()).tolist()


def wanted(*moments: datetime) -> list[int]:
    return [int(moment.timestamp() * 1000) for moment in moments]


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("%d.%m.%Y %H:%M", ["03.07.2024 18:30", " 31.12.2024 23:59"]),
        ("%m/%d/%Y %I:%M %p", ["07/03/2024 06:30 PM", "12/31/2024 11:59 PM"]),
        ("%d.%m.%Y %H:%M:%S.%f", ["03.07.2024 18:30:00.000", "31.12.2024 23:59:00.000"]),
        ("%d.%m.%Y %H:%M", ["2024-07-03T18:30", "31.12.2024 23:59"]),
        ("%d.%m.%Y %H:%M", ["2024-07-03T16:30Z", "31.12.2024 23:59"]),
        ("", ["2024-07-03 18:30", "2024-12-31 23:59"]),
        ("", ["2024-07-03 16:30Z", "2024-12-31 23:59"]),
    ],
)
def test_texts_of_a_format_and_a_zone(written: str, texts: list[str]) -> None:
    """A zone's summer and winter time differ; a text that names its zone keeps it."""
    assert stamps(texts, Notation(time_format=written, time_zone="Europe/Berlin")) == wanted(SUMMER, WINTER)


def test_a_zone_in_the_format_is_the_zone() -> None:
    texts = ["03.07.2024 18:30 +0200", "31.12.2024 23:59 +0100"]
    for zone in ("", "Asia/Tokyo"):
        assert stamps(texts, Notation(time_format="%d.%m.%Y %H:%M %z", time_zone=zone)) == wanted(SUMMER, WINTER)


def test_types_and_days_without_a_zone_are_of_the_clock_of_the_zone_and_numbers_are_not() -> None:
    notation = Notation(time_zone="Europe/Berlin")
    naive = [SUMMER.replace(tzinfo=None), WINTER.replace(tzinfo=None)]
    assert stamps(naive, notation) == wanted(SUMMER, WINTER)
    assert stamps([SUMMER.astimezone(UTC), WINTER.astimezone(UTC)], notation) == wanted(SUMMER, WINTER)
    assert stamps([20240703, 20241231], notation) == wanted(
        SUMMER.replace(hour=0, minute=0), WINTER.replace(hour=0, minute=0)
    )
    seconds = [int(SUMMER.timestamp()), int(WINTER.timestamp())]
    assert stamps(seconds, notation) == wanted(SUMMER, WINTER)


def test_an_hour_that_the_clock_has_twice_or_never_is_a_time() -> None:
    twice, never = stamps(["2024-10-27 02:30", "2024-03-31 02:30"], Notation(time_zone="Europe/Berlin"))
    assert twice == wanted(datetime(2024, 10, 27, 0, 30, tzinfo=UTC))[0]
    assert never == wanted(datetime(2024, 3, 31, 1, 0, tzinfo=UTC))[0]


def test_a_text_that_is_no_such_time_is_named_with_what_was_expected() -> None:
    with pytest.raises(DataError, match=r'found "soon", expected a time written as time_format = "%d\.%m\.%Y"'):
        stamps(["03.07.2024", "soon"], Notation(time_format="%d.%m.%Y"))


def test_times_that_some_rows_lack_follow_the_format_too() -> None:
    tables = read_tables(pa.table({"t": ["03.07.2024 18:30", None]}))
    tables = tables.written(Notation(time_format="%d.%m.%Y %H:%M", time_zone="Europe/Berlin"))
    found = as_seconds(tables, "events", "t", BadRows())
    assert found[0] == SUMMER.timestamp()
    assert np.isnan(found[1])


def test_formats_are_told_apart_where_they_can_be() -> None:
    assert formats_of(["31.12.2024 23:59", "01.02.2024 00:00"]) == ("%d.%m.%Y %H:%M",)
    assert formats_of(["12/31/2024"]) == ("%m/%d/%Y",)
    assert formats_of(["02/03/2024"]) == ("%d/%m/%Y", "%m/%d/%Y")
    assert formats_of(["soon"]) == ()


def _texts(tables: Tables, column: str) -> list[str | None]:
    return list(as_strings(tables, "events", column).to_pylist())


def test_words_for_nothing_are_nothing_in_every_column_of_text(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("n,c,u\n1.5,NA,NA1\nNA,x,-\n-,NAS,3\n")
    tables = read_tables(tmp_path / "e.csv").written(Notation(missing=("NA", "-")))
    np.testing.assert_array_equal(as_float32(tables, "events", "n", BadRows()), [1.5, np.nan, np.nan])
    assert _texts(tables, "c") == [None, "x", "NAS"]
    assert _texts(tables, "u") == ["NA1", None, "3"]
    with pytest.raises(DataError, match='found "NA", expected a number'):
        as_float32(read_tables(tmp_path / "e.csv"), "events", "n", BadRows())
    coded = read_tables(pa.table({"c": pa.array(["NA", "x"]).dictionary_encode()})).written(Notation(missing=("NA",)))
    assert _texts(coded, "c") == [None, "x"]


def test_the_keys_of_a_configuration_reach_the_data_set(tmp_path: Path) -> None:
    """Times, cuts and missing values of a log written the German way, against one in ISO and UTC."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-03-30 20:00", periods=60, freq="45min", tz="UTC")
    plain = pd.DataFrame(
        {
            "user_id": rng.integers(0, 5, 60),
            "item_id": rng.integers(0, 9, 60),
            "timestamp": [moment.isoformat() for moment in times],
            "click": rng.integers(0, 2, 60),
            "price": np.where(rng.random(60) < 0.3, np.nan, rng.integers(1, 50, 60)),
        }
    )
    local = times.tz_convert(BERLIN)
    german = plain.assign(
        timestamp=[moment.strftime("%d.%m.%Y %H:%M") for moment in local],
        price=[("k.A." if np.isnan(price) else f"{price:g}") for price in plain["price"]],
    )
    shared = {
        "tasks": [{"name": "click"}],
        "features": [{"name": "price", "side": "context", "kind": "numeric", "bins": 4}],
    }
    keys = {"time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin", "missing": ["k.A."]}
    cuts = {"valid_from": "2024-03-31T22:00", "test_from": "2024-04-01T04:00"}
    zoned = {name: f"{moment}+02:00" for name, moment in cuts.items()}
    first = DataConfig.model_validate({**shared, "split": zoned})
    second = DataConfig.model_validate({**shared, **keys, "split": cuts})
    one = build_dataset(read_tables(plain), first, 1)
    other = build_dataset(read_tables(german).written(second.notation), second, 1)
    assert np.array_equal(one.events.times, other.events.times)
    assert np.array_equal(one.events.parts, other.events.parts)
    assert {int(part) for part in one.events.parts} == {Part.TRAIN, Part.VALID, Part.TEST}
    rows = np.arange(60)
    for name in nonempty(["numeric", "categorical"]):
        mine, theirs = (getattr(data.batch(_rows(rows)).query, name) for data in (one, other))
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def _rows(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("time_zone", "Europe/Berln", '"Europe/Berln" is no time zone'),
        ("time_format", "day.month", "is no format of times"),
    ],
)
def test_keys_that_are_none(key: str, value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DataConfig.model_validate({key: value})
