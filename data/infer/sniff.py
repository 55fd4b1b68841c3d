"""How a text file is written, seen from its first lines: what parts its values, and whether it has a header."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

from ...base.errors import DataError

_DELIMITERS = ("\t", ";", ",", "|", "::")
_LINES = 30
_BYTES = 1 << 16


def sniff_delimiter(path: Path) -> str:
    """What parts the values of a text file; empty for Parquet files, and where a comma is as good as anything.

    The delimiter that cuts all of the first lines into the same number of values, the more values the better.
    """
    lines = first_lines(path)
    if not lines:
        return ""
    best, width = "", 1
    for delimiter in _DELIMITERS:
        widths = {len(row) for row in _rows(lines, delimiter)}
        if len(widths) == 1 and (columns := widths.pop()) > width:
            best, width = delimiter, columns
    if best == "," and all(line.count(", ") == line.count(",") for line in lines) and '"' not in "".join(lines):
        return ", "
    usual = "\t" if path.name.removesuffix(".gz").endswith((".tsv", ".tab")) else ","
    return "" if best == usual else best


def require_header(path: Path, delimiter: str) -> None:
    """Raise DataError when the first line of a text file is a row.

    Args:
        path: the file.
        delimiter: as `sniff_delimiter` found it.
    """
    lines = first_lines(path)
    if not lines:
        return
    first = _rows(lines[:1], delimiter or ("\t" if path.name.removesuffix(".gz").endswith((".tsv", ".tab")) else ","))
    numbers = [cell for row in first for cell in row if _is_number(cell)]
    if numbers:
        raise DataError(
            f'{path.name}, line 1: found "{lines[0][:60]}", expected the names of the columns; write a header line, '
            "or name the columns of the events with header (--header A,B,C)"
        )


def first_lines(path: Path) -> list[str]:
    """Up to 30 lines from the start of a text file, none of a Parquet file or of one that cannot be read."""
    try:
        start = _head(path, 4)
        if start == b"PAR1":
            return []
        data = _head(path, _BYTES, packed=start[:2] == b"\x1f\x8b")
    except (OSError, EOFError):
        return []  # what is wrong is said when the file is read
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    lines = text.splitlines()
    whole = lines if len(data) < _BYTES else lines[:-1]
    return [line for line in whole if line.strip()][:_LINES]


def _head(path: Path, size: int, packed: bool = False) -> bytes:
    with gzip.open(path) if packed else path.open("rb") as handle:
        return handle.read(size)


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.split(delimiter) for line in lines]
    return list(csv.reader(lines, delimiter=delimiter))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
