"""The rows of a text as bytes, in memory or in a file, and the line on which each of them stands."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ...base.arrays import I64
from ...base.errors import DataError
from .tables import Span

BLOCK = 32 << 20
"""Bytes of a file that are looked at together."""


@dataclass(frozen=True)
class Body:
    """A text behind its header line.

    Attributes:
        name: of its file, for messages.
        first_line: line on which it begins.
        quoting: whether a value may be quoted.
        opened: gives the text as a stream, from its beginning.
    """

    name: str
    first_line: int
    quoting: bool
    opened: Callable[[], IO[bytes]]

    @classmethod
    def of(cls, data: bytes, name: str, first_line: int, quoting: bool) -> Body:
        """A text in memory."""
        return cls(name, first_line, quoting, lambda: io.BytesIO(data))

    @classmethod
    def in_file(cls, path: Path, start: int, first_line: int, quoting: bool) -> Body:
        """A text that stands in a file, from some byte on."""

        def opened() -> IO[bytes]:
            handle = path.open("rb")
            handle.seek(start)
            return handle

        return cls(path.name, first_line, quoting, opened)

    def blocks(self) -> Iterator[bytes]:
        """The text in parts of whole lines."""
        rest: list[bytes] = []
        with self.opened() as stream:
            while block := stream.read(BLOCK):
                end = block.rfind(b"\n") + 1
                if end:
                    yield b"".join([*rest, block[:end]])
                    rest = []
                rest.append(block[end:])
        if last := b"".join(rest):
            yield last

    @property
    def lines(self) -> int:
        """How many there are."""
        count, last = 0, b""
        for block in self.blocks():
            count, last = count + block.count(b"\n"), block
        return count + (not last.endswith(b"\n"))

    def located(self, rows: int) -> Span:
        """The line of each of so many rows, ragged ones included: looked for only where lines and rows differ.

        Raises:
            DataError: a quotation mark swallows the rest of the text.
        """
        lines = self.lines
        if lines == rows:
            return Span(self.name, rows, self.first_line)
        plain: list[I64] = []  # lines that are not blank
        begun: list[I64] = []  # of these, lines that do not continue a value of the line before
        number, inside = self.first_line, False
        for block in self.blocks():
            data = np.frombuffer(block, dtype=np.uint8)
            ends = np.flatnonzero(data == ord("\n"))
            if not block.endswith(b"\n"):
                ends = np.append(ends, len(data))
            starts = np.concatenate(([0], ends[:-1] + 1))
            blank = (ends == starts) | ((ends == starts + 1) & (data[np.minimum(starts, len(data) - 1)] == ord("\r")))
            numbers = np.arange(number, number + len(ends), dtype=np.int64)
            plain.append(numbers[~blank])
            if self.quoting:
                open_at_end = (np.searchsorted(np.flatnonzero(data == ord('"')), ends) + inside) % 2 == 1
                begun.append(numbers[~np.concatenate(([inside], open_at_end[:-1])) & ~blank])
                inside = bool(open_at_end[-1])
            number += len(ends)
        starting = np.concatenate(plain)
        if len(starting) != rows and self.quoting:
            if inside:
                self._refuse_unclosed()
            starting = np.concatenate(begun)
        if len(starting) != rows:
            return Span(self.name, rows, first_line=None)  # stray quotation marks: rows can be counted, lines cannot
        return Span(self.name, rows, self.first_line, starting)

    def _refuse_unclosed(self) -> None:
        """Raise for the quotation mark that swallows the rest of the file."""
        line = self.first_line
        open_line: int | None = None
        for block in self.blocks():
            for text in block.split(b"\n")[: block.count(b"\n") or None]:
                if text.count(b'"') % 2:
                    open_line = line if open_line is None else None
                line += 1
        raise DataError(
            f"{self.name}, line {open_line}: a quotation mark opens a value that is never closed; close it, or remove "
            "it"
        )

    def refuse_other_encoding(self, header: Sequence[str], delimiter: str) -> None:
        """Raise DataError for the first byte that is no UTF-8."""
        line = self.first_line
        for block in self.blocks():
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                start = block.rfind(b"\n", 0, error.start) + 1
                line += block.count(b"\n", 0, error.start)
                at = min(block.count(delimiter.encode(), start, error.start), len(header) - 1)
                raise DataError(
                    f'{self.name}, line {line}, column "{header[at]}": found byte 0x{block[error.start]:02x}, expected '
                    'UTF-8 text; set encoding to what the file was written in (often "latin-1" or "gb18030"), or save '
                    "it as UTF-8"
                ) from None
            line += block.count(b"\n")
