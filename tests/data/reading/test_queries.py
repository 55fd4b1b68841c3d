"""Tables by SQL, and folders of Parquet files: the same rows as from one file."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.data.reading.keys import read_configured
from recsys.data.reading.queries import query_table
from recsys.data.reading.readers import read_table
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig
from recsys.tests.support.tiny import TinyRun

EVENTS = pd.DataFrame(
    {"user_id": ["a", "b", "a"], "item_id": [1, 2, 3], "click": [0, 1, 1], "day": ["2024-01-01"] * 2 + ["2024-01-02"]}
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The events as a file, in a SQLite database and as folders by day."""
    EVENTS.to_parquet(tmp_path / "events.parquet")
    with sqlite3.connect(tmp_path / "shop.db") as database:
        EVENTS.to_sql("events", database, index=False)
    pq.write_to_dataset(pa.Table.from_pandas(EVENTS), str(tmp_path / "log"), partition_cols=["day"])
    return tmp_path


def test_a_query_is_a_table(shop: Path) -> None:
    pytest.importorskip("sqlalchemy")
    found = query_table("sql:SELECT user_id, item_id, click FROM events ORDER BY rowid", f"sqlite:///{shop}/shop.db")
    pd.testing.assert_frame_equal(found.to_pandas(), EVENTS[["user_id", "item_id", "click"]])


def test_duckdb_asks_files_beside_the_configuration(shop: Path) -> None:
    pytest.importorskip("duckdb")
    found = query_table("sql:SELECT user_id, click FROM 'events.parquet' WHERE click = 1", "duckdb:", shop)
    assert found.to_pylist() == [{"user_id": "b", "click": 1}, {"user_id": "a", "click": 1}]


def test_the_address_may_come_from_the_environment(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("SHOP_DB", f"sqlite:///{shop}/shop.db")
    assert query_table("sql:SELECT count(*) AS n FROM events", "env:SHOP_DB").to_pylist() == [{"n": 3}]
    monkeypatch.delenv("SHOP_DB")
    with pytest.raises(ConfigError, match="the environment has no SHOP_DB"):
        query_table("sql:SELECT 1", "env:SHOP_DB")


def test_a_folder_of_days_is_one_table_with_the_day(shop: Path) -> None:
    (shop / "log" / "_temporary").mkdir()
    (shop / "log" / "_temporary" / "part.parquet").write_bytes(b"half")
    found = read_table(shop / "log").to_pandas().sort_values("item_id")
    assert found["item_id"].tolist() == [1, 2, 3]
    assert [str(day) for day in found["day"]] == EVENTS["day"].tolist()


def test_a_folder_without_parquet_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without Parquet files"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("query", "database", "error", "sentence"),
    [
        ("sql:SELECT 1", "", ConfigError, "data.database is empty"),
        ("sql:SELECT 1", "nonsense", ConfigError, "no address of SQLAlchemy"),
        ("sql:SELECT nothing FROM events", "sqlite:///{}/shop.db", DataError, "does not answer the query"),
        ("sql:SELECT 1 AS a, 2 AS a", "sqlite://", DataError, "several columns of one name"),
        ("sql:SELEC 1", "duckdb:", DataError, "does not answer the query"),
    ],
)
def test_what_a_database_refuses_is_one_sentence(
    query: str, database: str, error: type[Exception], sentence: str, shop: Path
) -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("duckdb")
    with pytest.raises(error, match=sentence):
        query_table(query, database.format(shop), shop)


def test_without_the_packages_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("duckdb", "sqlalchemy"):
        monkeypatch.setitem(sys.modules, name, None)
    for database in ("duckdb:", "sqlite://"):
        with pytest.raises(ConfigError, match=r"run `pip install 'recsys-funnel\[sql\]'`"):
            query_table("sql:SELECT 1", database)


def test_a_run_is_trained_from_a_query_as_from_the_file(tiny_run: TinyRun) -> None:
    pytest.importorskip("duckdb")
    query = "sql:SELECT * FROM read_csv('events.csv', all_varchar = true)"
    config = tiny_run.config(f'data.events="{query}"', 'data.database="duckdb:"')
    plain, asked = (read_configured(one.data, tiny_run.world, BadRows("error")) for one in (tiny_run.config(), config))
    assert asked.events.num_rows == plain.events.num_rows
    assert asked.events.column_names == plain.events.column_names
    assert config.data.relocated(lambda path: f"elsewhere/{path}").events == query
    assert isinstance(config, recsys.RunConfig)


def test_a_query_in_a_list_stays_one() -> None:
    moved = DataConfig(events=("a.csv", "sql:SELECT 1")).relocated(lambda path: f"x/{path}")
    assert moved.events == ("x/a.csv", "sql:SELECT 1")
