"""Raw tables + schema -> `Dataset`. Everything fitted here is fitted on training rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..base.arrays import I64
from .dataset import Dataset
from .encoding.carry import Past, places, refuse_known_answers
from .encoding.encode import Carried, Encoding
from .encoding.raw_columns import RawColumns
from .ids import id_type
from .joins import join_notes
from .log import EventLog
from .reading.columns import as_strings
from .reading.keys import RawEvents, clean, label_matrix, read_configured
from .reading.tables import BadRows, Tables
from .schema import DataConfig
from .split import Part, assign_parts, moment


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
    return build_dataset(read_configured(config, base, bad), config, seed, bad, source)


def build_dataset(
    tables: Tables,
    config: DataConfig,
    seed: int,
    bad: BadRows | None = None,
    source: Dataset | None = None,
    learned: Part = Part.TRAIN,
) -> Dataset:
    """Encode raw tables; see `load_dataset`.

    Args:
        tables: raw.
        config: the `[data]` section.
        seed: of random splits.
        bad: collects bad rows.
        source: the data set of an earlier run that is carried on.
        learned: rows of the parts up to this one are training rows.
    """
    bad = bad or BadRows(config.on_bad_rows)
    tables, raw = clean(tables, config, bad)
    unlisted = join_notes(tables, config, refuse=source is None)
    past = None if source is None else Past.of(source, config, raw)
    by_time = pa.array(np.argsort(raw.times, kind="stable"))
    seen = None if raw.users is None else raw.users.take(by_time)
    user_ids = _entities(tables, "users", config.user, seen, None if past is None else past.users)
    users = _positions(raw.users, user_ids, len(raw))
    order = np.lexsort((np.arange(len(raw)), raw.times, users))
    parts = _parts(config, tables, raw, users, order, seed)
    parts[parts <= learned] = Part.TRAIN
    item_ids, num_catalogue = _catalogue(tables, config, raw, parts, order, past)
    items = _positions(raw.items, item_ids, len(raw))
    labels, mask = label_matrix(config.tasks, raw.labels, tables)
    events = EventLog(
        users=users[order],
        items=items[order],
        times=raw.times[order],
        parts=parts,
        labels=labels[order],
        mask=mask[order],
        weights=raw.weights[order],
        propensities=None if raw.propensities is None else raw.propensities[order],
        source_rows=order.astype(np.int64),
    )
    carried: Carried | None = None
    if past is not None:
        refuse_known_answers(past.source, events, config, user_ids, item_ids)
        events, at, rows = past.merged(events, user_ids, item_ids)
        users_there, items_there = places(user_ids, past.source.user_ids), places(item_ids, past.source.item_ids)
        carried = Carried(past, at, rows, users_there, items_there)
    dataset = Encoding(
        RawColumns(tables=tables, config=config, events=events, user_ids=user_ids, item_ids=item_ids, bad=bad),
        num_catalogue,
        carried,
    ).dataset()
    named = {"user": config.user, "item": config.item}
    types = {name: id_type(tables.events.column(column)) for name, column in named.items() if column}
    return replace(dataset, id_types=types, notes=(*dataset.notes, *unlisted))


def _entities(tables: Tables, name: str, column: str, seen: pa.Array | None, known: pa.Array | None) -> pa.Array:
    """Raw ids: those known before, those of the table in its order, then those only events name, in their order."""
    if seen is None:
        return pa.array([], pa.string())
    none = pa.array([], pa.string())
    listed = as_strings(tables, name, column) if getattr(tables, name) is not None else none
    return pc.unique(
        pa.concat_arrays([none if known is None else known, listed.cast(pa.string()), seen.cast(pa.string())])
    )


def _positions(raw: pa.Array | None, ids: pa.Array, rows: int) -> I64:
    if raw is None:
        return np.full(rows, -1, dtype=np.int64)
    return np.asarray(pc.index_in(raw, value_set=ids).to_numpy(zero_copy_only=False), dtype=np.int64)


def _catalogue(
    tables: Tables,
    config: DataConfig,
    raw: RawEvents,
    parts: NDArray[np.int8],
    order: I64,
    past: Past | None,
) -> tuple[pa.Array, int]:
    """Item ids, those that may be recommended first: known ones, the item table, the training rows; then the rest."""
    if raw.items is None:
        return pa.array([], pa.string()), 0
    train = raw.items.take(pa.array(np.sort(order[parts == Part.TRAIN])))
    known = _entities(tables, "items", config.item, train, None if past is None else past.items)
    return pc.unique(pa.concat_arrays([known, raw.items.cast(pa.string())])), len(known)


def _parts(
    config: DataConfig,
    tables: Tables,
    raw: RawEvents,
    users: I64,
    order: I64,
    seed: int,
) -> NDArray[np.int8]:
    spec = config.split
    named, strata = None, None
    if spec.kind == "column" and spec.column:
        named = as_strings(tables, "events", spec.column).take(pa.array(order)).to_pylist()
        if spec.parts:
            named = [spec.parts[value] for value in named]
    if spec.stratify:
        codes = as_strings(tables, "events", spec.stratify).dictionary_encode().indices
        strata = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)[order] + 1
    return assign_parts(
        spec,
        users=users[order] if config.user else None,
        times=raw.times[order] if config.time else None,
        named=named,
        strata=strata,
        rows=len(raw),
        seed=seed,
        cuts=(moment("valid_from", spec.valid_from), moment("test_from", spec.test_from)),
    )
