"""Raw tables + schema -> `Dataset`. Everything fitted here is fitted on training rows."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..base.arrays import I64, AnyArray, Ints
from ..base.counting import counting_order, first_places, rises
from .dataset import Dataset
from .encoding.carry import Past, refuse_known_answers
from .encoding.encode import Carried, Encoding
from .encoding.raw_columns import RawColumns
from .encoding.settled import CountsMoved
from .ids import id_type
from .joins import join_notes
from .log import EventLog
from .reading.coded import Coded
from .reading.columns import as_codes, as_strings
from .reading.keys import RawEvents, clean, label_matrix, read_configured
from .reading.tables import BadRows, Tables
from .schema import DataConfig
from .shelf import Shelf
from .split import Part, assign_parts, moment

log = logging.getLogger(__name__)

BYTES, BYTES_OF_INPUT = 60, 10
"""What a build takes for each event: for the log and its orders, and for each encoded input and task."""


def load_dataset(
    config: DataConfig, base: Path, seed: int, bad: BadRows | None = None, source: Dataset | None = None
) -> Dataset:
    """Read the configured tables and encode them.

    Args:
        config: the `[data]` section.
        base: folder that relative paths start from (the configuration file's).
        seed: of random splits.
        bad: collects bad rows; by default made from `config.on_bad_rows`.
        source: the data set of an earlier run that is carried on: its vocabularies grow, its bucket edges stay, its
            events before the first new row are history (see `past`).

    Raises:
        DataError: a file, column or value is not what the schema says, or `source` knows what is held out here.
        RunError: `source` is described otherwise.
    """
    bad = bad or BadRows(config.on_bad_rows)
    return build_dataset(read_configured(config, base, bad, stored=True), config, seed, bad, source)


def build_dataset(
    tables: Tables,
    config: DataConfig,
    seed: int,
    bad: BadRows | None = None,
    source: Dataset | None = None,
    learned: Part = Part.TRAIN,
    recount: bool = False,
) -> Dataset:
    """Encode raw tables; see `load_dataset`.

    Args:
        tables: raw.
        config: the `[data]` section.
        seed: of random splits.
        bad: collects bad rows.
        source: the data set of an earlier run that is carried on.
        learned: rows of the parts up to this one are training rows.
        recount: encode all rows of `source` again, those it learned from too, where these could stay as they are.
    """
    bad = bad or BadRows(config.on_bad_rows)
    shelf = _shelf(config, tables.events.num_rows + (0 if source is None else len(source.events)))
    tables, raw = clean(tables, config, bad, shelf)
    unlisted = join_notes(tables, config, refuse=source is None)
    past = None if source is None else Past.of(source, config, raw, shelf, recount)
    by_time = None if rises(raw.times) else np.argsort(raw.times, kind="stable")
    user_ids = _entities(tables, "users", config.user, _seen(raw.users, by_time), None if past is None else past.users)
    users = _positions(raw.users, user_ids, shelf)
    raw = replace(raw, users=None)
    shelf.rest(raw.times)
    order = shelf.keep(_by_user(users, len(user_ids), by_time, len(raw)))
    shelf.rest(users, order)
    parts = _parts(config, tables, raw, users, order, seed)
    shelf.rest(raw.times, users, order)
    parts[parts <= learned] = Part.TRAIN
    item_ids, num_catalogue = _catalogue(tables, config, raw, parts, order, past)
    items = _positions(raw.items, item_ids, shelf)
    raw = replace(raw, items=None)
    events = _log(config, tables, raw, order, parts, users, items, shelf)
    del raw, users, items, order, parts, by_time  # they would stand beside the log while it is encoded
    carried: Carried | None = None
    if past is not None:
        if past.settled is None:  # else all that it learned from is earlier
            refuse_known_answers(past.source, events, config, user_ids, item_ids)
        events, at, rows = past.merged(events, user_ids, item_ids)
        users_there = _inverse(past.users_now, len(user_ids))
        items_there = _inverse(past.items_now(item_ids), len(item_ids))
        carried = Carried(past, at, rows, users_there, items_there)
    columns = RawColumns(
        tables=tables, config=config, events=events, user_ids=user_ids, item_ids=item_ids, bad=bad, shelf=shelf
    )
    try:
        dataset = Encoding(columns, num_catalogue, carried).dataset()
    except CountsMoved:
        log.info("users or items are counted under other keys than before: all events are counted again")
        return build_dataset(tables, config, seed, BadRows("error"), source, learned, recount=True)
    named = {"user": config.user, "item": config.item}
    types = {name: id_type(tables.events.schema.field(column)) for name, column in named.items() if column}
    return replace(dataset, id_types=types, notes=(*dataset.notes, *unlisted))


def _inverse(rows: I64, size: int) -> I64:
    """Which of some rows (-1: none) stands at each of so many places, -1 where none does."""
    found = np.full(size, -1, dtype=np.int64)
    there = np.flatnonzero(rows >= 0)
    found[rows[there]] = there
    return found


def _seen(ids: Coded | None, rows: AnyArray | None) -> pa.Array | None:
    """Distinct ids in the order in which they first appear among the rows (int or bool [n], all when None)."""
    if ids is None or rows is None:
        return None if ids is None else ids.values
    codes = ids.codes[rows]
    first = first_places(codes, len(ids.values))
    there = np.flatnonzero(first < len(codes))
    return ids.values.take(pa.array(there[np.argsort(first[there])]))


def _entities(tables: Tables, name: str, column: str, seen: pa.Array | None, known: pa.Array | None) -> pa.Array:
    """Raw ids: those known before, those of the table in its order, then those only events name, in their order."""
    if seen is None:
        return pa.array([], pa.string())
    none = pa.array([], pa.string())
    listed = as_strings(tables, name, column) if getattr(tables, name) is not None else none
    return pc.unique(pa.concat_arrays([none if known is None else known, listed.cast(pa.string()), seen]))


def _positions(raw: Coded | None, ids: pa.Array, shelf: Shelf) -> Ints | None:
    """Row of each event's user or item, int32 [R]; None where events name none."""
    if raw is None:
        return None
    rows: Ints = pc.index_in(raw.values, value_set=ids).to_numpy(zero_copy_only=False).astype(np.int32)
    return shelf.take(rows, raw.codes)


def _by_user(users: Ints | None, num_users: int, by_time: Ints | None, rows: int) -> Ints:
    """Rows of the event table in the order of the log: by user, time, and place in the file."""
    if users is None:
        return np.arange(rows) if by_time is None else by_time
    if by_time is None:
        return counting_order(users, num_users)
    return by_time[counting_order(users.take(by_time), num_users)]


def _log(
    config: DataConfig,
    tables: Tables,
    raw: RawEvents,
    order: Ints,
    parts: NDArray[np.int8],
    users: Ints | None,
    items: Ints | None,
    shelf: Shelf,
) -> EventLog:
    """The typed columns in the order of the log."""

    def ordered(column: AnyArray) -> AnyArray:
        return shelf.take(column, order) if any(column.strides) else column  # or one number for every row

    nobody = np.full(0 if users is not None and items is not None else len(raw), -1, dtype=np.int32)
    labels, mask = label_matrix(config.tasks, raw.labels, tables, order, shelf)
    return EventLog(
        users=nobody if users is None else ordered(users),
        items=nobody if items is None else ordered(items),
        times=ordered(raw.times),
        parts=parts,
        labels=labels,
        mask=mask,
        weights=ordered(raw.weights),
        propensities=None if raw.propensities is None else ordered(raw.propensities),
        source_rows=order,
    )


def _catalogue(
    tables: Tables,
    config: DataConfig,
    raw: RawEvents,
    parts: NDArray[np.int8],
    order: Ints,
    past: Past | None,
) -> tuple[pa.Array, int]:
    """Item ids, those that may be recommended first: known ones, the item table, the training rows; then the rest."""
    if raw.items is None:
        return pa.array([], pa.string()), 0
    train = np.zeros(len(raw), dtype=bool)
    train[order[parts == Part.TRAIN]] = True
    known = _entities(tables, "items", config.item, _seen(raw.items, train), None if past is None else past.items)
    return pc.unique(pa.concat_arrays([known, raw.items.values])), len(known)


def _parts(
    config: DataConfig,
    tables: Tables,
    raw: RawEvents,
    users: Ints | None,
    order: Ints,
    seed: int,
) -> NDArray[np.int8]:
    spec = config.split
    zone = config.time_zone
    cuts = (moment("valid_from", spec.valid_from, zone), moment("test_from", spec.test_from, zone))
    if spec.kind == "time":  # the moment decides, wherever the row stands
        times = raw.times if config.time else None
        found = assign_parts(
            spec, users=None, times=times, named=None, strata=None, rows=len(raw), seed=seed, cuts=cuts
        )
        return found.take(order)
    named, strata = None, None
    if spec.kind == "column" and spec.column:
        named = as_codes(tables, "events", spec.column).take(order)
        if spec.parts:
            said = [spec.parts[value] for value in named.values.to_pylist()]
            named = Coded(pa.array(said, pa.string()), named.codes)
    if spec.stratify:
        strata = as_codes(tables, "events", spec.stratify).codes[order] + 1
    of_rows = None if users is None or spec.kind != "leave_last" else users.take(order)
    return assign_parts(
        spec, users=of_rows, times=None, named=named, strata=strata, rows=len(raw), seed=seed, cuts=cuts
    )


def _shelf(config: DataConfig, rows: int) -> Shelf:
    """In memory where the log and what is worked out of it fit into `[data] memory`, else in files."""
    inputs = [
        *config.inputs("context"),
        *config.derived,
        *(task for count in config.counts for task in ("n", *count.tasks)),
    ]
    return Shelf(rows * (BYTES + BYTES_OF_INPUT * (len(inputs) + len(config.tasks))) > config.memory_bytes)
