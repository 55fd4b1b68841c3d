"""Delimited text to a table of strings, with the line of every row and a sentence for every way it can be broken."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ...base.arrays import I64
from ...base.errors import DataError
from .sniff import as_utf8, is_number
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
    body_at, first_line = 0, 1
    if header is None:
        body_at, first_line = _end_of_header(data, quoting)
        header = _header(data[:body_at], name, delimiter, quoting)
    if not data[body_at:].strip():
        raise DataError(f"{name} has no rows{' after its header line' if body_at else ''}, expected at least one")
    if columns is not None:
        check_columns(header, columns, name)
    body = data[body_at:]
    parsed, ragged = _parse(body, name, header, delimiter, quoting, columns, first_line)
    part = _locate(body, name, parsed.num_rows, len(ragged), first_line, quoting)
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


def _parse(
    body: bytes,
    name: str,
    header: Sequence[str],
    delimiter: str,
    quoting: bool,
    columns: Sequence[str] | None,
    first_line: int,
) -> tuple[pa.Table, list[Any]]:
    """The rows as strings, and the ragged ones apart: threads first, one by one when a line is ragged."""
    ragged: list[Any] = []

    def set_aside(row: Any) -> str:
        ragged.append(row)
        return "skip"

    def attempt(careful: bool) -> pa.Table:
        return pacsv.read_csv(
            pa.BufferReader(pa.py_buffer(body)),
            read_options=pacsv.ReadOptions(column_names=header, block_size=_BLOCK, use_threads=not careful),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoting else False,
                newlines_in_values=quoting,
                invalid_row_handler=set_aside if careful else None,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(columns) if columns is not None else None,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )

    try:
        return attempt(careful=False), []
    except pa.ArrowInvalid as error:
        _check_utf8(body, name, header, delimiter, first_line)
        try:
            return attempt(careful=True), ragged
        except pa.ArrowInvalid:
            raise DataError(f"{name} cannot be read as a table: {error}") from None


def _check_utf8(body: bytes, name: str, header: Sequence[str], delimiter: str, first_line: int) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        start = body.rfind(b"\n", 0, error.start) + 1
        line = body.count(b"\n", 0, error.start) + first_line
        at = min(body.count(delimiter.encode(), start, error.start), len(header) - 1)
        raise DataError(
            f'{name}, line {line}, column "{header[at]}": found byte 0x{body[error.start]:02x}, expected UTF-8 '
            'text; set encoding to what the file was written in (often "latin-1" or "gb18030"), or save it as UTF-8'
        ) from None


def _locate(body: bytes, name: str, rows: int, ragged: int, first_line: int, quoting: bool) -> Span:
    """The line of each row, ragged ones included: counted only where rows and lines do not go one to one."""
    lines = body.count(b"\n") + (not body.endswith(b"\n"))
    total = rows + ragged
    if lines == total:
        return Span(name, total, first_line)
    data = np.frombuffer(body, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not body.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate(([0], ends[:-1] + 1))
    number = np.arange(first_line, first_line + len(ends), dtype=np.int64)
    blank = (ends == starts) | ((ends == starts + 1) & (data[np.minimum(starts, len(data) - 1)] == ord("\r")))
    if total + int(blank.sum()) == lines:
        starting = ~blank
    elif quoting:
        marks = np.flatnonzero(data == ord('"'))
        open_at_end = np.searchsorted(marks, ends) % 2 == 1
        if open_at_end[-1]:
            _unclosed(body, name, first_line)
        inside = np.concatenate(([False], open_at_end[:-1]))  # the line continues a value of the line before
        starting = ~inside & ~blank
    else:
        starting = ~blank
    if int(starting.sum()) != total:
        return Span(name, total, first_line=None)  # stray quotation marks: rows can be counted, lines cannot
    return Span(name, total, first_line, number[starting])


def _unclosed(body: bytes, name: str, first_line: int) -> None:
    """Raise for the quotation mark that swallows the rest of the file, when that is what happened."""
    line = first_line
    open_line: int | None = None
    for text in body.split(b"\n"):
        if text.count(b'"') % 2:
            open_line = line if open_line is None else None
        line += 1
    raise DataError(
        f"{name}, line {open_line}: a quotation mark opens a value that is never closed; close it, or remove it"
    )


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
