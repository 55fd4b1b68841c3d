"""Numbers and names of a report as text, and the tables that terminal, notebook and page are all made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
Level = str
"""How a text is set: "", "soft", "strong", "ok", "note", "warning", "problem" or "error"."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table.

    Attributes:
        text: what it is; None where it is undefined, which every output marks in its own way.
        note: small print beside it, such as its interval.
        level: how it is set off from its neighbours.
    """

    text: str | None
    note: str = ""
    level: Level = ""


Row = tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table without a form; `terminal` and the templates give it one.

    Attributes:
        heads: names of the columns; empty for a table of names and values.
        rows: cells, as many in each row as there are columns.
        title: above it.
        caption: below it.
        left: columns of words, which start at the left; the first one always does.
        groups: rows that a line separates from the row before.
    """

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    caption: str = ""
    left: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.heads) or max((len(row) for row in self.rows), default=0)


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence; `level` says how it is set, and a label stands before it in that style."""

    text: str
    level: Level = ""
    label: str = ""


Block = Table | Line


def table(
    heads: Iterable[str],
    rows: Iterable[Row],
    *,
    title: str = "",
    caption: str = "",
    left: Iterable[int] = (),
    groups: Iterable[int] = (),
) -> Table:
    """A table from any iterables; see `Table`."""
    return Table(
        heads=tuple(heads),
        rows=tuple(rows),
        title=title,
        caption=caption,
        left=frozenset(left),
        groups=frozenset(groups),
    )


def row(*values: Cell | str) -> Row:
    """Cells and plain texts as the cells of a row."""
    return tuple(value if isinstance(value, Cell) else Cell(value) for value in values)


def facts(values: Json, *, title: str = "") -> Table:
    """A flat report as two columns: the name of each single value, and the value with its interval."""
    shown = [name for name, value in values.items() if is_single(name, value) and value is not None]
    return table((), (row(words(name), cell(values, name)) for name in shown), title=title)


def cell(values: Json, name: str) -> Cell:
    """The value of a metric, its interval as the note; undefined where it is absent or None."""
    value, ends = values.get(name), values.get(f"{name}_ci")
    return Cell(None if value is None else scalar(value), interval(*ends) if ends else "")


def interval(low: float, high: float) -> str:
    """An interval with three decimals, four where both ends are below 0.1, one above 100."""
    widest = max(abs(low), abs(high))
    digits = 4 if widest < 0.1 else 3 if widest < 100 else 1
    return f"[{low:,.{digits}f}, {high:,.{digits}f}]"


def scalar(value: Any) -> str:
    """Numbers with four decimals below 100 and one above, counts with commas, lists and mappings in one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(scalar(entry) for entry in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{words(str(name))} {scalar(entry)}" for name, entry in value.items())
    return str(value)


def gigabytes(amount: float) -> str:
    """Bytes as people read them, in powers of ten: `1.5 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if amount >= scale:
            return f"{amount / scale:,.1f} {unit}"
    return f"{amount / 1e3:,.0f} kB"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.4f}"


def words(name: str) -> str:
    """The name of a key as words."""
    return name.replace("_", " ")


def is_single(name: str, value: Any) -> bool:
    """Whether a key holds one value of its own: no interval of another, no list, no group."""
    return not name.endswith("_ci") and not isinstance(value, list | tuple | dict)


def is_number(name: str, value: Any) -> bool:
    """Whether a key holds a number of its own."""
    return is_single(name, value) and isinstance(value, int | float) and not isinstance(value, bool)


def names_of(values: Iterable[Json]) -> list[str]:
    """The single values that any of several reports has, each named once, in their order."""
    return list(dict.fromkeys(name for report in values for name, value in report.items() if is_single(name, value)))


def grid(kinds: Mapping[str, Json], names: Sequence[str], head: str, *, title: str = "", caption: str = "") -> Table:
    """A row for each system or task, a column for each metric."""
    rows = (row(kind, *(cell(values, name) for name in names)) for kind, values in kinds.items())
    return table([head, *(words(name) for name in names)], rows, title=title, caption=caption)


def plain(value: Any) -> Any:
    """A report as JSON values, whatever it is made of: NaN and infinity become None."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
