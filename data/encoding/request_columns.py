"""What requests say, as the raw columns that the tables of a training would hold."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...base.arrays import F32, F64, I64, Bool, Labels
from ...base.errors import ConfigError, DataError
from ..batch import Block, SideLayout
from ..dataset import Dataset
from ..feature_spec import FeatureSpec, Side
from ..ids import id_text
from ..log_rows import Known
from ..reading.columns import as_strings, as_time
from ..reading.keys import label_matrix, raw_label
from ..reading.tables import BadRows, Origin, Span, Tables, quote
from ..reading.vectors import parse_vectors
from ..schema import DataConfig, TableName, TaskSpec
from ..subject import Subject, raw_text
from ..vocabulary import UNKNOWN
from .encoders import Column
from .raw_columns import RawColumns, gather

Texts = list[str | None]


@dataclass(frozen=True, kw_only=True)
class RequestColumns(RawColumns):
    """Raw columns of B requests: a users table of a row each, and an events table of what they bring.

    The events table holds the E events of all requests, then a row for each request with its context.

    Attributes:
        run: the data set that knows how to encode them.
        known: what it stores of each subject; no events where the request replaces them.
        stored_rows: int64 [B] user row in the run, -1 where it stores none.
        appends: bool [B], whether the stored history counts.
        owner: int64 [E + B] request of each row of the events table.
        num_events: E.
        items: int64 [E + B] item row, -1 where the catalogue lacks it and of the requests themselves.
        times: float64 [E + B] seconds, -inf where unknown; of a request when it says that it is asked.
        labels: [E + B, T] as of `EventLog`.
        mask: bool [E + B, T].
        said: `user` and `context` -> for each row of that table the columns that a request gave.
        unknown_items: of each request, item ids that the catalogue lacks.
    """

    run: Dataset
    known: Sequence[Known]
    stored_rows: I64
    appends: Bool
    owner: I64
    num_events: int
    items: I64
    times: F64
    labels: Labels
    mask: Bool
    said: Mapping[str, Sequence[frozenset[str]]]
    unknown_items: Sequence[Sequence[str]]

    def home_rows(self, side: Side) -> I64:
        """See `RawColumns.home_rows`: every row describes itself."""
        return np.arange(len(self.stored_rows) if side == "user" else len(self.owner))

    def _texts(self, home: str, spec: FeatureSpec) -> Column:
        return gather(as_strings(self.tables, home, spec.source), self.home_rows(spec.side))

    def specs(self, side: Side) -> tuple[FeatureSpec, ...]:
        """Features of a side that are read from columns known at the moment of a request."""
        return self.config.inputs(side)

    def given(self, side: Side, spec: FeatureSpec) -> Bool:
        """Which rows have a value of their own for a feature; ids are known of everybody."""
        if self.is_id(spec):
            return np.ones(len(self.stored_rows), dtype=np.bool_)
        return np.array([spec.source in columns for columns in self.said[side]], dtype=np.bool_)

    def column_as(self, spec: FeatureSpec, layout: SideLayout) -> Column:
        """`column` with vectors of the width that the run knows; a pretrained vector is given as its numbers.

        Raises:
            DataError: a vector of another width.
        """
        if spec.kind != "vector":
            return self.column(spec)
        rows, width = len(self.home_rows(spec.side)), dict(layout.vectors)[spec.name]
        if self.is_id(spec):
            return np.zeros((rows, width), dtype=np.float32)
        return vectors_as_known(self.tables, spec, "users" if spec.side == "user" else "events", width, self.bad)

    def unlearned(self, side: Side, rows: Sequence[int], specs: Sequence[FeatureSpec], block: Block) -> list[str]:
        """Given values that no vocabulary holds, as `column=value`."""
        mine = [spec for spec in specs if not self.is_id(spec)]
        table = self.tables.table("users" if side == "user" else "events")
        return unlearned_values(table, self.said[side], rows, mine, block, self.run.sides[side].categorical)


def vectors_as_known(tables: Tables, spec: FeatureSpec, table: TableName, width: int, bad: BadRows) -> F32:
    """The numbers of a vector feature that requests give, float32 [n, width]; zero where they give none.

    Raises:
        DataError: a vector of another width.
    """
    values = parse_vectors(spec, tables, table, bad)
    if not values.any():
        return np.zeros((len(values), width), dtype=np.float32)
    if values.shape[1] != width:
        raise DataError(f'the request gives {values.shape[1]} numbers for "{spec.source}", expected {width}')
    return values


def unlearned_values(
    table: pa.Table,
    said: Sequence[frozenset[str]],
    rows: Sequence[int],
    specs: Sequence[FeatureSpec],
    block: Block,
    names: Sequence[str],
) -> list[str]:
    """Given values that no vocabulary holds, as `column=value`.

    Args:
        table: what requests say, as text.
        said: of each row of it, the columns that a request gave.
        rows: the rows to look at.
        specs: features; other kinds than categorical are passed over.
        block: the encoded table.
        names: its categorical columns.
    """
    found = []
    for spec in specs:
        if spec.kind != "categorical" or spec.in_bag:
            continue
        codes, values = block.categorical[:, names.index(spec.name)], table.column(spec.source)
        found += [
            f"{spec.source}={values[row].as_py()}"
            for row in rows
            if spec.source in said[row] and codes[row] == UNKNOWN and values[row].as_py() is not None
        ]
    return found


def _read(config: DataConfig, side: Side) -> tuple[FeatureSpec, ...]:
    """Features of a side that describe its rows, and a feature for each other column that a derived one reads."""
    own = config.inputs(side)
    sources = [column for one in config.derived for where, column in one.sources if where == side]
    other = dict.fromkeys(column for column in sources if column not in {spec.source for spec in own})
    return (*own, *(FeatureSpec(name=column, side=side) for column in other))


def request_columns(dataset: Dataset, subjects: Sequence[Subject], positive: str, bad: BadRows) -> RequestColumns:
    """Read what requests say; see `encode_subjects`."""
    config = dataset.config
    ids: Texts = [None if subject.user is None else id_text(subject.user) for subject in subjects]
    appends = np.array([subject.history_mode == "append" for subject in subjects], dtype=np.bool_)
    known = [dataset.known(user, events=bool(mine)) for user, mine in zip(ids, appends, strict=True)]
    stored = np.array([one.row for one in known], dtype=np.int64)
    user_specs = tuple(spec for spec in _read(config, "user") if spec.source != config.user)
    reader = _Reader(config, [*_read(config, "context"), *(spec for spec in config.features if spec.after_event)])
    events = [reader.event(event) for subject in subjects for event in subject.history]
    owner = np.repeat(np.arange(len(subjects)), [len(subject.history) for subject in subjects])
    moment_specs = _read(config, "context")
    asked_at = [_asked_at(config, subject) for subject in subjects]
    times = _times(config, [*(event.time for event in events), *asked_at], bad)
    timeless = config.time if config.time not in {spec.source for spec in moment_specs} else ""
    contexts = []
    for place, subject in enumerate(subjects):
        last = known[place].events["times"].max(initial=-np.inf)
        own = np.flatnonzero(owner == place)
        carried: dict[str, str | None] = {}
        for at in own[in_order(times[own])]:
            if times[at] >= last or not np.isfinite(times[at]):
                carried |= events[at].columns
        said = {name: value for name, value in subject.context.items() if name != timeless}
        asked = told_columns(said, moment_specs, "context", "the events table")
        contexts.append({**{s.source: carried[s.source] for s in moment_specs if s.source in carried}, **asked})
    features = [
        told_columns({**one.features, **subject.features}, user_specs, "user features", "the users table")
        for one, subject in zip(known, subjects, strict=True)
    ]
    rows = [event.columns for event in events] + contexts
    origin = {
        "events": origin_of("history of the request", len(rows)),
        "users": origin_of("user features", len(subjects)),
    }
    tables = Tables(
        events=table_of_texts(reader.names, rows),
        users=table_of_texts([spec.source for spec in user_specs], features),
        items=None,
        origin=origin,
        fingerprint="",
    ).written(config.notation)
    items = np.array([dataset.item_rows.get(event.item, -1) for event in events] + [-1] * len(subjects), np.int64)
    items[items >= dataset.num_catalogue] = -1
    unknown: list[list[str]] = [[] for _ in subjects]
    for place, event in enumerate(events):
        if items[place] < 0:
            unknown[owner[place]].append(event.item)
    owner = np.concatenate([owner, np.arange(len(subjects))]).astype(np.int64)
    labels, mask = _labels(config.tasks, positive, events, tables, bad)
    return RequestColumns(
        tables=tables,
        config=config,
        events=dataset.events,
        user_ids=pa.array(ids, pa.string()),
        item_ids=pa.array([], pa.string()),
        bad=bad,
        run=dataset,
        known=known,
        stored_rows=stored,
        appends=appends,
        owner=owner,
        num_events=len(events),
        items=items,
        times=times,
        labels=labels,
        mask=mask,
        said={"user": [frozenset(row) for row in features], "context": [frozenset(row) for row in rows]},
        unknown_items=unknown,
    )


@dataclass(frozen=True)
class _Event:
    """An event of a request: `labels` is None where it has none, and then it counts as a positive one."""

    item: str
    time: str | None
    labels: Mapping[str, Any] | None
    columns: dict[str, str | None]


class _Reader:
    """Takes events of requests apart.

    Args:
        config: the `[data]` section.
        specs: context features.
    """

    def __init__(self, config: DataConfig, specs: Sequence[FeatureSpec]) -> None:
        self.config, self.specs = config, specs
        self.tasks = {task.source for task in config.tasks} | {task.name for task in config.tasks}
        scenes = [task.scene.partition("=")[0] for task in config.tasks if task.scene]
        self.names = [config.item or "item", *(s.source for s in specs), *scenes, *(t.source for t in config.tasks)]

    def event(self, given: Any) -> _Event:
        """An item id, or a mapping; see `Subject.history`."""
        if not isinstance(given, Mapping):
            return _Event(id_text(given), None, None, {})
        rest = {str(name): value for name, value in given.items()}
        item = rest.pop("item", None) if "item" in rest else rest.pop(self.config.item, None)
        time = rest.pop("time", None) if "time" in rest else rest.pop(self.config.time, None)
        if raw_text(item) is None:
            keys = ", ".join(map(str, given)) or "none"
            raise ConfigError(f"history: an event names no item, its keys are {keys}; give every event an item")
        own = {name: rest.pop(name) for name in list(rest) if name in self.tasks and name not in self._sources}
        labels = {**own, **dict(rest.pop("labels", None) or {})}
        labels |= {name: rest[name] for name in rest if name in self.tasks and name in self._sources}
        if strange := sorted(set(labels) - self.tasks):
            raise ConfigError(f'history: no label is called "{strange[0]}"; there are: {", ".join(sorted(self.tasks))}')
        columns = told_columns(rest, self.specs, "columns of a history event", "the events table")
        by_source = {task.source: raw_text(labels[task.source]) for task in self.config.tasks if task.source in labels}
        return _Event(id_text(item), raw_text(time), labels or None, {**by_source, **columns})

    @property
    def _sources(self) -> set[str]:
        return {spec.source for spec in self.specs}


def told_columns(
    given: Mapping[str, Any], specs: Sequence[FeatureSpec], what: str, where: str
) -> dict[str, str | None]:
    """Given values by column, as text; a column may also be named by a feature that is read from it."""
    by_name = {spec.name: spec for spec in specs} | {spec.source: spec for spec in specs}
    found: dict[str, str | None] = {}
    for name, value in given.items():
        if name not in by_name:
            close = difflib.get_close_matches(str(name), by_name, n=1, cutoff=0.5)
            known = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(sorted(by_name)) or 'none'}"
            raise ConfigError(f'{what}: the run reads no column "{name}" of {where}; {known}')
        found[by_name[name].source] = raw_text(value, by_name[name].separator)
    return found


def table_of_texts(names: Sequence[str], rows: Sequence[Mapping[str, str | None]]) -> pa.Table:
    """Rows as a table of text; a column that no row names is empty without a look at each."""
    named, empty = set[str]().union(*rows), pa.nulls(len(rows), pa.string())
    columns = ((name, [row.get(name) for row in rows] if name in named else None) for name in dict.fromkeys(names))
    return pa.table({name: empty if texts is None else pa.array(texts, pa.string()) for name, texts in columns})


def origin_of(name: str, rows: int) -> Origin:
    """What messages call the rows of a request."""
    return Origin((Span(name, rows),))


def in_order(times: F64) -> I64:
    """Places of events from the oldest to the latest: by time where every time is known, else as they are listed."""
    return np.argsort(times, kind="stable") if np.isfinite(times).all() else np.arange(len(times))


def _asked_at(config: DataConfig, subject: Subject) -> str | None:
    """When a request says that it is asked."""
    return raw_text(subject.context[config.time]) if config.time and config.time in subject.context else None


def _times(config: DataConfig, texts: Texts, bad: BadRows) -> F64:
    """Seconds of every row of the events table, -inf where no time is known."""
    times = np.full(len(texts), -np.inf)
    known = [place for place, text in enumerate(texts) if text is not None]
    if known and not config.time:
        raise ConfigError("history: the run's data has no times; leave time out")
    if known:
        column = pa.table({config.time: pa.array([texts[place] for place in known], pa.string())})
        tables = Tables(
            events=column,
            users=None,
            items=None,
            origin={"events": origin_of("history of the request", len(known))},
            fingerprint="",
        ).written(config.notation)
        times[known] = as_time(tables, "events", config.time, bad) / 1000.0
    return times


def _labels(
    tasks: Sequence[TaskSpec], positive: str, events: Sequence[_Event], tables: Tables, bad: BadRows
) -> tuple[Labels, Bool]:
    """Labels and masks of every row of the events table; see `Subject.history`."""
    binary = [task.name for task in tasks if task.kind == "binary"]
    implied = {positive or (binary[0] if binary else "")}
    for task in reversed(tasks):  # what a positive event rests on holds as well
        if task.name in implied and task.where:
            implied.add(task.where)
    raw: dict[str, F32] = {}
    for task in tasks:
        raw[task.name] = raw_label(tables, task, bad)
        yes, no = (1.0, 0.0) if task.at_least is None else (task.at_least, -np.inf)
        for place, event in enumerate(events):
            if event.labels is None and task.name in implied:
                raw[task.name][place] = yes
            elif event.labels is not None and task.name in event.labels and task.name != task.source:
                said = raw_text(event.labels[task.name])
                if said is not None:
                    number = _number(said, task)
                    raw[task.name][place] = number if task.kind == "regression" else yes if number else no
    return label_matrix(tasks, raw, tables)


def _number(said: str, task: TaskSpec) -> float:
    """A label given by the name of its task: 0 or 1, or a number for regression."""
    flag = {"true": 1.0, "false": 0.0}.get(said.lower())
    try:
        number = float(said) if flag is None else flag
    except ValueError:
        number = np.nan
    if not np.isfinite(number) or (task.kind == "binary" and number not in (0.0, 1.0)):
        expected = "0 or 1" if task.kind == "binary" else "a number"
        raise DataError(f'history: task "{task.name}" is {quote(said)}, expected {expected}')
    return number
