"""Raw tables as they were read, with the file and line of every row, and the record of rows that had to go.

`Tables` is what every reader and every public source returns. Nothing is encoded here: columns read from text
stay text until `columns.py` converts them, because a message about a bad value must be able to quote it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64, Bool
from ...base.counting import STEP
from ...base.errors import DataError
from ...base.files import replacing
from ..notation import Notation

if TYPE_CHECKING:
    from ..pretrained import Pretrained

OnBadRows = Literal["error", "drop"]


@dataclass(frozen=True)
class Span:
    """One file's share of a table: its name, its number of rows, and the line each row stands on."""

    name: str
    rows: int
    first_line: int | None = None
    """Line of the first row when every row is one line; None where rows have no lines (Parquet, data frames)."""
    lines: I64 | None = None
    """`[rows]` the line of each row, where blank lines, quoted line breaks or dropped rows make it irregular."""

    def place(self, row: int) -> str:
        """Where a row stands, as `line 17` of a text file or `row 16` of anything else (both from 1)."""
        if self.lines is not None:
            return f"{'row' if self.first_line is None else 'line'} {self.lines[row]}"
        return f"row {row + 1}" if self.first_line is None else f"line {self.first_line + row}"

    def take(self, keep: Bool) -> Span:
        """The part that remains after rows were dropped; `keep` is a `[rows]` mask."""
        lines = self.lines
        if lines is None:
            lines = np.arange(self.rows, dtype=np.int64) + (1 if self.first_line is None else self.first_line)
        return replace(self, rows=int(keep.sum()), lines=lines[keep])


@dataclass(frozen=True)
class Origin:
    """The files a table was read from, in row order."""

    parts: tuple[Span, ...]

    def __str__(self) -> str:
        return ", ".join(part.name for part in self.parts)

    def find(self, row: int) -> tuple[str, str]:
        """File name and place (`line 17`) of a row of the whole table."""
        for part in self.parts:
            if row < part.rows:
                return part.name, part.place(row)
            row -= part.rows
        raise IndexError(f"row {row} lies {row} rows after the end of {self}")

    def take(self, keep: Bool) -> Origin:
        """The origin of the rows that `keep` (a mask over the whole table) leaves."""
        bounds = np.cumsum([part.rows for part in self.parts])[:-1]
        return Origin(tuple(p.take(k) for p, k in zip(self.parts, np.split(keep, bounds), strict=True)))


@dataclass(frozen=True)
class RawTable:
    """A table as read, the place of each row, and the sha256 of its bytes."""

    table: pa.Table
    origin: Origin
    digest: str


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Events, and the users and items they speak of, exactly as read.

    `fingerprint` is a sha256 over the bytes of all source files; `notes` are sentences a report must repeat; `vectors`
    are the pretrained ones of the features that have any; `notation` says how the texts are written; `step` rows of a
    column are typed at a time.
    """

    events: pa.Table
    users: pa.Table | None
    items: pa.Table | None
    origin: dict[str, Origin]
    fingerprint: str
    notes: tuple[str, ...] = ()
    vectors: Mapping[str, Pretrained] = field(default_factory=dict)
    notation: Notation = field(default_factory=Notation)
    step: int = STEP

    def table(self, name: str) -> pa.Table:
        """One of the three tables by name; a DataError where it was not given."""
        found = {"events": self.events, "users": self.users, "items": self.items}.get(name)
        if found is None:
            given = " and ".join(n for n in ("events", "users", "items") if getattr(self, n) is not None)
            raise DataError(f"no {name} table was given, only {given}; give one, or declare no {name} columns")
        return found

    def keep(self, name: str, mask: Bool) -> Tables:
        """The same tables with only the rows of `name` that `mask` (`[rows]`) keeps; places stay true."""
        if bool(mask.all()):
            return self
        changed: dict[str, Any] = {name: self.table(name).filter(pa.array(mask))}
        return replace(self, origin={**self.origin, name: self.origin[name].take(mask)}, **changed)

    def written(self, notation: Notation) -> Tables:
        """The same tables with another notation, and nothing where it has a word for it."""
        if not notation.missing:
            return replace(self, notation=notation)
        named = ("events", "users", "items")
        there: dict[str, Any] = {
            name: _without(table, notation.missing) for name in named if (table := getattr(self, name)) is not None
        }
        return replace(self, notation=notation, **there)

    def __repr__(self) -> str:
        sizes = (
            f"{n}: {t.num_rows:,} x {t.num_columns}"
            for n in ("events", "users", "items")
            if (t := getattr(self, n)) is not None
        )
        return f"Tables({'; '.join(sizes)})"


def _without(table: pa.Table, words: Sequence[str]) -> pa.Table:
    """The table with null where a text is one of the words."""
    nothing = pa.array(words, pa.string())
    for place, field_ in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_dictionary(field_.type):
            column = column.cast(field_.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            found = pc.is_in(column, value_set=nothing.cast(column.type))
            if pc.any(found).as_py():
                table = table.set_column(place, field_.name, pc.if_else(found, pa.scalar(None, column.type), column))
    return table


def quote(value: object) -> str:
    """A value as a message shows it: `nothing` for a missing one, text in quotes, long text shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else value[:57] + "..."
        return '"' + shown.replace("\n", "\\n") + '"'
    return str(value)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row that is not what it should be."""

    table: str
    file: str
    place: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        column = f', column "{self.column}"' if self.column else ""
        return f"{self.file}, {self.place}{column}: found {self.found}, expected {self.expected}"


@dataclass
class BadRows:
    """What happens to bad rows: the first one is an error, or all are collected, counted and written down.

    Under `policy="error"` every check raises at once. Under `"drop"` the checks record the rows here and return
    placeholders for them; the caller then keeps `tables.keep(name, bad.mask(name, rows))`.
    """

    policy: OnBadRows = "error"
    may_drop: bool = True
    """Whether a message may name `on_bad_rows` as a way out: the values of a request are mended, not dropped."""
    records: list[BadRow] = field(default_factory=list)
    _rows: dict[str, set[int]] = field(default_factory=dict)

    def add(
        self,
        table: str,
        origin: Origin,
        *,
        rows: Sequence[int],
        column: str,
        found: Sequence[str],
        expected: str,
    ) -> None:
        """Record bad rows of a table that was read, or raise DataError for the first of them.

        Args:
            table: `events`, `users` or `items`.
            origin: where the table's rows come from.
            rows: row numbers in the table, from 0.
            column: the column at fault.
            found: what stands there, one text a row, as `quote` shows it.
            expected: what should stand there.
        """
        located = (origin.find(int(row)) for row in rows)
        bad = [
            BadRow(table=table, file=file, place=place, column=column, found=shown, expected=expected)
            for (file, place), shown in zip(located, found, strict=True)
        ]
        self.add_unread(bad)
        self._rows.setdefault(table, set()).update(int(row) for row in rows)

    def add_unread(self, bad: Sequence[BadRow], mend: str = "the value") -> None:
        """Record rows that never entered a table (a line with too many values), or raise for the first."""
        if bad and self.policy == "error":
            more = len(bad) - 1
            others = {0: mend, 1: "it and 1 more like it"}.get(more, f"it and {more:,} more like it")
            way_out = ' or set on_bad_rows = "drop"' if self.may_drop else ""
            raise DataError(f"{bad[0]}; mend {others}{way_out}")
        self.records.extend(bad)

    def mask(self, table: str, rows: int) -> Bool:
        """`[rows]` True for the rows to keep; a DataError when none would remain."""
        keep = np.ones(rows, dtype=bool)
        keep[sorted(self._rows.get(table, ()))] = False
        if rows and not keep.any():
            first = next(record for record in self.records if record.table == table)
            raise DataError(f"all {rows:,} rows of the {table} table are bad, nothing remains; the first: {first}")
        return keep

    def count(self, table: str | None = None) -> int:
        """Number of rows dropped (each once, however many of its values are bad), of one table or of all."""
        return len({(r.file, r.place) for r in self.records if table in (None, r.table)})

    def write(self, path: Path) -> None:
        """Write the dropped rows as CSV (table, file, place, column, found, expected); whole or not at all."""
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["table", "file", "place", "column", "found", "expected"])
            writer.writerows([r.table, r.file, r.place, r.column, r.found, r.expected] for r in self.records)
