"""Tables that are asked for in SQL, and folders of Parquet files: Arrow tables from both.

`events = "sql:SELECT ..."` is answered by `data.database`: an address of SQLAlchemy (`postgresql+psycopg://...`,
`sqlite:///shop.db`), or `duckdb:shop.db`; `duckdb:` alone asks files, as in `sql:SELECT * FROM 'log/*.parquet'`.
`env:NAME` takes the address from the environment, so that no password is written into a run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...base.databases import SQL, address_of, duckdb_connection, is_duckdb, sqlalchemy_connection
from ...base.errors import DataError

KEY = "data.database"


def is_query(name: str) -> bool:
    """Whether the name of a table is a query."""
    return name.startswith(SQL)


def query_table(query: str, database: str, base: Path = Path()) -> pa.Table:
    """The rows of a query.

    Args:
        query: `sql:SELECT ...`.
        database: see above.
        base: folder that the path of a DuckDB file, and those in its queries, start from.

    Raises:
        ConfigError: no database is named, or its package is missing.
        DataError: the database refuses the query, or cannot be reached.
    """
    address = address_of(database, KEY)
    text = query.removeprefix(SQL).strip()
    return _by_duckdb(text, address, base) if is_duckdb(address) else _by_sqlalchemy(text, address)


def _by_duckdb(text: str, address: str, base: Path) -> pa.Table:
    with duckdb_connection(address, base, KEY) as connection:
        return connection.execute(text).to_arrow_table()


def _by_sqlalchemy(text: str, address: str) -> pa.Table:
    with sqlalchemy_connection(address, KEY) as connection:
        import sqlalchemy

        found = connection.execute(sqlalchemy.text(text))
        names, rows = list(found.keys()), found.fetchall()
    if len(set(names)) < len(names):
        raise DataError(f"the query has several columns of one name among {', '.join(names)}; name them apart with AS")
    columns: list[Any] = [list(values) for values in zip(*rows, strict=True)] or [[] for _ in names]
    try:
        return pa.table(dict(zip(names, columns, strict=True)))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"a column of the query has values of several types ({error}); cast it in the query") from error


def folder_table(folder: Path) -> tuple[pa.Table, str]:
    """A folder of Parquet files as one table, and the sha256 of its files.

    Folders within may be named `day=2024-01-31`: `day` is then a column. Files and folders whose names begin with `.`
    or `_` are left out.

    Raises:
        DataError: it holds no Parquet file, or one that is not complete.
    """
    import pyarrow.dataset as ds  # brings pandas in

    files = sorted(
        file
        for file in folder.rglob("*.parquet")
        if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder} is a folder without Parquet files; name a file, or a folder of Parquet files")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(f"{file.relative_to(folder)} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    try:
        names = [str(file) for file in files]
        parts = ds.dataset(names, format="parquet", partitioning="hive", partition_base_dir=str(folder))
        return parts.to_table(), digest.hexdigest()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise DataError(f"{folder}: {str(error).splitlines()[0]}; write or copy the files again") from error
