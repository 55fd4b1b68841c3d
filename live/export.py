"""The log as tables for the next training: events folded to one row a shown item, items and users as they are now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..base.arrays import F32, I64
from ..base.errors import DataError
from ..base.files import replacing
from ..data.encoding.told_events import EventReader, own_columns
from ..data.feature_spec import Side
from ..data.live import joined_labels
from ..data.reading.exported import LOG_KEY
from ..data.reading.keys import raw_label
from ..data.reading.tables import BadRows
from ..data.schema import DataConfig
from .log.base import LogRow, StateLog, bodies

READ = 100_000
"""Rows of the log read at once."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: `events`, `items`, `users` -> file; those that hold a row.
        rows: likewise the rows of each.
        log_id: of the log.
        last: position of the last row that was read.
    """

    files: Mapping[str, Path]
    rows: Mapping[str, int]
    log_id: str
    last: int


def read_all(log: StateLog, after: int = 0, last: int | None = None) -> Iterator[LogRow]:
    """Every row behind a position, up to another one, in order."""
    end = log.last if last is None else last
    while after < end:
        rows = log.read_after(after, READ)
        if not rows:
            return
        for row in rows:
            if row.position > end:
                return
            yield row
        after = rows[-1].position


def export(log: StateLog, config: DataConfig, out: Path, after: int = 0) -> Exported:
    """Write what the log holds as Parquet, each file whole or not at all.

    Args:
        log: what happened.
        config: the `[data]` section of the run that it happened to.
        out: file of the events; items and users stand beside it as `NAME.items.parquet` and `NAME.users.parquet`.
        after: rows behind this position; and earlier ones that are no earlier in time than one of these, for a training
            that goes on replaces everything from its first row on.

    Raises:
        DataError: there is no event to export.
    """
    last = log.last
    rows = list(read_all(log, 0, last))
    first = min((row.time for row in rows if row.position > after and row.kind == "event"), default=np.inf)
    rows = [row for row in rows if row.position > after or row.time >= first]
    forgotten = {row.user: row.position for row in rows if row.kind == "forget"}
    kept = [row for row in rows if row.position >= forgotten.get(row.user, 0)]
    events = folded_events([row for row in kept if row.kind == "event"], config)
    if not events.num_rows:
        raise DataError(f"the log holds no event behind position {after}, so there is nothing to train on")
    tables = {
        "events": events,
        "items": _whole_rows(kept, config, "item"),
        "users": _whole_rows(kept, config, "user"),
    }
    files = {"events": out, **{name: out.with_suffix(f".{name}{out.suffix}") for name in ("items", "users")}}
    told = {LOG_KEY: json.dumps({"log": log.log_id, "last": last}).encode()}
    written = {}
    for name, table in tables.items():
        if table.num_rows:
            with replacing(files[name]) as partial:
                pq.write_table(table.replace_schema_metadata(told), partial)
            written[name] = files[name]
    return Exported(written, {name: tables[name].num_rows for name in written}, log.log_id, last)


def folded_events(rows: Sequence[LogRow], config: DataConfig) -> pa.Table:
    """Events as the table that a training reads: labels joined to the exposure they are about, columns that were told.

    Text stands as it was told; times are UTC to the millisecond.
    """
    said = bodies(rows)
    columns: list[dict[str, str | None]] = [body["columns"] for body in said]
    first, targets = _targets(rows, said)
    reader = EventReader(config)
    for source, taken in _joined(reader, columns, targets).items():
        for row, other in taken:
            columns[row] = {**columns[row], source: columns[other].get(source)}
    own = own_columns(config)
    names = [name for name in reader.separators if name in own or any(name in columns[row] for row in first)]
    table: dict[str, pa.Array] = {}
    for name, ids in (
        (config.user, [rows[row].user for row in first]),
        (config.item, [rows[row].item for row in first]),
    ):
        if name:
            table[name] = pa.array(ids, pa.string())
    if config.time:
        moments = np.round(np.array([rows[row].time for row in first]) * 1000).astype(np.int64)
        table[config.time] = pa.array(moments).cast(pa.timestamp("ms", tz="UTC"))
    return pa.table(table | {name: pa.array([columns[row].get(name) for row in first], pa.string()) for name in names})


def _targets(rows: Sequence[LogRow], said: Sequence[Mapping[str, Any]]) -> tuple[list[int], I64]:
    """Rows that stand for themselves, and for each row the one that it joins, itself where it joins none: int64 [R]."""
    exposures: dict[tuple[str, int], int] = {}
    targets = np.arange(len(rows))
    for place, (row, body) in enumerate(zip(rows, said, strict=True)):
        if "exposure" in body:
            targets[place] = exposures.setdefault((row.user, body["exposure"]), place)
    return np.flatnonzero(targets == np.arange(len(rows))).tolist(), targets


def _joined(
    reader: EventReader, columns: Sequence[Mapping[str, str | None]], targets: I64
) -> dict[str, list[tuple[int, int]]]:
    """Column of what is known after the event -> (row, later row whose text it takes)."""
    found: dict[str, list[tuple[int, int]]] = {}
    later = np.flatnonzero(targets != np.arange(len(targets)))
    if not len(later):
        return found
    config, bad = reader.config, BadRows("error", may_drop=False)
    tables = reader.tables(columns, [None] * len(columns))
    labels = {task.source: (raw_label(tables, task, bad), task.kind == "regression") for task in config.tasks}
    for source, (raw, regression) in labels.items():
        values: F32 = raw.copy()
        for row in later.tolist():
            target = int(targets[row])
            merged = joined_labels(values[[target]], raw[[row]], np.array([regression]))
            if merged[0] != values[target] and not np.isnan(merged[0]):
                values[target] = merged[0]
                found.setdefault(source, []).append((target, row))
    for spec in config.features:
        if spec.after_event and spec.source not in labels:
            told = [(int(targets[row]), row) for row in later.tolist() if columns[row].get(spec.source) is not None]
            found.setdefault(spec.source, []).extend(told)
    return found


def _whole_rows(rows: Sequence[LogRow], config: DataConfig, side: Side) -> pa.Table:
    """The newest row that was told of each item or user, every column that a training reads; text as it was told.

    What says nothing but whether an item is to be had is no row of a table.
    """
    kind, key = ("item_put", config.item) if side == "item" else ("user_put", config.user)
    newest: dict[str, dict[str, str | None]] = {}
    for row in rows:
        if row.kind == kind and any(columns := json.loads(row.body)["columns"]):
            newest[row.item if side == "item" else row.user] = columns
    read = [column for spec in config.features if spec.side == side for column in (spec.source, spec.prior)]
    read += [column for one in config.derived for where, column in one.sources if where == side]
    read += [config.title, *config.attributes] if side == "item" else []
    without = {"", key, *(spec.source for spec in config.features if spec.kind == "sequence")}
    names = [
        name for name in dict.fromkeys([*read, *(n for one in newest.values() for n in one)]) if name not in without
    ]
    told = {name: pa.array([one.get(name) for one in newest.values()], pa.string()) for name in names}
    return pa.table({key: pa.array(list(newest), pa.string()), **told}) if key else pa.table({})
