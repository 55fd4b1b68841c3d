"""Readers: CSV, Parquet and data frames to Arrow tables, with the line of every row kept for messages.

Text files are read as text only: no type is guessed and nothing but an empty value is missing, so that " NA" or
"None" stays the category it is. Only pyarrow is needed; pandas and polars frames are taken when handed in.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

from ...base.errors import DataError
from .mixed import mixed_as_text
from .one_type import one_type, plain_types
from .packed import head, unpacked
from .queries import folder_table
from .sniff import as_utf8, codec_of, delimiter_of, marked
from .stored import StoredParquet, StoredTable
from .tables import BadRows, Origin, RawTable, Span, Tables
from .text import check_columns, parse_text, store_text

Source = str | Path | Any
"""A path, an Arrow table, a pandas or polars DataFrame."""
LARGE = 256 << 20
"""Bytes from which on a plain text of events is parsed into a file of columns and not into memory."""
BEGINNING = 1 << 20
"""Bytes that show how a large text is written."""


def read_table(source: Source | Sequence[Source], columns: Iterable[str] | None = None, **options: Any) -> pa.Table:
    """Read one source into an Arrow table; `options` are those of `read`."""
    return read(source, columns, **options).table


def read_tables(
    events: Source | Sequence[Source],
    users: Source | Sequence[Source] | None = None,
    items: Source | Sequence[Source] | None = None,
    *,
    bad: BadRows | None = None,
    delimiter: str | Mapping[Any, str] | None = None,
    encoding: str | Mapping[Any, str] = "utf-8",
    header: Sequence[str] | Mapping[Any, Sequence[str]] | None = None,
    stored: bool = False,
) -> Tables:
    """Read events and, where given, users and items. One fingerprint over all.

    Args:
        events: the events, see `read`.
        users: the users.
        items: the items.
        bad: see `read`.
        delimiter: of every text file that has it in its first line, or by table (`events`, `users`, `items`).
        encoding: of every text file, or by table.
        header: column names of the events, or by table, where the files have no header line.
        stored: leave the columns of the events on disk until they are asked for, see `read`.
    """
    given = {"events": events, "users": users, "items": items}
    headers = header if isinstance(header, Mapping) else {"events": header}
    raw = {
        name: read(
            source,
            table=name,
            bad=bad,
            delimiter=delimiter.get(name) if isinstance(delimiter, Mapping) else delimiter,
            encoding=encoding.get(name, "utf-8") if isinstance(encoding, Mapping) else encoding,
            header=headers.get(name),
            stored=stored and name == "events",
        )
        for name, source in given.items()
        if source is not None
    }
    digest = combined_digest(part.digest for part in raw.values())
    return Tables(
        events=raw["events"].table,
        users=raw["users"].table if "users" in raw else None,
        items=raw["items"].table if "items" in raw else None,
        origin={name: part.origin for name, part in raw.items()},
        fingerprint=digest,
    )


def read(
    source: Source | Sequence[Source],
    columns: Iterable[str] | None = None,
    *,
    table: str = "events",
    delimiter: str | None = None,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    bad: BadRows | None = None,
    stored: bool = False,
) -> RawTable:
    """Read one source, or several of the same columns one after the other.

    Args:
        source: a text file, a Parquet or a Feather file (each may be compressed, see `packed`), a folder of Parquet
            files, an Arrow table, or a pandas or polars frame.
        columns: the columns to keep, in this order; all by default.
        table: what the table is called in messages (`events`, `users`, `items`, or the name of a frame).
        delimiter: between the values of a text file; found from its first lines by default. With several characters,
            quotation marks are ordinary characters.
        encoding: of a text file that begins with no byte order mark.
        header: column names of a text file without a header line.
        bad: where lines with too few or too many values go; by default the first of them is an error.
        stored: leave the columns of Parquet files and of large plain texts on disk until they are asked for: a
            `StoredTable`.

    Raises:
        DataError: missing, empty, truncated or unreadable file; wrong encoding; ragged line; missing column.
    """
    if isinstance(source, list | tuple) and len(source) == 1:
        source = source[0]
    if isinstance(source, list | tuple):
        options: dict[str, Any] = {"table": table, "delimiter": delimiter, "encoding": encoding, "header": header}
        return concatenate([read(one, columns, bad=bad, stored=stored, **options) for one in source])
    wanted = None if columns is None else list(columns)
    if not isinstance(source, str | Path):
        return _read_frame(source, wanted, f"the {table} frame")
    path = Path(source)
    if path.is_dir():
        folder, found = folder_table(path)
        return _from_arrow(folder, path.name, wanted, found)
    if stored and wanted is None and (on_disk := _stored(path, table, delimiter, encoding, header, bad)) is not None:
        return on_disk
    data = file_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    data = unpacked(data, path.name)
    if data.startswith((b"PAR1", b"ARROW1")):
        return _read_typed(path, data, wanted, digest)
    data = as_utf8(data, path.name, encoding)
    mark = delimiter_of(data, path.name, delimiter or "", len(header or ()))
    return parse_text(
        data,
        path.name,
        columns=wanted,
        header=header,
        table=table,
        delimiter=mark,
        quoting=len(mark) == 1,
        bad=bad,
        digest=digest,
    )


def _stored(
    path: Path,
    table: str,
    delimiter: str | None,
    encoding: str,
    header: Sequence[str] | None,
    bad: BadRows | None,
) -> RawTable | None:
    """A Parquet file or a large plain text, its columns on disk; None of anything else. Arguments as of `read`."""
    start = head(path, 4)
    if start.startswith(b"PAR1"):
        on_disk = StoredTable([StoredParquet(path)])
        _refuse_empty(on_disk, path.name)
        return RawTable(on_disk, Origin((Span(path.name, on_disk.num_rows, first_line=None),)), _digest(path))
    if not start or path.stat().st_size < LARGE or codec_of(encoding) != "utf-8":
        return None
    with path.open("rb") as handle:
        beginning = handle.read(BEGINNING)
    if unpacked(beginning[:512], path.name, 512) != beginning[:512] or marked(beginning) not in ("", "utf-8"):
        return None
    text = beginning.removeprefix(codecs.BOM_UTF8)
    mark = delimiter_of(text, path.name, delimiter or "", len(header or ()))
    lines = text.count(b"\n")
    if len(mark) > 1 or lines < 2 or b"\x00" in text[:200] or not text[text.find(b"\n") :].strip():
        return None
    return store_text(path, beginning, _digest(path), header=header, table=table, delimiter=mark, bad=bad)


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def concatenate(parts: Sequence[RawTable]) -> RawTable:
    """Tables of the same columns one after the other; a DataError when the columns differ."""
    if not parts:
        raise DataError("an empty list of files was given, expected at least one; name a file")
    first = parts[0]
    for part in parts[1:]:
        odd = set(first.table.column_names) ^ set(part.table.column_names)
        if odd:
            raise DataError(
                f"{first.origin} and {part.origin} do not have the same columns: {', '.join(sorted(odd))} "
                "only in one of them; give both the same columns"
            )
    origin = Origin(tuple(p for part in parts for p in part.origin.parts))
    digest = first.digest if len(parts) == 1 else combined_digest(p.digest for p in parts)
    kept = [part.table for part in parts if isinstance(part.table, StoredTable)]
    joined = StoredTable.joined(kept) if len(kept) == len(parts) else None
    if joined is not None:
        return RawTable(joined, origin, digest)
    whole = [part.table.whole() if isinstance(part.table, StoredTable) else part.table for part in parts]
    tables = one_type(whole, [str(part.origin) for part in parts])
    return RawTable(pa.concat_tables(tables, promote_options="permissive"), origin, digest)


def combined_digest(digests: Iterable[str]) -> str:
    """One sha256 for several files: the hash of their hashes in reading order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_bytes(path: Path) -> bytes:
    """The bytes of a file; a DataError that says what stands there when it is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_nearest(path)}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, expected a file; name the file in it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    if not data:
        raise DataError(f"{path.name} is empty (0 bytes), expected a table; write or download it again")
    return data


def _read_typed(path: Path, data: bytes, columns: Sequence[str] | None, digest: str) -> RawTable:
    kind = "Parquet" if data.startswith(b"PAR1") else "Feather"
    try:
        table = (pq.read_table if kind == "Parquet" else feather.read_table)(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path.name} is no complete {kind} file ({str(error).splitlines()[0]}); write or copy it again"
        ) from None
    return _from_arrow(table, path.name, columns, digest)


def _read_frame(frame: Any, columns: Sequence[str] | None, name: str) -> RawTable:
    kind = type(frame).__module__.partition(".")[0]
    if isinstance(frame, pa.Table):
        table = frame
    elif kind == "pandas" and hasattr(frame, "columns"):
        table = _from_pandas(frame, name)
    elif kind == "polars" and hasattr(frame, "to_arrow") and hasattr(frame, "columns"):
        table = frame.to_arrow()
    else:
        raise DataError(
            f"a {type(frame).__name__} was given as a table, expected a path, an Arrow table, "
            "or a pandas or polars DataFrame"
        )
    for place, field in enumerate(table.schema):
        if str(field.type) == "extension<arrow.uuid>":
            texts = [None if value is None else str(value) for value in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    digest = hashlib.sha256()
    for column in table.column_names:
        digest.update(column.encode())
        for value in table.column(column).chunks:
            for buffer in pa.concat_arrays([value]).buffers():
                digest.update(b"" if buffer is None else buffer)
    return _from_arrow(table, name, columns, digest.hexdigest())


def _from_pandas(frame: Any, name: str) -> pa.Table:
    """A pandas frame with the levels of its index that have a name, such as ids after `set_index`, as columns."""
    if not frame.columns.is_unique:
        twice = ", ".join(sorted({f'"{column}"' for column in frame.columns[frame.columns.duplicated()]}))
        raise DataError(f"{name} has several columns of the name {twice}; rename or drop all but one")
    named = [level for level in frame.index.names if level is not None and level not in frame.columns]
    frame = frame.reset_index(level=named) if named else frame
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        frame = mixed_as_text(frame, name)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{name}: {'; '.join(map(str, error.args))}; give each column one type") from None


def _from_arrow(table: pa.Table, name: str, columns: Sequence[str] | None, digest: str) -> RawTable:
    _refuse_empty(table, name)
    if columns is not None:
        check_columns(table.column_names, columns, name)
        table = table.select(columns)
    table = plain_types(table)
    return RawTable(table, Origin((Span(name, table.num_rows, first_line=None),)), digest)


def _refuse_empty(table: pa.Table | StoredTable, name: str) -> None:
    if table.num_rows == 0:
        raise DataError(f"{name} has no rows, expected at least one")


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent}); correct the path"
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f'; did you mean "{close[0]}"?' if close else "; correct the path"
