"""Raw tables + schema -> `Dataset`. Everything fitted here is fitted on training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import ConfigError
from .batch import SideLayout
from .columns import as_float32, as_strings
from .counts import CountTable, combine
from .dataset import Dataset, EventLog, encode_counts, join_blocks
from .encoders import Column, Encoders, encode_side, fit_vocabulary, parse_vectors, side_layout
from .history import History
from .numeric import NumericEncoder
from .raw import RawEvents, clean, home_table, label_matrix, read_configured
from .schema import DataConfig, FeatureSpec
from .split import Part, assign_parts
from .tables import BadRows, Tables
from .vocabulary import Vocabulary


def load_dataset(config: DataConfig, base: Path, seed: int, bad: BadRows | None = None) -> Dataset:
    """Read the configured tables and encode them.

    Args:
        config: the `[data]` section.
        base: folder that relative paths start from (the configuration file's).
        seed: of random splits.
        bad: collects bad rows; by default made from `config.on_bad_rows`.

    Raises:
        DataError: a file, column or value is not what the schema says.
    """
    bad = bad or BadRows(config.on_bad_rows)
    return build_dataset(read_configured(config, base, bad), config, seed, bad)


def build_dataset(tables: Tables, config: DataConfig, seed: int, bad: BadRows | None = None) -> Dataset:
    """Encode raw tables; see `load_dataset`."""
    bad = bad or BadRows(config.on_bad_rows)
    tables, raw = clean(tables, config, bad)
    by_time = pa.array(np.argsort(raw.times, kind="stable"))
    user_ids = _entities(tables, "users", config.user, None if raw.users is None else raw.users.take(by_time))
    users = _positions(raw.users, user_ids, len(raw))
    order = np.lexsort((np.arange(len(raw)), raw.times, users))
    parts = _parts(config, tables, raw, users, order, seed)
    item_ids, num_catalogue = _catalogue(tables, config, raw, parts, order)
    items = _positions(raw.items, item_ids, len(raw))
    labels, mask = label_matrix(config.tasks, raw, tables)
    events = EventLog(
        users[order],
        items[order],
        raw.times[order],
        parts,
        labels[order],
        mask[order],
        raw.weights[order],
        None if raw.propensities is None else raw.propensities[order],
        order.astype(np.int64),
    )
    return _Encoding(tables, config, events, user_ids, item_ids, num_catalogue, bad).dataset()


def _entities(tables: Tables, name: str, column: str, seen: pa.Array | None) -> pa.Array:
    """Raw ids: those of the table in its order, then those only events name, in the order of `seen`."""
    if seen is None:
        return pa.array([], pa.string())
    listed = as_strings(tables, name, column) if getattr(tables, name) is not None else pa.array([], pa.string())
    return pc.unique(pa.concat_arrays([listed.cast(pa.string()), seen.cast(pa.string())]))


def _positions(raw: pa.Array | None, ids: pa.Array, rows: int) -> NDArray[np.int64]:
    if raw is None:
        return np.full(rows, -1, dtype=np.int64)
    return np.asarray(pc.index_in(raw, value_set=ids).to_numpy(zero_copy_only=False), dtype=np.int64)


def _catalogue(
    tables: Tables, config: DataConfig, raw: RawEvents, parts: NDArray[np.int8], order: NDArray[np.int64]
) -> tuple[pa.Array, int]:
    """Item ids, those that may be recommended first: the item table and the training rows; then the rest."""
    if raw.items is None:
        return pa.array([], pa.string()), 0
    train = raw.items.take(pa.array(np.sort(order[parts == Part.TRAIN])))
    known = _entities(tables, "items", config.item, train)
    return pc.unique(pa.concat_arrays([known, raw.items.cast(pa.string())])), len(known)


def _parts(
    config: DataConfig,
    tables: Tables,
    raw: RawEvents,
    users: NDArray[np.int64],
    order: NDArray[np.int64],
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
        cuts=(_moment("valid_from", spec.valid_from), _moment("test_from", spec.test_from)),
    )


def _moment(key: str, text: str) -> float | None:
    """Epoch seconds of a configured date; None when empty."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f'data.split.{key} = "{text}" is no date; expected ISO (2022-05-04 or 2022-05-04T00:00+08:00) or seconds'
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@dataclass
class _Encoding:
    """Working state while a data set is being encoded."""

    tables: Tables
    config: DataConfig
    events: EventLog
    user_ids: pa.Array
    item_ids: pa.Array
    num_catalogue: int
    bad: BadRows

    def dataset(self) -> Dataset:
        config, events = self.config, self.events
        train = events.parts == Part.TRAIN
        weights = {
            "user": np.bincount(events.users[train & (events.users >= 0)], minlength=len(self.user_ids)),
            "item": np.bincount(events.items[train & (events.items >= 0)], minlength=len(self.item_ids)),
            "context": train.astype(np.int64),
        }
        sides: dict[str, tuple[FeatureSpec, ...]] = {
            side: tuple(s for s in config.features if s.side == side and s.kind != "sequence" and not s.after_event)
            for side in ("user", "item", "context")
        }
        columns = {side: {spec.name: self._column(spec) for spec in specs} for side, specs in sides.items()}
        vocabularies: dict[str, Vocabulary] = {}
        numerics: dict[str, NumericEncoder] = {}
        for side, specs in sides.items():
            for spec in specs:
                column = columns[side][spec.name]
                if spec.kind in ("categorical", "multi"):
                    vocabularies[spec.name] = fit_vocabulary(spec, column, weights[side])
                elif spec.kind == "numeric":
                    numerics[spec.name] = NumericEncoder.fit(column[weights[side] > 0], spec.bins)
        event_codes: dict[str, NDArray[np.int64]] = {}
        for spec in config.features:
            if spec.after_event:
                column = self._column(spec)
                vocabularies[spec.name] = fit_vocabulary(spec, column, weights["context"])
                event_codes[spec.name] = vocabularies[spec.name].rows(column)
        keys, key_codes = self._keys(columns, weights)
        tables, statistics = self._counts(keys, key_codes, train)
        for name, values in statistics.items():
            bins = next(table.spec.bins for table in tables if name in table.names)
            numerics[name] = NumericEncoder.fit(values[train], bins)
        encoders = Encoders(vocabularies, numerics)
        layouts = {side: side_layout(specs, columns[side]) for side, specs in sides.items()}
        rows = {"user": len(self.user_ids), "item": len(self.item_ids), "context": len(events)}
        blocks = {side: encode_side(specs, columns[side], encoders, rows[side]) for side, specs in sides.items()}
        by_side: dict[str, list[tuple[str, NDArray[np.float32]]]] = {"query_counts": [], "item_counts": []}
        for table in tables:
            pair = any(config.feature(key).side == "item" for key in table.spec.keys)
            by_side["item_counts" if pair else "query_counts"] += [(name, statistics[name]) for name in table.names]
        for side, named in by_side.items():
            names = tuple(name for name, _ in named)
            layouts[side] = SideLayout(names, names)
            blocks[side] = encode_counts(named, encoders, len(events))
        sequences, ends = self._sequences()
        title = config.title and self.tables.items is not None
        ids = tuple(self.item_ids.to_pylist())
        titles = self._aligned("item", as_strings(self.tables, "items", config.title)).to_pylist() if title else ids
        return Dataset(
            config,
            encoders,
            tuple(self.user_ids.to_pylist()),
            ids,
            tuple(name or raw for name, raw in zip(titles, ids, strict=True)),
            self.num_catalogue,
            events,
            blocks["user"],
            blocks["item"],
            join_blocks((blocks["context"], blocks["query_counts"])),
            blocks["item_counts"],
            layouts,
            key_codes,
            tables,
            event_codes,
            sequences,
            ends,
            self.tables.fingerprint,
            self.tables.notes,
        )

    def _column(self, spec: FeatureSpec) -> Column:
        """Raw column of a feature, one entry per user row, item row or event row."""
        home = home_table(self.tables, spec)
        id_column = {"user": self.config.user, "item": self.config.item, "context": ""}[spec.side]
        if id_column and spec.source == id_column:
            return self.user_ids if spec.side == "user" else self.item_ids
        values: Column
        if spec.kind == "numeric":
            values = as_float32(self.tables, home, spec.source, self.bad)
        elif spec.kind == "vector":
            values = parse_vectors(spec, self.tables, home, self.bad)
        else:
            values = as_strings(self.tables, home, spec.source)
        if home == "events":
            return self._first_per_entity(spec, values) if spec.side != "context" else self._in_order(values)
        return self._aligned(spec.side, values)

    def _in_order(self, values: Column) -> Column:
        if isinstance(values, np.ndarray):
            return values[self.events.source_rows]
        return values.take(pa.array(self.events.source_rows))

    def _first_per_entity(self, spec: FeatureSpec, values: Column) -> Column:
        """A user or item column that stands in the events: its first training value for each user or item."""
        entity = self.events.users if spec.side == "user" else self.events.items
        count = len(self.user_ids) if spec.side == "user" else len(self.item_ids)
        train = np.flatnonzero(self.events.parts == Part.TRAIN)
        backwards = train[np.lexsort((self.events.source_rows[train], self.events.times[train]))][::-1]
        first = np.full(count, -1, dtype=np.int64)
        first[entity[backwards]] = self.events.source_rows[backwards]  # the last assignment, the earliest row, wins
        return _gather(values, first)

    def _aligned(self, side: str, values: Column) -> Column:
        """Rows of a user or item table in the order of the entity rows; missing for entities it does not list."""
        name, column = ("users", self.config.user) if side == "user" else ("items", self.config.item)
        listed = as_strings(self.tables, name, column)
        ids = self.user_ids if side == "user" else self.item_ids
        at = pc.fill_null(pc.index_in(ids, value_set=listed), -1).to_numpy(zero_copy_only=False)
        return _gather(values, at.astype(np.int64))

    def _keys(
        self, columns: Mapping[str, Mapping[str, Column]], weights: Mapping[str, NDArray[np.int64]]
    ) -> tuple[dict[str, Vocabulary], dict[str, NDArray[np.int64]]]:
        """Vocabularies of count keys over all training values (no frequency floor), and codes of every row."""
        keys: dict[str, Vocabulary] = {}
        codes: dict[str, NDArray[np.int64]] = {}
        for name in dict.fromkeys(key for count in self.config.counts for key in count.keys):
            side = self.config.feature(name).side
            column = columns[side][name]
            seen = weights[side] > 0
            keys[name] = Vocabulary.fit(column.filter(pa.array(seen)), weights[side][seen])
            codes[name] = keys[name].rows(column)
        return keys, codes

    def _counts(
        self, keys: Mapping[str, Vocabulary], codes: Mapping[str, NDArray[np.int64]], train: NDArray[np.bool_]
    ) -> tuple[tuple[CountTable, ...], dict[str, NDArray[np.float32]]]:
        """Count tables, and each statistic for every event row: as-of in training, frozen afterwards."""
        events, tables = self.events, []
        statistics: dict[str, NDArray[np.float32]] = {}
        names = [task.name for task in self.config.tasks]
        for spec in self.config.counts:
            row_codes = []
            for key in spec.keys:
                side = self.config.feature(key).side
                rows = {"user": events.users, "item": events.items, "context": np.arange(len(events))}[side]
                row_codes.append(codes[key][rows])
            sizes = tuple(len(keys[key]) for key in spec.keys)
            combined = combine(row_codes, sizes)
            chosen = [names.index(task) for task in spec.tasks]
            labels, mask = events.labels[train][:, chosen], events.mask[train][:, chosen]
            table = CountTable.fit(spec, combined[train], sizes, labels, mask)
            values = np.empty((len(events), 1 + len(chosen)), dtype=np.float32)
            values[train] = table.as_of(combined[train], events.times[train], labels, mask)
            values[~train] = table.lookup(combined[~train])
            tables.append(table)
            statistics.update(zip(table.names, np.ascontiguousarray(values.T), strict=True))
        return tuple(tables), statistics

    def _sequences(self) -> tuple[dict[str, History], dict[str, NDArray[np.int64]]]:
        """History of each sequence feature, and each event row's pointer into it (strictly earlier events)."""
        events = self.events
        names = [task.name for task in self.config.tasks]
        ordered = self.config.split.kind in ("time", "leave_last")
        histories: dict[str, History] = {}
        ends: dict[str, NDArray[np.int64]] = {}
        for spec in self.config.features:
            if spec.kind != "sequence":
                continue
            chosen = (events.items >= 0) & (events.items < self.num_catalogue)
            if spec.where:
                task = names.index(spec.where)
                chosen &= (events.labels[:, task] > 0) & events.mask[:, task]
            if not ordered:
                chosen &= events.parts == Part.TRAIN
            history = History.build(
                events.users, events.items, events.times, events.parts, chosen, len(self.user_ids), self._prior(spec)
            )
            limits = history.ptr[1:][events.users].copy()
            if ordered:
                for part in (Part.VALID, Part.TEST):
                    rows = events.parts == part
                    limits[rows] = history.ends(part)[events.users[rows]]
            histories[spec.name] = history
            ends[spec.name] = history.ends_before(events.users, events.times, limits)
        return histories, ends

    def _prior(self, spec: FeatureSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """(user rows, item rows) listed in a users column from before the log; items outside the catalogue left out."""
        if not spec.prior:
            return None
        column = self._aligned("user", as_strings(self.tables, "users", spec.prior))
        lists = pc.split_pattern_regex(pc.fill_null(column, ""), r"\s+")
        owner = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        found = pc.fill_null(pc.index_in(pc.list_flatten(lists), value_set=self.item_ids), -1)
        items = found.to_numpy(zero_copy_only=False).astype(np.int64)
        known = (items >= 0) & (items < self.num_catalogue)
        return owner[known], items[known]


def _gather(values: Column, at: NDArray[np.int64]) -> Column:
    """Entries at the given positions; missing (null, NaN, zero vector) where the position is -1."""
    if isinstance(values, np.ndarray):
        if not len(values):
            return np.full((len(at), *values.shape[1:]), np.nan, dtype=np.float32)
        taken = values[np.maximum(at, 0)].copy()
        taken[at < 0] = np.nan if values.ndim == 1 else 0.0
        return taken
    return values.take(pa.array(np.where(at < 0, 0, at), mask=at < 0))
