"""Which columns are the user, the item and the time: by name first, by content where names do not decide."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ...base.errors import ConfigError, DataError
from ..feature_spec import Side
from .names import ITEM_TIERS, ORDER_NAMES, USER_TIERS, VISIT_WORDS, id_rank, plain, stem, time_rank
from .summary import ColumnSummary, Summaries

_TIERS = {"user": USER_TIERS, "item": ITEM_TIERS}
_JOINING = 0.5
"""Share of the ids of the events that a table must know for its column to be the same ids."""


@dataclass(frozen=True)
class Roles:
    """The key columns of the events; empty where there is none.

    Attributes:
        user: column of user ids.
        item: column of item ids.
        time: column of event times.
        order_only: the times are a counter, which orders events and tells no hours.
        notes: a sentence about each choice.
    """

    user: str
    item: str
    time: str
    order_only: bool
    notes: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """The columns that play a role."""
        return {self.user, self.item, self.time} - {""}


def find_roles(
    events: Summaries,
    items: Summaries | None,
    users: Summaries | None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
) -> Roles:
    """The key columns.

    Args:
        events: columns of the events.
        items: columns of the item table, if there is one.
        users: columns of the user table, if there is one.
        user: the user column when it is known; "" says that there is none.
        item: likewise the item column.
        time: likewise the time column.

    Raises:
        ConfigError: a named column does not exist, or several columns are equally likely.
        DataError: events and a table call the same ids by different names.
    """
    notes: list[str] = []
    found: dict[Side, str] = {}
    asked: tuple[tuple[Side, Summaries | None, str | None], ...] = (("user", users, user), ("item", items, item))
    for side, table, given in asked:
        found[side] = _id_column(side, events, table, given, set(found.values()), notes)
    if not found["item"] and found["user"] and item is None:
        found["item"] = _unnamed(events, "item", "user", found["user"])
    elif not found["user"] and found["item"] and user is None:
        found["user"] = _unnamed(events, "user", "item", found["item"])
    moment, order_only = _time_column(events, time, set(found.values()), notes)
    return Roles(found["user"], found["item"], moment, order_only, tuple(notes))


def _id_column(
    side: Side, events: Summaries, table: Summaries | None, given: str | None, taken: set[str], notes: list[str]
) -> str:
    if given is not None:
        if given:
            _require(events, given, side, "events")
            if table is not None:
                _require(table, given, side, f"{side} table")
        return given
    named = {name: rank for name in events if name not in taken if (rank := id_rank(name, _TIERS[side])) is not None}
    named = {name: rank for name, rank in named.items() if _may_be_id(events[name])}
    if table is not None:
        shared = [name for name in events if name in table and name not in taken and _may_be_id(table[name])]
        keys = [name for name in shared if table[name].distinct == table[name].rows]
        choices = [name for name in keys if name in named] or keys or [name for name in shared if name in named]
        if not choices:
            raise DataError(_different_names(side, events, table, named))
        if len(choices) == 1:
            notes.append(f'"{choices[0]}" is the {side} column: events and the {side} table share it')
            return choices[0]
        named = {name: named.get(name, (len(_TIERS[side]), True)) for name in choices}
    if not named:
        return ""
    best = min(named.values())
    choices = sorted(name for name, rank in named.items() if rank == best)
    if len(choices) > 1:
        raise ConfigError(
            f"{_listed(choices)} may each be the {side} column; say which it is with {side}= (--{side}-column)"
        )
    notes.append(f'"{choices[0]}" is the {side} column, by its name ({events[choices[0]].distinct:,} different values)')
    return choices[0]


def _unnamed(events: Summaries, side: Side, other: Side, other_column: str) -> str:
    """Raise for an id column that no name gives away, naming the columns that could be it."""
    candidates = sorted(
        name
        for name, column in events.items()
        if name != other_column and _may_be_id(column) and 1 < column.distinct < max(column.rows, 2)
        if not column.flagged and not column.time_kind and not (column.kind == "number" and not column.whole)
    )
    could = f"it may be {_listed(candidates)}" if candidates else f"the columns are {_listed(sorted(events))}"
    raise ConfigError(
        f'"{other_column}" is the {other} column, but no name says {side}; {could}: say which with {side}= '
        f"(--{side}-column)"
    )


def _different_names(side: Side, events: Summaries, table: Summaries, named: Collection[str]) -> str:
    for name in named or events:
        for key, column in table.items():
            if _may_be_id(column) and column.distinct == column.rows and _joined(events[name], column) >= _JOINING:
                return (
                    f'the events call the {side} ids "{name}", the {side} table "{key}"; rename one, so that both have '
                    "the same name"
                )
    return (
        f"the events and the {side} table share no column of {side} ids; events: {_listed(sorted(events))}, "
        f"{side} table: {_listed(sorted(table))}; give the id column the same name in both"
    )


def _joined(events: ColumnSummary, table: ColumnSummary) -> float:
    """Share of the events' distinct values that the table's column knows."""
    if events.kind in ("list", "other", "moment") or not events.distinct:
        return 0.0
    distinct = pc.cast(pc.unique(events.values.drop_null()), pa.string())
    known = pc.is_in(distinct, value_set=pc.cast(table.values.drop_null(), pa.string()))
    return float(pc.mean(pc.cast(known, pa.float64())).as_py())


def _may_be_id(column: ColumnSummary) -> bool:
    if column.kind == "number":
        return column.whole
    return column.kind == "text" and not column.decimal_comma


def _time_column(events: Summaries, given: str | None, taken: set[str], notes: list[str]) -> tuple[str, bool]:
    if given is not None:
        if given:
            _require(events, given, "time", "events")
            return given, not events[given].time_kind
        return "", False
    timed = {name: column for name, column in events.items() if name not in taken and column.time_kind}
    timed = {
        name: column
        for name, column in timed.items()
        if time_rank(name) is not None
        or column.time_kind in ("moment", "iso", "written")
        or stem(name)[0] == plain(name)
    }
    if not timed:
        return _order_column(events, taken, notes)
    ranks = {name: rank if (rank := time_rank(name)) is not None else 9 for name in timed}
    # A full time beats the day it lies in, whatever the two are called; between equals, the name decides.
    late = {name: rank == 3 for name, rank in ranks.items()}
    best = min((late[name], ranks[name] == 9, -timed[name].distinct, ranks[name]) for name in timed)
    choices = sorted(
        name for name in timed if (late[name], ranks[name] == 9, -timed[name].distinct, ranks[name]) == best
    )
    if len(choices) > 1:
        same = all(events[name].values.equals(events[choices[0]].values) for name in choices)
        if not same:
            raise ConfigError(
                f"{_listed(choices)} may each be the time column; say which it is with time= (--time-column)"
            )
    chosen = choices[0]
    how = {"moment": "a date or time type", "iso": "ISO dates", "epoch": "times since 1970", "day": "calendar days"}
    how["written"] = f'dates written as "{timed[chosen].written_as}"'
    notes.append(f'"{chosen}" is the time of an event: it holds {how[timed[chosen].time_kind]}')
    if timed[chosen].time_kind == "epoch" and (strange := timed[chosen].strange_times):
        notes.append(
            f'{strange:,} rows of "{chosen}" hold no such time, among them {_strangest(timed[chosen])}: mend them, or '
            'set on_bad_rows = "drop"'
        )
    for name in sorted(set(timed) - {chosen}):
        notes.append(f'"{name}" is left out: another time of the event')
    return chosen, False


def _strangest(column: ColumnSummary) -> str:
    """The number of a column of times that is furthest from the middle one."""
    known = column.known
    return f"{known[abs(known - known[len(known) // 2]).argmax()]:g}"


def _order_column(events: Summaries, taken: set[str], notes: list[str]) -> tuple[str, bool]:
    """A counter of events by its name, where no column holds times."""
    for name in sorted(set(events) - taken):
        column = events[name]
        if plain(name) in ORDER_NAMES and column.whole and not column.missing and float(column.known.min()) >= 0:
            notes.append(f'"{name}" is the order of the events: its numbers are no times since 1970')
            return name, True
    for name in sorted(set(events) - taken):
        if events[name].foreign_date and events[name].distinct:
            notes.append(
                f'"{name}" looks like a time and is not read as one ("{events[name].some()[0]}"): say how it is '
                "written (--time-format, data.time_format: %d/%m/%Y or %m/%d/%Y), or write it as an ISO date such as "
                "2024-12-31 18:30; until then the rows of the file are the order"
            )
            return "", False
    notes.append("no column holds times: the rows of the file are the order of the events")
    return "", False


def is_visit(name: str) -> bool:
    """Whether a column numbers single visits, orders or rows."""
    base, marked = stem(name)
    return (marked and base in VISIT_WORDS) or plain(name) in ("session", "index", "rownumber", "unnamed0")


def _require(table: Summaries, name: str, role: str, where: str) -> None:
    if name not in table:
        columns = _listed(sorted(table))
        raise ConfigError(
            f'no column of the {where} is called "{name}", given as the {role} column; they are {columns}'
        )


def _listed(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
