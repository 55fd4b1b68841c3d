"""Tables -> a `DataConfig`, and a sentence for every decision in it.

Nothing here is learned: which columns there are, what they hold and how often is all that is looked at, and what a
column means can be told in a configuration file when the guess is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError, DataError
from ..check.file_order import sorted_by_item
from ..feature_spec import FeatureSpec, Side
from ..joins import join_notes
from ..notation import Notation
from ..reading.columns import as_time
from ..reading.readers import Source, read_tables
from ..reading.sniff import likely_encoding, require_header, sniff_delimiter
from ..reading.tables import BadRows, Tables
from ..schema import CountSpec, DataConfig
from ..split_spec import SplitSpec
from .features import Features, describe_entities, describe_moments, owner_of
from .labels import Labels, infer_labels, label_of
from .nothing import words_for_nothing
from .roles import Roles, find_roles
from .splitting import choose_split
from .summary import Summaries, summarise

_RARE_ROWS = 1_000
"""Rows of the log from which an id must come twice to have a row of its own."""
_FEWEST_ROWS = 8
_LENGTH = 20
_DESCRIBED = 2
"""Item categories that describe the elements of a history beside the item itself."""


@dataclass(frozen=True, kw_only=True)
class InferredSchema:
    """A schema, and how it came about.

    Attributes:
        config: the `[data]` section; `events`, `items` and `users` are the given paths, empty for tables in memory.
        notes: one sentence a decision.
        reasons: (`feature`, `task` or `split`, name) -> what the column holds.
        positive: task whose label makes an event a positive of retrieval; empty: every event is one.
        unwanted: tasks that speak against an item.
        rows: rows of the log.
        num_users: different users in it.
        num_items: different items in it and in the item table.
        ordered: whether times are known well enough for gaps between events to mean something.
    """

    config: DataConfig
    notes: tuple[str, ...]
    reasons: dict[tuple[str, str], str]
    positive: str
    unwanted: tuple[str, ...]
    rows: int
    num_users: int
    num_items: int
    ordered: bool


def infer_schema(
    events: Source | Sequence[Source],
    items: Source | None = None,
    users: Source | None = None,
    tasks: Sequence[str] | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    header: Sequence[str] = (),
    encoding: str = "",
    notation: Notation | None = None,
) -> InferredSchema:
    """A schema for tables of any names.

    Args:
        events: path of a CSV or Parquet file, an Arrow table, a pandas or polars frame, or several paths.
        items: the item table, if there is one.
        users: the user table, if there is one.
        tasks: columns to predict (or `like` of a rating, or a kind of event); None takes every clear one, an empty list
            none.
        user: column of user ids; found by name when None; "" where rows have no user.
        item: column of item ids, likewise.
        time: column of event times, likewise.
        header: column names of text event files that have no header line.
        encoding: of text files that begin with no byte order mark; found when empty.
        notation: how times are written and which texts stand for nothing; found from the tables where it is silent.

    Raises:
        ConfigError: several columns are equally likely, or a named one does not exist.
        DataError: a table cannot be read, or the tables do not fit together.
    """
    delimiter = _delimiter(events, items, users, bool(header))
    paths = [Path(source) for source in (*_several(events), items, users) if isinstance(source, str | Path)]
    found = encoding or likely_encoding(paths)
    tables = read_tables(events, users, items, delimiter=delimiter or None, header=list(header) or None, encoding=found)
    told = notation or Notation()
    missing = told.missing or words_for_nothing(tables)
    tables = tables.written(replace(told, missing=missing))
    comma = delimiter not in ("", ",", ", ")
    log = summarise(tables.events, comma, told.time_format)
    item_table = None if tables.items is None else summarise(tables.items, comma)
    user_table = None if tables.users is None else summarise(tables.users, comma)
    roles = find_roles(log, item_table, user_table, user=user, item=item, time=time)
    _require_choice(log, roles)
    labels = infer_labels(log, roles.names, tasks)
    if not (roles.user and roles.item) and not labels.tasks:
        raise ConfigError(
            "no column looks like user ids or item ids, and none like a label to predict; name them with user= and "
            f"item= (--user-column, --item-column), or tasks= (--task); the columns are {', '.join(sorted(log))}"
        )
    features = Features()
    _add_ids(roles, log, features)
    if roles.item and item_table is not None:
        describe_entities("item", item_table, roles.item, features)
    if roles.user and user_table is not None:
        describe_entities("user", user_table, roles.user, features)
    special = _describe_log(tables, log, roles, labels, features)
    time_format = log[roles.time].written_as if roles.time and log[roles.time].time_kind == "written" else ""
    tables = tables.written(replace(tables.notation, time_format=time_format or told.time_format))
    split, split_note = _split(tables, roles, labels)
    config = DataConfig(
        events=_path(events),
        items=_path(items),
        users=_path(users),
        header=tuple(header),
        delimiter=delimiter,
        decimal="," if _has_decimal_comma(log, item_table, user_table) else ".",
        encoding=found,
        missing=missing,
        time_format=tables.notation.time_format,
        time_zone=told.time_zone,
        user=roles.user,
        item=roles.item,
        time=roles.time,
        title=features.title,
        propensity=special.get("propensity", ""),
        features=tuple(_ordered(features.specs) + _history(roles, features, item_table or log, labels)),
        tasks=tuple(labels.tasks),
        counts=_counts(roles, labels),
        split=split,
    )
    joins = join_notes(tables, config)
    known_items = set() if item_table is None else set(item_table[roles.item].counts)
    seen_items = set(log[roles.item].counts) if roles.item else set()
    return InferredSchema(
        config=config,
        notes=(
            *roles.notes,
            *_about_text(found if not encoding else "utf-8"),
            *_about_nothing(missing, told),
            *labels.notes,
            *features.notes,
            *joins,
            split_note,
            *_about_labels(roles, labels),
        ),
        reasons=_reasons(features, labels, split_note),
        positive=labels.positive if roles.user and roles.item else "",
        unwanted=tuple(labels.unwanted),
        rows=tables.events.num_rows,
        num_users=log[roles.user].distinct if roles.user else 0,
        num_items=len({str(value) for value in known_items | seen_items}),
        ordered=bool(roles.time) and not roles.order_only,
    )


def _about_text(encoding: str) -> list[str]:
    """A sentence on an encoding that was found."""
    if encoding == "utf-8":
        return []
    return [f"the text is not UTF-8 and is read as {encoding}; set data.encoding (--encoding) where letters look wrong"]


def _about_nothing(missing: tuple[str, ...], told: Notation) -> list[str]:
    """A sentence on words that were taken for missing values without being named."""
    if not missing or told.missing:
        return []
    words = ", ".join(f'"{word}"' for word in missing)
    return [f"{words} stands among numbers and is taken for a missing value, in every column (data.missing)"]


def _has_decimal_comma(*tables: Summaries | None) -> bool:
    return any(column.decimal_comma for table in tables if table is not None for column in table.values())


def _require_choice(log: Summaries, roles: Roles) -> None:
    """Raise DataError for a log from which nobody could learn what to choose for whom."""
    for side, name in (("user", roles.user), ("item", roles.item)):
        if name and log[name].distinct < 2:
            raise DataError(
                f'every event is of one {side}, {name} = "{next(iter(log[name].counts), "")}", expected several; name '
                f"another column with {side}= (--{side}-column), or bring more events"
            )
    rows = next(iter(log.values())).rows
    if rows < _FEWEST_ROWS:
        raise DataError(
            f"the log has {rows} events, expected at least {_FEWEST_ROWS} to train, validate and test on; bring more"
        )


def _delimiter(events: Any, items: Any, users: Any, headless: bool) -> str:
    """What parts the values of all text files among the sources; empty where the readers find it themselves."""
    paths = [source for source in (*_several(events), items, users) if isinstance(source, str | Path)]
    marks = {}
    for path in paths:
        marks[Path(path)] = sniff_delimiter(Path(path))
        if not (headless and any(path is source for source in _several(events))):
            require_header(Path(path))
    written = {mark for path, mark in marks.items() if not path.name.endswith(".parquet")}
    return written.pop() if len(written) == 1 else ", " if ", " in written else ""


def _several(source: Any) -> list[Any]:
    return list(source) if isinstance(source, list | tuple) else [source]


def _path(source: Any) -> Any:
    """How a configuration names a source: its path, the paths of several, nothing for a table in memory."""
    if isinstance(source, list | tuple):
        paths = tuple(str(path) for path in source if isinstance(path, str | Path))
        return paths if paths else ""
    return str(source) if isinstance(source, str | Path) else ""


def _add_ids(roles: Roles, log: Summaries, features: Features) -> None:
    sides: tuple[tuple[Side, str], ...] = (("user", roles.user), ("item", roles.item))
    for side, name in sides:
        if name:
            column = log[name]
            often = 2 if column.rows >= _RARE_ROWS else 1
            spec = FeatureSpec(name=name, side=side, min_count=often)
            features.add(spec, f"the {side} id, {column.distinct:,} different ones in {column.rows:,} events")


def _describe_log(tables: Tables, log: Summaries, roles: Roles, labels: Labels, features: Features) -> dict[str, str]:
    """Features of the event table; graded label columns describe past events."""
    keys: dict[Side, str] = {}
    if roles.item and tables.items is None:
        keys["item"] = roles.item
    if roles.user and tables.users is None:
        keys["user"] = roles.user
    sources = {task.source for task in labels.tasks}
    tables_of = {"item": tables.items, "user": tables.users}
    described = {
        name for table in tables_of.values() if table is not None for name in table.column_names if name in log
    }
    for name in sorted(described - roles.names - sources):
        features.leave(name, "events and a table both have it; the table's is read")
    timed = {name for name, column in log.items() if column.time_kind and name not in sources}
    left = roles.names | sources | described | timed | set(labels.graded)
    for name in sorted(labels.graded):
        if roles.user:
            spec = FeatureSpec(name=name, side="context", after_event=True)
            features.add(spec, f"{log[name].distinct} different values; known only after the event, so it describes "
                         "past events")  # fmt: skip
    label_values = {task.name: label_of(task, log) for task in labels.tasks}
    return describe_moments(log, left, label_values, owner_of(tables.events, keys), features)


def _ordered(specs: list[FeatureSpec]) -> list[FeatureSpec]:
    sides = {"user": 0, "item": 1, "context": 2}
    return sorted(specs, key=lambda spec: sides[spec.side])


def _history(roles: Roles, features: Features, items: Summaries, labels: Labels) -> list[FeatureSpec]:
    """The user's recent items, with the item categories that say most without being ids themselves."""
    if not (roles.user and roles.item):
        return []
    name = next(name for name in ("recent", "recent_items", "history_of_items") if name not in features.reasons)
    sizes = {
        spec.name: items[spec.source].distinct
        for spec in features.specs
        if spec.side == "item" and spec.kind == "categorical" and spec.source != roles.item and spec.source in items
    }
    told = sorted((-size, other) for other, size in sizes.items() if 4 <= size < items[roles.item].distinct)[
        :_DESCRIBED
    ]
    categories = tuple(sorted(other for _, other in told))
    where = labels.positive
    liked = f"the user's last {_LENGTH} items" + (f' with "{where}" = 1' if where else "")
    spec = FeatureSpec(
        name=name, side="user", kind="sequence", of=(roles.item, *categories), matches=categories, where=where,
        length=_LENGTH,
    )  # fmt: skip
    features.reasons[name] = liked
    return [spec]


def _counts(roles: Roles, labels: Labels) -> tuple[CountSpec, ...]:
    binary = tuple(task.name for task in labels.tasks if task.kind == "binary")
    if not labels.tasks:
        return ()
    return tuple(CountSpec(keys=(key,), tasks=binary) for key in (roles.item, roles.user) if key)


def _split(tables: Tables, roles: Roles, labels: Labels) -> tuple[SplitSpec, str]:
    times = None
    if roles.time and not roles.order_only:
        times = as_time(tables, "events", roles.time, BadRows("drop")) / 1000.0
    users = tables.events.column(roles.user) if roles.user else None
    binary = next((task.source for task in labels.tasks if task.kind == "binary" and not roles.user), "")
    untimed = not roles.time and roles.user and roles.item
    by_item = bool(untimed) and sorted_by_item(users, tables.events.column(roles.item))
    return choose_split(times, users, tables.events.num_rows, binary, by_item)


def _about_labels(roles: Roles, labels: Labels) -> list[str]:
    if not labels.tasks:
        return ["no column is a label: every row is an interaction, and the ranker learns which item is taken next"]
    if labels.positive and roles.user and roles.item:
        return [f'retrieval learns from rows with "{labels.positive}" = 1, every row is shown to the ranker']
    return ["retrieval learns from every row"] if roles.user and roles.item else ["rows are ranked alone: no retrieval"]


def _reasons(features: Features, labels: Labels, split_note: str) -> dict[tuple[str, str], str]:
    reasons = {("feature", name): reason for name, reason in features.reasons.items()}
    reasons |= {("task", name): reason for name, reason in labels.reasons.items()}
    return {**reasons, ("split", ""): split_note}
