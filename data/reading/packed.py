"""What lies inside a compressed file: gzip, bzip2, xz, zstd, lz4, or the only file of a zip archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ...base.errors import DataError

_Open = Callable[[Any], Any]


def _arrow(codec: str) -> _Open:
    def opened(handle: Any) -> Any:
        return pa.CompressedInputStream(pa.PythonFile(handle, mode="r"), codec)

    return opened


_FORMATS: tuple[tuple[bytes, str, _Open], ...] = (
    (b"\x1f\x8b", "gzip", lambda handle: gzip.GzipFile(fileobj=handle)),
    (b"BZh", "bzip2", bz2.BZ2File),
    (b"\xfd7zXZ\x00", "xz", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", "zstd", _arrow("zstd")),
    (b"\x04\x22\x4d\x18", "lz4", _arrow("lz4")),
)
_UNREAD = (
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; save the sheet as CSV"),
    (b"ORC", "an ORC file; write it as Parquet"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV or Parquet"),
)
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, pa.ArrowInvalid)
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
"""Ends of the names of compressed files."""


def plain_name(name: str) -> str:
    """The name of a file without the ending that says how it is compressed."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def unpacked(data: bytes, name: str, size: int = -1) -> bytes:
    """What a file holds: its bytes when they are not compressed.

    Args:
        data: the file's bytes.
        name: its name, for messages.
        size: how many bytes from the beginning; all by default.

    Raises:
        DataError: the data is damaged or ends too early, an archive holds several files, or no table at all.
    """
    if data[:4] == b"PK\x03\x04":
        return _only_member(data, name, size)
    for start, what in _UNREAD:
        if data.startswith(start):
            raise DataError(f"{name} is {what}")
    for start, kind, opened in _FORMATS:
        if data.startswith(start):
            try:
                with opened(io.BytesIO(data)) as stream:
                    inside: bytes = stream.read() if size < 0 else stream.read(size)
            except _DAMAGED as error:
                short = isinstance(error, EOFError) or "runcated" in str(error) or "ended before" in str(error)
                raise DataError(
                    f"{name}: the {kind} data {'ends too early' if short else 'is damaged'}, expected a complete file; "
                    "copy or download it again"
                ) from None
            if inside[257:262] == b"ustar":
                raise DataError(f"{name} is a tar archive, expected one table; unpack it and name the file")
            return inside
    return data if size < 0 else data[:size]


def head(path: Path, size: int) -> bytes:
    """The first bytes inside a file, compressed or not; of a file that cannot be read, nothing."""
    try:
        with path.open("rb") as handle:
            start = handle.read(8)
            packed = start.startswith((b"PK\x03\x04", *(mark for mark, _, _ in _FORMATS)))
            return unpacked(start + handle.read(), path.name, size) if packed else start + handle.read(size)
    except (OSError, DataError):
        return b""  # what is wrong is said when the file is read


def _only_member(data: bytes, name: str, size: int) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
            if any(n in ("[Content_Types].xml", "xl/workbook.xml") for n in names):
                raise DataError(f"{name} is an Excel workbook; save the sheet as CSV")
            if len(names) != 1:
                shown = ", ".join(PurePosixPath(n).name for n in names[:5]) + (", ..." if len(names) > 5 else "")
                raise DataError(
                    f"{name} holds {len(names)} files ({shown}), expected a zip with one table; unpack it and name one"
                )
            with archive.open(names[0]) as member:
                return member.read() if size < 0 else member.read(size)
    except RuntimeError:
        raise DataError(f"{name} is encrypted; unpack it") from None
    except _DAMAGED as error:
        raise DataError(f"{name} is no complete zip archive ({error}); copy or download it again") from None
