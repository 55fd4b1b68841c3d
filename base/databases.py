"""Databases by address: of SQLAlchemy (`postgresql+psycopg://...`, `sqlite:///shop.db`), or `duckdb:shop.db`.

`env:NAME` takes the address from the environment, so that no password is written into a run. The packages are imported
when a database is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError, DataError
from .package import install_hint

SQL, DUCKDB, ENVIRONMENT = "sql:", "duckdb:", "env:"


def address_of(database: str, key: str) -> str:
    """The address that a configuration or a caller names.

    Args:
        database: see the module.
        key: what names it in messages, such as `data.database`.

    Raises:
        ConfigError: it is empty, or the environment lacks the variable.
    """
    if not database:
        raise ConfigError(f'{key} is empty; name a database, e.g. "duckdb:shop.db" or "sqlite:///shop.db"')
    if not database.startswith(ENVIRONMENT):
        return database
    name = database.removeprefix(ENVIRONMENT)
    if name not in os.environ:
        raise ConfigError(f'{key} = "{database}" and the environment has no {name}; set it to an address')
    return os.environ[name]


def is_duckdb(address: str) -> bool:
    """Whether an address is DuckDB's own."""
    return address.startswith(DUCKDB)


@contextmanager
def duckdb_connection(address: str, base: Path, key: str, *, writes: bool = False) -> Iterator[Any]:
    """A connection to a DuckDB file, or to none, which reads files.

    Args:
        address: `duckdb:FILE`, or `duckdb:` alone.
        base: folder that paths start from.
        key: see `address_of`.
        writes: whether the file is written to.

    Raises:
        ConfigError: DuckDB is not installed.
        DataError: it refuses; the message is its first line.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError(f"{key} names DuckDB, which is not installed; run {install_hint('sql')}") from error
    place = address.removeprefix(DUCKDB)
    try:
        with duckdb.connect(
            str(base / place) if place else ":memory:", read_only=bool(place) and not writes
        ) as connection:
            connection.execute("SET file_search_path = ?", [str(base.resolve())])
            yield connection
    except duckdb.Error as error:
        raise refused(error, key) from error


@contextmanager
def sqlalchemy_connection(address: str, key: str) -> Iterator[Any]:
    """A connection by SQLAlchemy, in a transaction that is committed where the block ends well.

    Raises:
        ConfigError: SQLAlchemy or its driver is not installed, or the address is none.
        DataError: the database refuses; the message is its first line.
    """
    try:
        import sqlalchemy
    except ImportError as error:
        raise ConfigError(f"{key} needs SQLAlchemy; run {install_hint('sql')}") from error
    try:
        engine = sqlalchemy.create_engine(address)
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise ConfigError(f"{key} is no address of SQLAlchemy, such as sqlite:///shop.db; correct it") from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key} needs the package {error.name}; install it with pip") from error
    try:
        with engine.begin() as connection:
            yield connection
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise refused(getattr(error, "orig", None) or error, key) from error
    finally:
        engine.dispose()


def refused(error: BaseException, key: str) -> DataError:
    """What a database says, as a sentence of ours."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DataError(f"the database does not answer the query ({first}); correct the query or {key}")
