"""Typed key columns of the event table: ids, times, labels, weights; bad values named by file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F32, F64, Bool, Ints, Labels
from ...base.counting import STEP
from ...base.errors import ConfigError, DataError
from ..feature_spec import FeatureSpec, Side
from ..schema import DataConfig, TaskSpec
from ..shelf import Shelf
from ..split import PART_NAMES
from .coded import Coded
from .columns import as_choice, as_codes, as_float32, as_ids, as_labels, as_time, require_columns
from .queries import is_query, query_table
from .readers import Source, combined_digest, read_tables
from .sources import load
from .sparse_times import as_seconds
from .stored import StoredTable
from .tables import BadRows, Tables, quote
from .vectors import parse_vectors, read_pretrained


def read_configured(
    config: DataConfig,
    base: Path,
    bad: BadRows,
    given: Mapping[str, Source] | None = None,
    *,
    stored: bool = False,
) -> Tables:
    """Read the tables and vectors a `[data]` section names; relative paths start from `base`.

    Args:
        config: the `[data]` section.
        base: folder that its relative paths start from.
        bad: collects bad rows.
        given: `events`, `users`, `items` -> a frame or a path to read instead of what the section names.
        stored: leave the columns of the events on disk until they are asked for, see `read`.
    """
    stored = stored and not config.missing  # words for nothing are looked for in whole tables
    tables = _read_tables(config, base, bad, given or {}, stored).written(config.notation)
    named = [spec for spec in config.features if spec.pretrained]
    if not named:
        return tables
    vectors = {spec.name: read_pretrained(base / spec.pretrained, spec.separator) for spec in named}
    fingerprint = combined_digest([tables.fingerprint, *(found.digest for found in vectors.values())])
    return replace(tables, vectors=vectors, fingerprint=fingerprint)


def _read_tables(config: DataConfig, base: Path, bad: BadRows, given: Mapping[str, Source], stored: bool) -> Tables:
    if config.source != "files" and not given:
        if not config.path:
            raise ConfigError(f'data.source = "{config.source}" needs data.path, the folder or zip it lies in')
        return load(config.source, base / config.path, bad=bad, **config.options)
    if not config.events and "events" not in given:
        raise ConfigError("data.events is empty; name the event table (CSV or Parquet)")

    def at(table: str, name: str) -> Source | None:
        return given.get(table, asked(name) if name else None)

    def asked(name: str) -> Source:
        return query_table(name, config.database, base) if is_query(name) else base / name

    names = [config.events] if isinstance(config.events, str) else list(config.events)
    tables = read_tables(
        given.get("events", [asked(name) for name in names]),
        at("users", config.users),
        at("items", config.items),
        bad=bad,
        header=config.header or None,
        delimiter=config.delimiter or None,
        encoding=config.encoding,
        stored=stored,
    )
    return _with_files(tables) if len(names) > 1 and "events" not in given else tables


def _with_files(tables: Tables) -> Tables:
    """Events with the name of each row's file in a column `file`, unless they have such a column."""
    if FILE in tables.events.column_names:
        return tables
    if isinstance(tables.events, StoredTable):
        return replace(tables, events=tables.events.with_names(FILE))
    files = tables.origin["events"].parts
    names = np.repeat([part.name for part in files], [part.rows for part in files])
    return replace(tables, events=tables.events.append_column(FILE, pa.array(names, pa.string())))


FILE = "file"
"""Column that says which file a row of several event files came from."""


@dataclass(frozen=True, kw_only=True)
class RawEvents:
    """Typed key columns of the event table, in file order."""

    users: Coded | None
    items: Coded | None
    times: F64
    labels: Mapping[str, F32]
    weights: F32
    propensities: F32 | None

    def __len__(self) -> int:
        return len(self.times)


def clean(tables: Tables, config: DataConfig, bad: BadRows, shelf: Shelf | None = None) -> tuple[Tables, RawEvents]:
    """Type the key columns, which `shelf` keeps; under `on_bad_rows = "drop"`, once more without the bad rows."""
    shelf = shelf or Shelf()
    raw = _read_events(tables, config, bad, shelf)
    for name, column in (("users", config.user), ("items", config.item)):
        if column and getattr(tables, name) is not None:
            as_ids(tables, name, column, bad, unique=True)
    if config.split.kind == "column" and config.split.column:
        as_choice(tables, "events", config.split.column, tuple(config.split.parts) or PART_NAMES, bad)
    check_inputs(tables, config, bad)
    if bad.count():
        for name in ("events", "users", "items"):
            if getattr(tables, name) is not None:
                tables = tables.keep(name, bad.mask(name, tables.table(name).num_rows))
        raw = _read_events(tables, config, BadRows("error"), shelf)
    pa.default_memory_pool().release_unused()
    return tables, raw


def check_inputs(tables: Tables, config: DataConfig, bad: BadRows) -> None:
    """Look at every number, vector and time that features are made of."""
    for spec in config.features:
        if spec.kind == "numeric":
            as_float32(tables, home_table(tables, spec), spec.source, bad)
        elif spec.kind == "vector" and not spec.pretrained:
            parse_vectors(spec, tables, home_table(tables, spec), bad)
    for derived in config.derived:
        for side, column in derived.sources:
            home = side_table(tables, side)
            if derived.reads == "number":
                as_float32(tables, home, column, bad)
            elif derived.reads == "time":
                as_seconds(tables, home, column, bad)
            else:
                require_columns(tables, home, [column])


def _read_events(tables: Tables, config: DataConfig, bad: BadRows, shelf: Shelf) -> RawEvents:
    rows, labels = tables.events.num_rows, {}
    for task in config.tasks:
        if task.equals:
            _require_a_word(tables, task)
        labels[task.name] = shelf.keep(raw_label(tables, task, bad))

    def ids(column: str) -> Coded | None:
        if not column:
            return None
        found = as_ids(tables, "events", column, bad)
        return replace(found, codes=shelf.keep(found.codes))

    def seconds() -> F64:
        moments = as_time(tables, "events", config.time, bad)
        times: F64 = moments.view(np.float64)  # in the same place: each number is read before it is written
        for start in range(0, rows, STEP):
            times[start : start + STEP] = moments[start : start + STEP] / 1000.0
        return shelf.keep(times)

    return RawEvents(
        users=ids(config.user),
        items=ids(config.item),
        times=seconds() if config.time else np.arange(rows, dtype=np.float64),
        labels=labels,
        weights=event_weights(tables, config, bad),
        propensities=as_float32(tables, "events", config.propensity, bad) if config.propensity else None,
    )


def event_weights(tables: Tables, config: DataConfig, bad: BadRows) -> F32:
    """Training weight of every event row, float32 [R]: the configured column times the rules that the row meets.

    Float32 [R, T] where a task has a column of its own.
    """
    weights: F32 = np.broadcast_to(np.float32(1.0), tables.events.num_rows)  # a single number until a row differs
    if config.weight or config.weights:
        weights = weights.copy()
    if config.weight:
        expected = "a weight of 0 or more"
        weights = as_float32(
            tables, "events", config.weight, bad, allow_missing=False, minimum=0.0, expected=expected
        ).copy()
    for rule in config.weights:
        if rule.equals:
            met = as_codes(tables, "events", rule.column).says(rule.equals)
        else:
            values = as_float32(tables, "events", rule.column, bad)
            low = -np.inf if rule.at_least is None else rule.at_least
            high = np.inf if rule.below is None else rule.below
            met = (values >= low) & (values < high)  # NaN meets neither
        weights[met] *= np.float32(rule.weight)
    if not any(task.weight_column for task in config.tasks):
        return weights
    return np.stack([weights * _task_weights(tables, task.weight_column, bad) for task in config.tasks], axis=1)


def _task_weights(tables: Tables, column: str, bad: BadRows) -> F32:
    """Weight of every event row in one task, float32 [R]: 0 where nothing stands, 1 without a column."""
    if not column:
        return np.ones(tables.events.num_rows, dtype=np.float32)
    weights = as_float32(tables, "events", column, bad, minimum=0.0, expected="a weight of 0 or more")
    return np.nan_to_num(weights, nan=0.0)


def raw_label(tables: Tables, task: TaskSpec, bad: BadRows) -> F32:
    """Label column of a task as numbers, NaN where unobserved: float32 [R].

    A task of words has 1 where the column says one of them and 0 where it says another.
    """
    if task.equals:
        texts = as_codes(tables, "events", task.source)
        return np.where(texts.codes < 0, np.float32(np.nan), texts.says(task.equals).astype(np.float32))
    kind: Literal["binary", "duration", "number"]
    kind = "binary" if task.kind == "binary" and task.at_least is None else "duration" if task.log1p else "number"
    return as_labels(tables, "events", task.source, bad, kind=kind, allow_missing=True)


def _require_a_word(tables: Tables, task: TaskSpec) -> None:
    """DataError where no row says any of a task's words."""
    texts = as_codes(tables, "events", task.source).values
    if not pc.any(pc.is_in(texts, value_set=pa.array(task.equals, pa.string()))).as_py():
        words = ", ".join(quote(value) for value in texts[:5].to_pylist())
        raise DataError(
            f'no row of column "{task.source}" is {" or ".join(quote(word) for word in task.equals)}, as the task '
            f'"{task.name}" expects; the column says {words}: correct equals, blanks and dots included'
        )


def label_matrix(
    tasks: Sequence[TaskSpec],
    labels: Mapping[str, F32],
    tables: Tables,
    order: Ints | None = None,
    shelf: Shelf | None = None,
    scenes: Bool | None = None,
) -> tuple[Labels, Bool]:
    """Labels [R, T] (0 where masked; uint8 where every task is binary, else float32) and masks [R, T].

    Args:
        tasks: in the order of the columns.
        labels: as `raw_label` reads them.
        tables: as read.
        order: rows of the event table in the order of the matrices; as they stand there when None.
        shelf: keeps the matrices.
        scenes: bool [R, T], see `scenes_of`; read from the tables when None.
    """
    shelf, rows = shelf or Shelf(), tables.events.num_rows
    whole = all(task.kind == "binary" for task in tasks)  # 0 and 1 alone, as the reader saw to
    values: Labels = shelf.empty((rows, len(tasks)), np.uint8 if whole else np.float32)
    masks: Bool = shelf.empty((rows, len(tasks)), np.bool_)
    names = [task.name for task in tasks]
    for place, task in enumerate(tasks):
        value = labels[task.name] if order is None else shelf.take(labels[task.name], order)
        mask = ~np.isnan(value)
        if task.at_least is not None:
            value = (value >= task.at_least).astype(np.float32)
        if task.where:
            gate = names.index(task.where)
            mask &= masks[:, gate] & (values[:, gate] > 0)
        if task.scene:
            scene = _scene(tables, task) if scenes is None else scenes[:, place]
            mask &= scene if order is None else scene.take(order)
        values[:, place] = np.where(mask, value, np.float32(0))
        masks[:, place] = mask
        shelf.rest(values, masks, value)
    return values, masks


def _scene(tables: Tables, task: TaskSpec) -> Bool:
    column, _, wanted = task.scene.partition("=")
    return as_codes(tables, "events", column).says([wanted])


def scenes_of(tasks: Sequence[TaskSpec], tables: Tables) -> Bool:
    """Whether each row lies in the scene of each task, bool [R, T]; every row in that of a task without one."""
    whole = np.ones((tables.events.num_rows, len(tasks)), dtype=np.bool_)
    for place, task in enumerate(tasks):
        if task.scene:
            whole[:, place] = _scene(tables, task)
    return whole


def home_table(tables: Tables, spec: FeatureSpec) -> str:
    """Table that holds the feature's column: its side's, or the events where that side has no table."""
    return side_table(tables, spec.side)


def side_table(tables: Tables, side: Side) -> str:
    """Table that holds the columns of a side: its own, or the events where there is none."""
    name = {"user": "users", "item": "items", "context": "events"}[side]
    return name if getattr(tables, name) is not None else "events"
