"""Delimited text to a table of strings, with the line of every row and a sentence for every way it can be broken."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ...base.arrays import I64
from ...base.errors import DataError
from .body import Body
from .sniff import as_utf8, is_number
from .stored import StoredBatches, StoredTable
from .tables import BadRow, BadRows, Origin, RawTable, Span

_BLOCK = 8 << 20
"""Bytes parsed at a time; no row may be longer."""


def parse_text(
    data: bytes,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    header: Sequence[str] | None = None,
    table: str = "events",
    delimiter: str = ",",
    quoting: bool = True,
    encoding: str = "utf-8",
    bad: BadRows | None = None,
    digest: str | None = None,
) -> RawTable:
    """Parse delimited text into a table of strings; see `read`.

    Args:
        data: the text, unpacked.
        name: file name for messages.
        columns: those to keep; all by default.
        header: column names of a file without a header line.
        table: the table's name, for the record of bad rows.
        delimiter: one character, or more (`::`) where values are never quoted.
        quoting: False when quotation marks are ordinary characters.
        encoding: converted to UTF-8 first when it is another.
        bad: where ragged lines go.
        digest: sha256 of the source file, if it is not simply that of `data`.
    """
    digest = digest or hashlib.sha256(data).hexdigest()
    data = as_utf8(data, name, encoding)
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), b"\x1f"), "\x1f"
    header, body_at, first_line = _head(data, name, header, delimiter, quoting)
    if not data[body_at:].strip():
        raise _empty(name, body_at)
    if columns is not None:
        check_columns(header, columns, name)
    body = Body.of(data[body_at:], name, first_line, quoting)
    parsed, ragged = _attempts(
        body, header, delimiter, lambda careful: _whole(body, header, delimiter, columns, careful)
    )
    return _with_lines(parsed, body, ragged, table, bad, digest)


def store_text(
    path: Path,
    beginning: bytes,
    digest: str,
    *,
    header: Sequence[str] | None = None,
    table: str = "events",
    delimiter: str = ",",
    bad: BadRows | None = None,
) -> RawTable:
    """As `parse_text` of a plain UTF-8 file that need not fit into memory: a `StoredTable`.

    Args:
        path: of the file.
        beginning: bytes from its beginning, the header line and the first row among them.
        digest: sha256 of the file.
        header: column names of a file without a header line.
        table: the table's name, for the record of bad rows.
        delimiter: one character.
        bad: where ragged lines go.
    """
    mark = len(beginning) - len(beginning.removeprefix(codecs.BOM_UTF8))
    header, body_at, first_line = _head(beginning[mark:], path.name, header, delimiter, True)
    body = Body.in_file(path, mark + body_at, first_line, True)

    def stored(careful: bool) -> tuple[StoredTable, list[Any]]:
        ragged: list[Any] = []
        with body.opened() as stream:
            reader = pacsv.open_csv(stream, **_options(body, header, delimiter, None, ragged if careful else None))
            return StoredTable([StoredBatches(path.name, reader.schema, reader)]), ragged

    parsed, ragged = _attempts(body, header, delimiter, stored)
    return _with_lines(parsed, body, ragged, table, bad, digest)


def _head(
    data: bytes, name: str, header: Sequence[str] | None, delimiter: str, quoting: bool
) -> tuple[Sequence[str], int, int]:
    """Column names, where the first row begins, and on which line."""
    if header is not None:
        return header, 0, 1
    body_at, first_line = _end_of_header(data, quoting)
    return _header(data[:body_at], name, delimiter, quoting), body_at, first_line


def _empty(name: str, body_at: int) -> DataError:
    return DataError(f"{name} has no rows{' after its header line' if body_at else ''}, expected at least one")


def _with_lines(
    parsed: Any, body: Body, ragged: Sequence[Any], table: str, bad: BadRows | None, digest: str
) -> RawTable:
    part = body.located(parsed.num_rows + len(ragged))
    if ragged:
        part = _set_aside(part, ragged, table, bad or BadRows())
    return RawTable(parsed, Origin((part,)), digest)


def check_columns(present: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Raise DataError for the first wanted column that is not there, naming the nearest that is."""
    for column in wanted:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f'did you mean "{close[0]}"?' if close else missing_column_mend(present)
            raise DataError(f'{name}: no column "{column}", only {", ".join(present)}; {hint}')


HEADLESS = (
    'write a header line, or name the columns in order: header = ["user_id", ...] or { users = ["user_id", ...] }'
)
"""How to mend a file whose first line is a row."""


def missing_column_mend(present: Sequence[str]) -> str:
    """What to do about a column that is not among those present, which may be the values of a first row."""
    headless = any(map(is_number, present))
    return f"the first line looks like a row: {HEADLESS}" if headless else "add it or correct the config"


def _end_of_header(data: bytes, quoting: bool) -> tuple[int, int]:
    """Where the first row begins, and on which line: a header value may itself be a quoted text of two lines."""
    end = data.find(b"\n")
    while quoting and end >= 0 and data.count(b'"', 0, end) % 2:
        end = data.find(b"\n", end + 1)
    if end < 0:
        return len(data), 2
    return end + 1, 1 + data.count(b"\n", 0, end + 1)


def _header(line: bytes, name: str, delimiter: str, quoting: bool) -> list[str]:
    try:
        text = io.StringIO(line.decode("utf-8"), newline="")
    except UnicodeDecodeError:
        raise DataError(
            f"{name}, line 1: the header is not UTF-8 text; set encoding to what the file was written in"
        ) from None
    lines = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
    header = [value.strip() for value in next(lines, [])]
    twice = next((value for i, value in enumerate(header) if value in header[:i]), None)
    if twice is not None and any(map(is_number, header)):
        raise DataError(
            f'{name}, line 1: "{text.getvalue().strip()[:60]}" looks like a row, expected the names of the columns; '
            f"{HEADLESS}"
        )
    if twice is not None:
        raise DataError(f'{name}, line 1: column "{twice}" stands twice in the header; rename one of them')
    if not header or "" in header:
        at = header.index("") + 1 if header else 1
        raise DataError(
            f"{name}, line 1: column {at} of the header has no name, expected one; name it (row numbers that pandas "
            "wrote are left out with index=False)"
        )
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise DataError(
            f'{name}, line 1: one single column "{header[0]}" found when split at "{delimiter}"; '
            f"set delimiter = {json.dumps(other)}"
        )
    return header


T = TypeVar("T")


def _attempts(
    body: Body, header: Sequence[str], delimiter: str, attempt: Callable[[bool], tuple[T, list[Any]]]
) -> tuple[T, list[Any]]:
    """The rows as strings, and the ragged ones apart: threads first, one by one when a line is ragged."""
    try:
        return attempt(False)
    except pa.ArrowInvalid as error:
        body.refuse_other_encoding(header, delimiter)
        try:
            return attempt(True)
        except pa.ArrowInvalid:
            raise DataError(f"{body.name} cannot be read as a table: {error}") from None


def _whole(
    body: Body, header: Sequence[str], delimiter: str, columns: Sequence[str] | None, careful: bool
) -> tuple[pa.Table, list[Any]]:
    ragged: list[Any] = []
    with body.opened() as stream:
        options = _options(body, header, delimiter, columns, ragged if careful else None)
        return pacsv.read_csv(stream, **options), ragged


def _options(
    body: Body, header: Sequence[str], delimiter: str, columns: Sequence[str] | None, ragged: list[Any] | None
) -> dict[str, Any]:
    """How Arrow reads the rows as strings; `ragged` gets the lines of too few or too many values."""

    def set_aside(row: Any) -> str:
        assert ragged is not None
        ragged.append(row)
        return "skip"

    careful = ragged is not None
    return {
        "read_options": pacsv.ReadOptions(column_names=header, block_size=_BLOCK, use_threads=not careful),
        "parse_options": pacsv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if body.quoting else False,
            newlines_in_values=body.quoting,
            invalid_row_handler=set_aside if careful else None,
        ),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=list(columns) if columns is not None else None,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    }


def _set_aside(part: Span, ragged: Sequence[Any], table: str, bad: BadRows) -> Span:
    width = ragged[0].expected_columns
    numbers: I64 = np.array([row.number - 1 for row in ragged], dtype=np.int64)
    records = [
        BadRow(
            table=table,
            file=part.name,
            place=part.place(int(n)),
            column="",
            found=f"{row.actual_columns} value{'s' if row.actual_columns > 1 else ''}",
            expected=f"{width}",
        )
        for n, row in zip(numbers, ragged, strict=True)
    ]
    bad.add_unread(records, mend="the line")
    keep = np.ones(part.rows, dtype=bool)
    keep[numbers] = False
    return part.take(keep)
