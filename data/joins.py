"""Ids of the events that the users or items table does not list, and how their spelling keeps them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import DataError
from .reading.columns import as_codes
from .reading.tables import Tables, quote
from .schema import DataConfig

_SPELLINGS: tuple[tuple[Callable[[pa.Array], pa.Array], str], ...] = (
    (
        pc.utf8_trim_whitespace,
        'write them without blanks around them (where a comma and a blank part the values, set delimiter = ", ")',
    ),
    (lambda ids: pc.replace_substring_regex(ids, r"^([-+]?\d+)\.0+$", r"\1"), 'write whole numbers without ".0"'),
    (lambda ids: pc.replace_substring_regex(ids, r"^0+(\d)", r"\1"), "write the same leading zeros in both"),
    (pc.utf8_lower, "write the same capital letters in both"),
)
"""Ways in which one id is written twice, and how to mend each."""


@dataclass(frozen=True)
class Joined:
    """How the ids of the events meet those of a table.

    Attributes:
        name: `users` or `items`.
        seen: distinct ids with events.
        listed: distinct ids in the table.
        unlisted: ids with events that the table does not list.
        why: how the two spell one id, where the spelling keeps most unlisted ids apart from the table; else empty.
    """

    name: str
    seen: int
    listed: int
    unlisted: int
    why: str = ""

    @property
    def sentence(self) -> str:
        """What is missing and why; empty when every id is listed."""
        if not self.unlisted:
            return ""
        return (
            f"{self.unlisted:,} of the {self.seen:,} {self.name} with events are not in the {self.name} table; "
            f"their features are missing{f': {self.why}' if self.why else ''}."
        )


def joined(tables: Tables, name: str, column: str) -> Joined:
    """Compare the ids of the events with those of the users or items table, which must be there.

    Args:
        tables: as read.
        name: `users` or `items`.
        column: the id column of both tables.
    """
    seen, listed = (as_codes(tables, table, column).values for table in ("events", name))
    strangers = seen.filter(pc.invert(pc.is_in(seen, value_set=listed)))
    names = str(tables.origin["events"]), str(tables.origin[name])
    return Joined(name, len(seen), len(listed), len(strangers), spelling(strangers, listed, *names))


def join_notes(tables: Tables, config: DataConfig, *, refuse: bool = True) -> list[str]:
    """A sentence for each table that does not list every id of the events.

    Args:
        tables: as read.
        config: names the id columns.
        refuse: raise where a table lists no id of the events at all.

    Raises:
        DataError: a table and the events have no id in common.
    """
    notes = []
    for name, column in (("users", config.user), ("items", config.item)):
        if not column or getattr(tables, name) is None:
            continue
        found = joined(tables, name, column)
        if refuse and found.unlisted == found.seen:
            raise DataError(
                f"{tables.origin['events']} and {tables.origin[name]} have no id in common: {found.sentence[:-1]}"
                + ("" if found.why else f'; correct "{column}" in one of them, or leave the {name} table out')
            )
        if found.sentence:
            notes.append(found.sentence)
    return notes


def spelling(strangers: pa.Array, listed: pa.Array, here: str, there: str) -> str:
    """How two tables spell one id, where that keeps most of the strangers apart from the listed; else empty.

    Args:
        strangers: ids of one table that the other does not list, each once.
        listed: ids of the other.
        here: name of the table the strangers are from.
        there: name of the other.
    """
    for plain, mend in _SPELLINGS:
        at = pc.index_in(plain(strangers), value_set=plain(listed))
        found = pc.is_valid(at)
        if 2 * (pc.sum(found).as_py() or 0) > len(strangers):
            first = pc.index(found, True).as_py()
            one, other = strangers[first].as_py(), listed[at[first].as_py()].as_py()
            return f"{here} says {quote(one)} and {there} {quote(other)}; {mend}"
    return ""
