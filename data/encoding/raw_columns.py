"""Raw columns brought to the rows they describe: one entry per user, per item, or per event."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import F64, I64, AnyArray, Ints
from ...base.counting import first_places
from ..feature_spec import FeatureSpec, Side
from ..hashing import hash_column
from ..log import EventLog
from ..reading.coded import Coded
from ..reading.columns import as_codes, as_float32, as_float64, as_strings
from ..reading.keys import home_table, side_table
from ..reading.kinds import is_list
from ..reading.lists import as_several, list_values
from ..reading.sparse_times import as_seconds
from ..reading.tables import BadRows, Tables
from ..reading.vectors import parse_vectors
from ..schema import DataConfig
from ..shelf import Shelf
from ..split import Part
from .attributes import Attribute, TextColumn, numbers_or_texts
from .encoders import Column, fill_missing
from .log_order import in_time_order


@dataclass(frozen=True, kw_only=True)
class RawColumns:
    """The tables of a data set, and who its rows are.

    Attributes:
        tables: as read.
        config: the `[data]` section.
        events: the log; `source_rows` lead from it to the event table, -1 at events carried from an earlier data set.
        user_ids: raw id of each user row.
        item_ids: raw id of each item row.
        bad: collects bad rows.
        shelf: keeps columns of event rows.
    """

    tables: Tables
    config: DataConfig
    events: EventLog
    user_ids: pa.Array
    item_ids: pa.Array
    bad: BadRows
    shelf: Shelf = field(default_factory=Shelf)

    def is_id(self, spec: FeatureSpec) -> bool:
        """Whether a feature is read from the id of its user or item, which is known of everyone."""
        id_column = {"user": self.config.user, "item": self.config.item, "context": ""}[spec.side]
        return bool(id_column) and spec.source == id_column

    def column(self, spec: FeatureSpec) -> Column:
        """Column of a feature as the models read it, missing values filled: one entry per user, item or event row."""
        return fill_missing(spec, self.raw(spec))

    def raw(self, spec: FeatureSpec, exact: bool = False) -> Column:
        """Column of a feature as it stands in its table, brought to the same rows; numbers in float64 when `exact`."""
        if spec.pretrained and spec.kind == "vector":  # looked up in a file by the column's raw values
            return self.tables.vectors[spec.name].lookup(
                self.raw(FeatureSpec(name=spec.name, side=spec.side, column=spec.source))
            )
        if self.is_id(spec):
            return self.user_ids if spec.side == "user" else self.item_ids
        home = home_table(self.tables, spec)
        values: Column
        if spec.kind == "numeric" and exact:
            values = as_float64(self.tables, home, spec.source)
        elif spec.kind == "numeric":
            values = as_float32(self.tables, home, spec.source, self.bad)
        elif spec.kind == "vector":
            values = parse_vectors(spec, self.tables, home, self.bad)
        elif spec.kind == "multi":
            values = as_several(self.tables, home, spec.source)
        else:
            return self._texts(home, spec)
        found = gather(values, self.home_rows(spec.side))
        return self.shelf.keep(found) if spec.side == "context" and isinstance(found, np.ndarray) else found

    def _texts(self, home: str, spec: FeatureSpec) -> Column:
        """A column of text: coded where it has an entry for each event, plain where for each user or item."""
        found = as_codes(self.tables, home, spec.source).take(self.home_rows(spec.side))
        return replace(found, codes=self.shelf.keep(found.codes)) if spec.side == "context" else found.texts()

    def input(self, side: Side, column: str, reads: str) -> AnyArray:
        """A column that a derived feature is computed from, in the form of `Derived.inputs`."""
        if reads == "time":
            seconds = as_seconds(self.tables, side_table(self.tables, side), column, self.bad)
            times: F64 = gather(seconds, self.home_rows(side))
            return times
        if reads == "number":
            numbers: F64 = self.raw(FeatureSpec(name=column, side=side, kind="numeric"), exact=True)
            return numbers
        texts = self.raw(FeatureSpec(name=column, side=side))
        if not isinstance(texts, Coded):
            return hash_column(texts)
        return np.append(hash_column(texts.values), np.uint64(0))[texts.codes]

    def home_rows(self, side: Side) -> Ints:
        """Row of the table that describes each user, item or event; -1 where none does: int [n].

        A user or item whose columns stand in the events is described by the first training row that names it.
        """
        if side == "context":
            return self.events.source_rows
        if side not in self._homes:
            self._homes[side] = self._home_rows(side)
        return self._homes[side]

    def _home_rows(self, side: Side) -> Ints:
        name, column = ("users", self.config.user) if side == "user" else ("items", self.config.item)
        ids = self.user_ids if side == "user" else self.item_ids
        if getattr(self.tables, name) is not None:
            found = pc.index_in(ids, value_set=as_strings(self.tables, name, column))
            return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
        entity, events = self.events.users if side == "user" else self.events.items, self.events
        train = self.in_time[(events.parts == Part.TRAIN)[self.in_time]]
        train = train[events.source_rows[train] >= 0]
        first = first_places(entity[train], len(ids))
        rows = np.append(events.source_rows[train], -1)
        return np.asarray(rows[first])

    @cached_property
    def in_time(self) -> Ints:
        """Rows of the log from the earliest to the latest, see `in_time_order`."""
        rows = in_time_order(self.events, self.shelf)
        self.rest()
        return rows

    def rest(self) -> None:
        """Let go of the memory that reading the log took, see `Shelf.rest`."""
        events = self.events
        self.shelf.rest(events.users, events.items, events.times, events.labels, events.mask, events.source_rows)

    @cached_property
    def _homes(self) -> dict[Side, Ints]:
        return {}

    def of_items(self, column: str) -> pa.Array:
        """A column of the item table as text, one entry per item row."""
        return gather(as_strings(self.tables, "items", column), self.home_rows("item"))

    def attributes(self) -> dict[str, Attribute]:
        """Raw values of the item features, and of the item columns that are kept for filters."""
        found: dict[str, Attribute] = {}
        for spec in self.config.features:
            if spec.side != "item" or spec.kind == "vector" or self.is_id(spec):
                continue
            column = self.raw(spec, exact=True)
            if spec.kind == "multi":
                found[spec.name] = TextColumn.several(column, spec.separator)
            else:
                found[spec.name] = TextColumn.single(column) if spec.kind == "categorical" else column
        for name in self.config.attributes:
            column = gather(as_several(self.tables, "items", name), self.home_rows("item"))
            found[name] = TextColumn.several(column, "") if is_list(column.type) else numbers_or_texts(column)
        return found

    def prior(self, spec: FeatureSpec) -> tuple[I64, I64]:
        """(user rows, item rows) listed in a users column from before the log, in order; unknown items left out."""
        if not spec.prior:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        column = gather(as_several(self.tables, "users", spec.prior), self.home_rows("user"))
        lists = column if is_list(column.type) else pc.split_pattern_regex(pc.fill_null(column, ""), r"\s+")
        values, ptr = list_values(lists)
        owner = np.repeat(np.arange(len(lists)), np.diff(ptr))
        found = pc.fill_null(pc.index_in(values, value_set=self.item_ids), -1)
        items = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return owner[items >= 0], items[items >= 0]


def gather(values: Column, at: Ints) -> Column:
    """Entries at the given positions; missing (null, NaN, zero vector) where the position is -1."""
    if isinstance(values, np.ndarray):
        if not len(values):
            return np.full((len(at), *values.shape[1:]), np.nan, dtype=values.dtype)
        taken = values.take(at, axis=0, mode="clip")
        nowhere = at < 0
        if nowhere.any():
            taken[nowhere] = np.nan if values.ndim == 1 else 0.0
        return taken
    return values.take(pa.array(np.where(at < 0, 0, at), mask=at < 0))
