"""A table goes to a file, a folder or a database, and comes back as it was; until it is whole, what was there stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.artifacts import targets
from recsys.artifacts.targets import one_of_several, target_of
from recsys.base.errors import ConfigError, DataError
from recsys.data.reading.queries import query_table
from recsys.data.reading.readers import read

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("rank", pa.int64()),
        ("score", pa.float64()),
        ("click", pa.float32()),
        ("shown", pa.bool_()),
        ("vector", pa.list_(pa.float32(), 2)),
    ]
)
DATABASES = ["sqlite:///shop.db", "duckdb:shop.duckdb"]


def table(first: int, rows: int) -> pa.Table:
    numbers = range(first, first + rows)
    columns: list[Any] = [
        [None if n % 7 == 3 else f"o'{n}é" for n in numbers],
        list(numbers),
        [n / 3 for n in numbers],
        [None if n % 5 == 0 else n / 4 for n in numbers],
        [n % 2 == 0 for n in numbers],
        [[n / 2, -n] for n in numbers],
    ]
    return pa.table(columns, schema=SCHEMA)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def from_database(database: str, name: str = "lists") -> pa.Table:
    return query_table(f"sql:SELECT * FROM {name} ORDER BY rank", database, Path())


def plain(rows: pa.Table, database: str) -> list[dict[str, Any]]:
    """Rows as Python values; texts of vectors read, and the numbers by which SQLite says true and false."""
    found = rows.to_pylist()
    for row in found:
        row["vector"] = json.loads(row["vector"]) if isinstance(row["vector"], str) else list(row["vector"])
        row["shown"] = bool(row["shown"])
    return found


@pytest.mark.parametrize("database", DATABASES)
def test_a_table_of_a_database_holds_what_was_written_and_is_replaced(database: str) -> None:
    target = target_of("sql:lists", database)
    target.check()
    assert target.write(SCHEMA, [table(0, 9), table(9, 0), table(9, 4)]) == 13
    assert plain(from_database(database), database) == table(0, 13).to_pylist()
    assert target.write(SCHEMA, [table(50, 2)]) == 2
    assert plain(from_database(database), database) == table(50, 2).to_pylist()
    assert target.write(SCHEMA, []) == 0
    assert from_database(database).num_rows == 0
    assert str(target) == "sql:lists"


@pytest.mark.parametrize("out", ["sql:lists", "lists/", "lists/day=2026-11-29", "lists.parquet"])
def test_until_a_table_is_whole_what_was_there_stays(out: str) -> None:
    database = DATABASES[0] if out.startswith("sql:") else ""

    def read_back() -> int:
        return from_database(database).num_rows if database else read(out).table.num_rows

    def killed() -> Iterator[pa.Table]:
        yield table(0, 3)
        raise KeyboardInterrupt

    target = target_of(out, database)
    target.place.parent.mkdir(exist_ok=True)
    target.write(SCHEMA, [table(0, 5)])
    with pytest.raises(KeyboardInterrupt):
        target.write(SCHEMA, killed())
    assert read_back() == 5
    target.write(SCHEMA, [table(0, 4)])
    assert read_back() == 4


def test_a_folder_is_read_as_one_table_with_its_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "FILE_ROWS", 5)
    assert target_of("lists/day=2026-11-28").write(SCHEMA, [table(0, 3), table(3, 3), table(6, 3)]) == 9
    assert target_of(Path("lists/day=2026-11-29")).write(SCHEMA, [table(20, 2)]) == 2
    assert sorted(path.name for path in Path("lists/day=2026-11-28").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    found = read("lists").table
    assert sorted(found.column("rank").to_pylist()) == [*range(9), 20, 21]
    days = dict(zip(found.column("rank").to_pylist(), map(str, found.column("day").to_pylist()), strict=True))
    assert (days[8], days[20]) == ("2026-11-28", "2026-11-29")


def test_an_empty_table_has_its_columns() -> None:
    target_of("none/").write(SCHEMA, [])
    [file] = Path("none").iterdir()
    assert pq.read_table(file).schema.names == SCHEMA.names


def test_several_tables_go_side_by_side() -> None:
    assert str(one_of_several("out", "users")) == "out/users.parquet"
    assert str(one_of_several("out/day=2026-11-29", "users")) == "out/users/day=2026-11-29"
    assert str(one_of_several("sql:shop_", "users", DATABASES[0])) == "sql:shop_users"


@pytest.mark.parametrize(
    ("out", "database", "error", "told"),
    [
        ("sql:SELECT 1", DATABASES[0], ConfigError, "names no table to write"),
        ("sql:lists; DROP TABLE x", DATABASES[0], ConfigError, "names no table to write"),
        ("sql:lists", "", ConfigError, "database is empty"),
        ("sql:lists", "env:NO_SUCH_PLACE", ConfigError, "the environment has no NO_SUCH_PLACE"),
        ("sql:lists", "nonsense", ConfigError, "no address of SQLAlchemy"),
        ("sql:lists", "sqlite:////nowhere/at/all/shop.db", DataError, "unable to open"),
        ("lists.parquet", DATABASES[0], ConfigError, "is for a table in a database"),
        ("lists.xlsx", "", ConfigError, "has no suffix of a table"),
        ("full/", "", ConfigError, "holds other things than Parquet files"),
    ],
)
def test_what_cannot_be_written_to_is_refused_before_any_work(
    out: str, database: str, error: type[Exception], told: str
) -> None:
    Path("full").mkdir()
    Path("full/letters.txt").write_text("kept")
    with pytest.raises(error, match=told):
        target_of(out, database).check()
    assert Path("full/letters.txt").read_text() == "kept"
