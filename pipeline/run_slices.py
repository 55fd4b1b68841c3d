"""The metrics of a run on parts of its traffic: the usual columns of users, items and rows, and any that are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..base.arrays import F64, I64, AnyArray, Ints
from ..base.ragged import Ragged, locate, spans
from ..data.dataset import Dataset
from ..data.history import History
from ..data.split import Part
from ..evaluation.metrics.lists import UserMetrics
from ..evaluation.slices import (
    Column,
    Slice,
    activity_buckets,
    history_buckets,
    pause_buckets,
    popularity_buckets,
    row_slices,
    taken,
    target_slices,
    user_slices,
    value_slices,
)
from .slice_columns import SliceColumn
from .trace import Bench

MAX_SLICED_COLUMNS = 5
"""Context columns that rows are sliced by without being asked for, the last declared first."""
USERS, ITEMS = "activity", "popularity"
"""Columns that every evaluation has: new, light and heavy users; head, middle and tail items."""
HOUR = 3600.0
PAUSE = "pause"
"""Column of the items to be found, where the log has times and its split follows them: how long their user paused."""


def list_slices(bench: Bench, final: Ints, metrics: UserMetrics, chosen: Sequence[SliceColumn] = ()) -> list[Slice]:
    """The final lists by columns of the users and of the items.

    Args:
        bench: the run's answers.
        final: int [U, k], the lists that were delivered.
        metrics: of these lists.
        chosen: further columns; those of users and items count.
    """
    trained, (users, seen, truth) = bench.trained, bench.asked
    config, dataset = trained.config.evaluation, trained.dataset
    by_user: dict[str, Column] = {USERS: activity_buckets(seen.lengths), "history": history_buckets(seen.lengths)}
    layout = dataset.sides["user"]
    for column, name in enumerate(layout.categorical):
        vocabulary = dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= config.max_slices + 2:
            codes = dataset.users.codes(column)[users]
            by_user[name] = np.array(vocabulary.names(codes.tolist()))
    by_user |= {one.name: taken(one.values, users) for one in chosen if one.side == "user"}
    by_item: dict[str, Column] = {ITEMS: popularity_buckets(_item_counts(bench))}
    by_item |= {one.name: one.values for one in chosen if one.side == "item"}
    by_target = {name: taken(values, truth.items) for name, values in by_item.items()}
    if has_pauses(dataset):
        by_target[PAUSE] = pause_buckets(pauses(bench.retriever.data.history, users, truth, bench.part))
    k = min(config.list_k, final.shape[1])
    return [*user_slices(metrics, by_user, config), *target_slices(final, truth, by_target, k, config)]


def tells_hours(dataset: Dataset) -> bool:
    """Whether the times of a log are hours and not a counter of each user's events: whether they span more than one."""
    times = dataset.events.times
    known = times[np.isfinite(times)]
    return bool(dataset.config.time) and len(known) > 0 and float(known.max() - known.min()) > HOUR


def has_pauses(dataset: Dataset) -> bool:
    """Whether it can be told how long a user paused before an event of a later part."""
    return dataset.config.split.kind in ("time", "leave_last") and tells_hours(dataset)


def task_slices(bench: Bench, values: dict[str, AnyArray], chosen: Sequence[SliceColumn] = ()) -> list[Slice]:
    """Each task by columns of the rows: their context, their user's activity, their item's popularity.

    Args:
        bench: the run's answers.
        values: predictions and labels of every row, as `stage_metrics.ranking_figures` leaves them.
        chosen: further columns, of users, items or rows.
    """
    dataset, config = bench.trained.dataset, bench.trained.config.evaluation
    rows = dataset.rows(Part.TEST).numpy()
    columns = _row_columns(bench, rows)
    entities = {"user": dataset.events.users, "item": dataset.events.items, "context": np.arange(len(dataset.events))}
    columns |= {one.name: taken(one.values, entities[one.side][rows]) for one in chosen}
    slices: list[Slice] = []
    for task in bench.task_rows():
        mask = ~np.isnan(values[f"rows/{task}"])
        slices += row_slices(
            values[f"rows/{task}/label"][mask],
            values[f"rows/{task}"][mask],
            values["rows/users"][mask],
            {name: taken(column, mask) for name, column in columns.items()},
            config,
            task=task,
        )
    users = dataset.events.users[rows] if dataset.config.user else np.arange(len(rows))
    for task, (mask, labels, predictions) in bench.value_rows().items():
        of_rows = {name: taken(column, mask) for name, column in columns.items()}
        slices += value_slices(labels[mask], predictions[mask], users[mask], of_rows, config, task=task)
    return slices


def _row_columns(bench: Bench, rows: I64) -> dict[str, Column]:
    """The usual columns of event rows `[R]`."""
    dataset, config = bench.trained.dataset, bench.trained.config.evaluation
    columns: dict[str, Column] = {}
    for column, name in enumerate(dataset.sides["context"].categorical):
        vocabulary = dataset.encoders.vocabularies.get(name)
        if vocabulary is not None and len(vocabulary) <= 4 * config.max_slices:
            codes = dataset.row_query.codes(column)[rows]
            columns[name] = np.array(vocabulary.names(codes.tolist()))
    if tells_hours(dataset):
        columns["hour of day (UTC)"] = (dataset.events.times[rows] // 3600 % 24).astype(np.int64)
    lengths = _training_rows(dataset) if dataset.config.user else None
    if lengths is not None:
        columns["training rows"] = history_buckets(lengths[dataset.events.users[rows]])
    if len(columns) > MAX_SLICED_COLUMNS:
        columns = {name: columns[name] for name in list(columns)[-MAX_SLICED_COLUMNS:]}
    if lengths is not None:
        columns[USERS] = activity_buckets(lengths)[dataset.events.users[rows]]
    if dataset.config.item:
        columns[ITEMS] = popularity_buckets(_item_counts(bench))[dataset.events.items[rows]]
    return columns


def pauses(history: History, users: I64, truth: Ragged, part: Part) -> F64:
    """Seconds from each user's last event before a part to the first one of each item to be found in it.

    Args:
        history: the positive events.
        users: int64 [B] user rows.
        truth: items to be found, per user; E in all.
        part: in which they are.

    Returns:
        float64 [E]; infinite where nothing is known before the part.
    """
    ends = history.ends(part)[users]
    later = history.ends(Part(part + 1))[users] if part < Part.TEST else history.ptr[1:][users]
    positions, ptr = spans(ends, later - ends)
    owner = np.repeat(np.arange(len(users)), np.diff(ptr))
    at = locate(truth, owner, history.items[positions])
    known = ends > history.ptr[:-1][users]
    last = np.where(known, history.times[np.maximum(ends - 1, 0)], -np.inf)
    found = np.full(len(truth.items), np.nan)
    wanted = np.flatnonzero(at >= 0)[::-1]  # backwards, so that the first event of an item is the one that stays
    found[at[wanted]] = history.times[positions[wanted]] - last[owner[wanted]]
    return found


def _training_rows(dataset: Dataset) -> I64:
    """Rows of each user before validation, int64 [U]."""
    return np.bincount(dataset.events.users[dataset.events.parts <= Part.TRAIN], minlength=dataset.num_users)


def _item_counts(bench: Bench) -> I64:
    """Training events of each item, int64 [N]: the positive ones where there is a retriever, else all."""
    dataset = bench.trained.dataset
    counts: I64 = np.zeros(len(dataset.item_ids), dtype=np.int64)
    if bench.trained.retriever is not None:
        found = bench.retriever.data.popularity(Part.VALID).numpy().astype(np.int64)
        counts[: len(found)] = found
        return counts
    np.add.at(counts, dataset.events.items[dataset.events.parts <= Part.TRAIN], 1)
    return counts
