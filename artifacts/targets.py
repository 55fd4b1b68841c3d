"""Where a table goes: a file, a folder of Parquet files, or a table of a database; whole, or as it was before."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.databases import SQL, address_of, duckdb_connection, is_duckdb, sqlalchemy_connection
from ..base.errors import ConfigError, DataError
from .tables import check_table_path, write_table

KEY = "database"
"""What names the database in messages."""
FILE_ROWS = 1 << 20
"""Rows of a file of a folder, or a table's more."""
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)?[A-Za-z_]\w*")
STAGED = "__new"
"""Suffix of the table that is being filled, which then takes the place of the one before."""


class Target(Protocol):
    """Somewhere that takes a table."""

    @property
    def place(self) -> Path:
        """File by which it is known: what a table is made of is kept beside it."""

    def check(self) -> None:
        """Refuse what cannot be written to, before any work is done.

        Raises:
            ConfigError: it is no such place; the message says what is.
        """

    def write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        """Write tables of one schema one behind the other, in place of what was there, and return the rows.

        Raises:
            DataError: a database refuses.
        """


def target_of(out: str | Path, database: str = "") -> Target:
    """Where `out` leads.

    Args:
        out: a file ending with `.parquet`, `.csv` or `.jsonl`; a folder, by a `/` at its end or a name such as
            `day=2026-11-29`, which whoever reads the folder above finds as a column; or `sql:TABLE`.
        database: of `sql:TABLE`; see `base.databases`.

    Raises:
        ConfigError: `sql:` names no table, or a database is named beside a file.
    """
    text = str(out)
    if text.startswith(SQL):
        return DatabaseTarget(text.removeprefix(SQL).strip(), database)
    if database:
        raise ConfigError(f"{KEY} is for a table in a database, and {text} is none; write it as sql:TABLE, or leave it")
    path = Path(out)
    return FolderTarget(path) if text.endswith("/") or "=" in path.name else FileTarget(path)


def one_of_several(out: str | Path, name: str, database: str = "") -> Target:
    """Where one of several tables goes that are written together.

    Args:
        out: a folder, which gets `NAME.parquet`; `FOLDER/day=2026-11-29`, which becomes `FOLDER/NAME/day=2026-11-29`, a
            part of the table `FOLDER/NAME`; or `sql:PREFIX`, for the table `PREFIXNAME`.
        name: of the table.
        database: see `target_of`.

    Raises:
        ConfigError: see `target_of`.
    """
    if str(out).startswith(SQL):
        return target_of(f"{out}{name}", database)
    folder = Path(out)
    if "=" in folder.name:
        return target_of(folder.parent / name / folder.name, database)
    return target_of(folder / f"{name}.parquet", database)


class FileTarget:
    """A file by its suffix."""

    def __init__(self, file: Path) -> None:
        self.place = file

    def __str__(self) -> str:
        return str(self.place)

    def check(self) -> None:
        """See `Target.check`."""
        check_table_path(self.place)

    def write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        """See `Target.write`."""
        return write_table(self.place, schema, tables)


class FolderTarget:
    """A folder of Parquet files of about a million rows each; folders beside it are other parts of the same table."""

    def __init__(self, folder: Path) -> None:
        self.place = folder

    def __str__(self) -> str:
        return str(self.place)

    def check(self) -> None:
        """See `Target.check`."""
        above = self.place.absolute().parent
        if self.place.exists() and (not self.place.is_dir() or self._strange()):
            raise ConfigError(
                f"{self.place} holds other things than Parquet files, and would be replaced; name another folder"
            )
        if above.exists() and not above.is_dir():
            raise ConfigError(f"{above} is a file and no folder; name another place than {self.place}")
        above.mkdir(parents=True, exist_ok=True)

    def _strange(self) -> list[Path]:
        return [path for path in self.place.iterdir() if path.suffix != ".parquet"]

    def write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        """See `Target.write`."""
        self.check()
        made, before = (self.place.with_name(f".{self.place.name}.{end}") for end in ("partial", "before"))
        for left in (made, before):
            shutil.rmtree(left, ignore_errors=True)
        made.mkdir()
        rows = 0
        for number, part in enumerate(_files(schema, tables)):
            pq.write_table(part, made / f"part-{number:05d}.parquet")
            rows += len(part)
        if self.place.exists():
            self.place.rename(before)
        made.rename(self.place)
        shutil.rmtree(before, ignore_errors=True)
        return rows


def _files(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables put together until they are a file; an empty one where there is no row at all."""
    waiting: list[pa.Table] = []
    given = False
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= FILE_ROWS:
            yield pa.concat_tables(waiting)
            waiting, given = [], True
    if waiting or not given:
        yield pa.concat_tables(waiting) if waiting else schema.empty_table()


class DatabaseTarget:
    """A table of a database, filled under another name and then renamed, so that who reads it finds one or the other.

    Args:
        name: of the table, with its schema where it has one.
        database: see `base.databases`.

    Raises:
        ConfigError: the name is none of a table.
    """

    def __init__(self, name: str, database: str) -> None:
        if not NAME.fullmatch(name):
            raise ConfigError(f'"{SQL}{name}" names no table to write; expected {SQL}TABLE, e.g. {SQL}lists')
        self.name, self.database = name, database

    def __str__(self) -> str:
        return f"{SQL}{self.name}"

    @property
    def place(self) -> Path:
        """In the present folder."""
        return Path(f"{self.name}.sql")

    def check(self) -> None:
        """See `Target.check`; the database is reached, and nothing in it changed."""
        address = address_of(self.database, KEY)
        if is_duckdb(address):
            with duckdb_connection(address, Path(), KEY, writes=True) as connection:
                connection.execute("SELECT 1")
        else:
            with sqlalchemy_connection(address, KEY) as connection:
                connection.exec_driver_sql("SELECT 1")

    def write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        """See `Target.write`. Lists, such as vectors, are DuckDB's lists, and elsewhere texts such as `[0.5,1.0]`."""
        address = address_of(self.database, KEY)
        if is_duckdb(address):
            with duckdb_connection(address, Path(), KEY, writes=True) as connection:
                return self._by_duckdb(connection, schema, tables)
        with sqlalchemy_connection(address, KEY) as connection:
            return self._by_sqlalchemy(connection, schema, tables)

    def _by_duckdb(self, connection: Any, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        staged, rows = f"{self.name}{STAGED}", 0
        connection.register("block", schema.empty_table())
        connection.execute(f"CREATE OR REPLACE TABLE {staged} AS SELECT * FROM block")
        for table in tables:
            connection.register("block", table)
            connection.execute(f"INSERT INTO {staged} SELECT * FROM block")
            rows += len(table)
        connection.unregister("block")
        connection.execute("BEGIN")
        connection.execute(f"DROP TABLE IF EXISTS {self.name}")
        connection.execute(f"ALTER TABLE {staged} RENAME TO {self.name.rpartition('.')[2]}")
        connection.execute("COMMIT")
        return rows

    def _by_sqlalchemy(self, connection: Any, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        import sqlalchemy as sa

        within, _, name = self.name.rpartition(".")
        columns = [sa.Column(field.name, _column_type(field.type)) for field in schema]
        staged = sa.Table(f"{name}{STAGED}", sa.MetaData(), *columns, schema=within or None)
        staged.drop(connection, checkfirst=True)
        staged.create(connection)
        rows = 0
        for table in tables:
            plain = pa.Table.from_arrays([_as_text(column) for column in table.columns], names=table.column_names)
            if len(plain):
                connection.execute(sa.insert(staged), plain.to_pylist())
            rows += len(plain)
        sa.Table(name, sa.MetaData(), schema=within or None).drop(connection, checkfirst=True)
        quoted = connection.dialect.identifier_preparer
        connection.exec_driver_sql(f"ALTER TABLE {quoted.format_table(staged)} RENAME TO {quoted.quote(name)}")
        return rows


def _column_type(kind: pa.DataType) -> Any:
    """The column of a database for values of an Arrow type.

    Raises:
        DataError: there is none.
    """
    import sqlalchemy as sa

    if pa.types.is_boolean(kind):
        return sa.Boolean()
    if pa.types.is_integer(kind):
        return sa.BigInteger()
    if pa.types.is_floating(kind):
        return sa.Double()
    if pa.types.is_timestamp(kind):
        return sa.DateTime()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_list(kind):
        return sa.Text()
    raise DataError(f"a column of type {kind} has no place in a database; write a file")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Lists as JSON, which a vector column of PostgreSQL reads as well; everything else as it is."""
    if not _is_list(column.type):
        return column
    return pa.array([None if one is None else json.dumps(one, separators=(",", ":")) for one in column.to_pylist()])
