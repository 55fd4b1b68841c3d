"""How a text file is written, seen from its first lines: encoding, delimiter, and whether there is a header."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from pathlib import Path

from ...base.errors import DataError
from .packed import head, plain_name

_DELIMITERS = ("\t", ";", ",", "|", "::")
_LINES = 30
_BYTES = 1 << 16
_SNIFFED = 1 << 24
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file in these encodings begins with; the longer ones first."""


def as_utf8(data: bytes, name: str, encoding: str = "utf-8") -> bytes:
    r"""The text as UTF-8 with lines that end in \n; a byte order mark says the encoding better than any setting.

    Args:
        data: of the file, unpacked.
        name: of the file, for messages.
        encoding: of a text without a mark.

    Raises:
        DataError: it is not text of that encoding.
    """
    encoding = marked(data) or encoding
    if codec_of(encoding) != "utf-8":
        try:
            data = data.decode(encoding).encode("utf-8")
        except (UnicodeDecodeError, LookupError):
            raise DataError(f"{name} is not {encoding} text; set encoding to what it was written in") from None
    elif b"\x00" in data[:200]:
        little = data[1:2] == b"\x00"
        raise DataError(
            f'{name} is not UTF-8 text, but looks like UTF-16; set encoding = "utf-16-{"le" if little else "be"}"'
        )
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data if b"\n" in data else data.replace(b"\r", b"\n")  # lines of old Macintosh files


def marked(data: bytes) -> str:
    """Encoding that a byte order mark says; empty without one."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "")


def likely_encoding(paths: Sequence[Path]) -> str:
    """Encoding of text files that go together: UTF-8, or cp1252 (Western European) where one of them is not UTF-8.

    Which single-byte encoding it is cannot be told from the bytes; a person sees it from the letters.
    """
    plain: list[bytes] = []
    western: list[bytes] = []
    for path in paths:
        data = head(path, _SNIFFED)
        if data[:4] == b"PAR1" or any(data.startswith(mark) for mark, _ in _MARKS) or b"\x00" in data[:200]:
            continue  # says itself what it is, or is told when it is read
        cut = data[: data.rfind(b"\n") + 1] or data  # no half character at the end
        (plain if _decodes(cut, "utf-8") else western).append(cut)
    mixed = any(not _decodes(data, "ascii") for data in plain)
    return "cp1252" if western and not mixed and all(_decodes(data, "cp1252") for data in western) else "utf-8"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def codec_of(encoding: str) -> str:
    """The one name of an encoding that has several; its own where it is unknown."""
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return encoding


def usual_delimiter(name: str) -> str:
    """What a file of this name should be parted by: a tab in .tsv and .tab files, else a comma."""
    return "\t" if plain_name(name).endswith((".tsv", ".tab")) else ","


def found_delimiter(lines: Sequence[str], usual: str, width: int = 0) -> str:
    """The delimiter that cuts all of the first lines into the same number of values, the more values the better.

    Args:
        lines: the first lines, with the header line where there is one.
        usual: the answer where none does, and where another is no better.
        width: how many values there must be; any number by default.
    """
    best, most = usual, 1
    for delimiter in (usual, *_DELIMITERS):
        widths = {len(row) for row in _rows(lines, delimiter)}
        if len(widths) == 1 and (columns := widths.pop()) > most and columns == (width or columns):
            best, most = delimiter, columns
    return best


def delimiter_of(data: bytes, name: str, given: str = "", width: int = 0) -> str:
    """What parts the values of a text.

    Args:
        data: the text, see `as_utf8`.
        name: of its file.
        given: the setting for all files, for a file whose first line has it.
        width: how many columns there are, where the file has no header line.
    """
    lines = lines_of(data)
    if given and (not lines or given in lines[0]):
        return given
    return found_delimiter(lines, given or usual_delimiter(name), width)


def sniff_delimiter(path: Path) -> str:
    """What parts the values of a text file; empty for Parquet files, and where a comma is as good as anything."""
    lines, usual = first_lines(path), usual_delimiter(path.name)
    if not lines:
        return ""
    found = found_delimiter(lines, usual)
    if found == "," and all(line.count(", ") == line.count(",") > 0 for line in lines) and '"' not in "".join(lines):
        return ", "
    return "" if found == usual else found


def require_header(path: Path) -> None:
    """Raise DataError when the first line of a text file is a row."""
    lines = first_lines(path)
    if not lines:
        return
    first = _rows(lines[:1], found_delimiter(lines, usual_delimiter(path.name)))
    if any(is_number(cell) for row in first for cell in row):
        raise DataError(
            f'{path.name}, line 1: found "{lines[0][:60]}", expected the names of the columns; write a header line, '
            "or name the columns of the events with header (--header A,B,C)"
        )


def first_lines(path: Path) -> list[str]:
    """Up to 30 lines from the start of a text file, none of a Parquet file or of one that cannot be read."""
    data = head(path, _BYTES)
    try:
        return [] if data[:4] == b"PAR1" else lines_of(as_utf8(data, path.name), whole=len(data) < _BYTES)
    except DataError:
        return []  # what is wrong is said when the file is read


def lines_of(data: bytes, whole: bool = True) -> list[str]:
    """Up to 30 lines that are not blank, from the start of a UTF-8 text; `whole` when the text does not end in one."""
    lines = data[:_BYTES].decode("utf-8", errors="replace").split("\n")
    complete = lines if whole and len(data) <= _BYTES else lines[:-1]
    return [line.removesuffix("\r") for line in complete if line.strip()][:_LINES]


def is_number(text: str) -> bool:
    """Whether a text is a number, which no column is called."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    if len(delimiter) > 1:
        return [line.split(delimiter) for line in lines]
    return list(csv.reader(lines, delimiter=delimiter))
