"""The columns that change from event to event: context, as-of statistics and derived features, one after the other.

A column is read, encoded and put away before the next one is touched, so that few of them are in memory at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...base.arrays import F64, I64, AnyArray, Bool, Ints
from ...base.machine import cpu_count
from ..batch import SideLayout
from ..dataset import Dataset
from ..derived_spec import DerivedSpec
from ..feature_spec import FeatureSpec, Side
from ..hashing import HashedVocabulary
from ..packed import SIDES, Packed
from ..schema import CountSpec, DataConfig
from ..split import Part
from .counts import CountTable, statistic_names
from .derived import Derived, Situation, derived_layout
from .encoders import Column, Encoders, fill_missing
from .groups import Groups, combine, flags
from .numeric import NumericEncoder
from .raw_columns import RawColumns
from .row_columns import RowColumns
from .sequences import history_and_ends
from .settled import Settled

log = logging.getLogger(__name__)

MOST_WORKERS = 4
"""Counts at the same time unless `[data] workers` says more: each holds some 30 bytes an event."""


def computed_layouts(config: DataConfig) -> dict[str, SideLayout]:
    """Columns of the statistics and derived features, of the query and of the (query, item) pair."""
    found = {}
    for place in ("query", "item"):
        pair = place == "item"
        counts = [spec for spec in config.counts if of_pair(config, spec) == pair]
        named = tuple(name for spec in counts for name in statistic_names(spec))
        found[f"{place}_counts"] = SideLayout(named, named)
        found[f"{place}_derived"] = derived_layout([spec for spec in config.derived if spec.of_pair == pair])
    return found


def of_pair(config: DataConfig, spec: CountSpec) -> bool:
    """Whether statistics describe the (query, item) pair; otherwise the query alone."""
    return any(config.feature(key).side == "item" for key in spec.keys)


class EventRows:
    """The encoded event rows of a data set in the making.

    Args:
        raw: columns by row.
        known: bool [R] rows that what is learned may know.
        kept: side -> row of the earlier data set that each row's values are taken from, -1 for its own; None where
            there is no earlier one.
        old: the earlier data set.
        layouts: columns of each side.
        encoders: learned so far; those of statistics and derived features are added.
        settled: rows of the earlier data set that are before all of these and not among them.
    """

    def __init__(
        self,
        raw: RawColumns,
        known: Bool,
        kept: Mapping[Side, I64 | None],
        old: Dataset | None,
        layouts: Mapping[str, SideLayout],
        encoders: Encoders,
        settled: Settled | None = None,
    ) -> None:
        self.raw, self.config, self.events = raw, raw.config, raw.events
        self.known, self.kept, self.old, self.settled = known, kept, old, settled
        self.layouts, self.encoders = layouts, encoders
        self._tables = {
            pair: RowColumns(
                [layouts[side] for side in SIDES["row_item" if pair else "row_query"]], len(raw.events), raw.shelf
            )
            for pair in (False, True)
        }

    def packed(self) -> tuple[Packed, Packed]:
        """Columns of the query and of the pair, once all are encoded."""
        return self._tables[False].packed(), self._tables[True].packed()

    def encode_context(self, columns: dict[str, Column]) -> None:
        """Context columns, which are given up; carried rows stand as the earlier data set has them."""
        kept, layout = self.kept["context"], self.layouts["context"]
        at = np.empty(0, dtype=np.int64) if kept is None else np.flatnonzero(kept >= 0)
        theirs = at if kept is None else kept[at]
        old = None if self.old is None else self.old.row_query
        table = self._tables[False]
        for spec in self.config.inputs("context"):
            column = columns.pop(spec.name)
            codes, numbers = self._encoded(spec, column)
            if codes is not None:
                if old is not None:
                    codes[at] = old.codes(layout.categorical.index(spec.name), theirs)
                table.add_codes(spec.name, codes, self.encoders.sizes()[spec.name])
            if numbers is not None:
                if old is not None:
                    numbers[at] = old.numbers[theirs, layout.numeric.index(spec.name)]
                table.add_numbers(spec.name, numbers)
            if spec.in_bag:
                bag = self.encoders.bag(spec, column)
                if old is not None:
                    bag[at] = old.bags[layout.bags.index(spec.name)][theirs]
                table.add_bag(bag)
            elif spec.kind == "vector":
                if old is not None:
                    column[at] = old.vectors[[name for name, _ in layout.vectors].index(spec.name)][theirs]
                table.add_vector(column)

    def _encoded(self, spec: FeatureSpec, column: Column) -> tuple[Ints | None, AnyArray | None]:
        """Vocabulary rows and scaled numbers of a column, None of what it has not."""
        if spec.kind == "categorical" and not spec.in_bag:
            return self.encoders.codes(spec.name, column), None
        if spec.kind != "numeric":
            return None, None
        encoder = self.encoders.numerics[spec.name]
        codes = encoder.buckets(column) if spec.bins else None
        return codes, encoder.scaled(column) if spec.scale != "none" else None

    def encode_counts(self, codes: Mapping[str, Ints], numerics: dict[str, NumericEncoder]) -> tuple[CountTable, ...]:
        """Count tables; their statistics are as-of in known rows and frozen afterwards.

        Args:
            codes: vocabulary rows of each count key, one per user, item or event row.
            numerics: gets the encoders of statistics that it has none of.
        """
        if not self.config.counts:
            return ()
        in_time, later = self._training_rows_in_time(), np.flatnonzero(~self.known)
        before: list[CountTable | None] = [None] * len(self.config.counts)
        if self.settled is not None:
            before = list(self.settled.source.counts)
        with ThreadPoolExecutor(self._workers()) as pool:  # numpy works outside the interpreter's lock
            waiting = [
                pool.submit(self._encode_count, spec, table, codes, numerics, in_time, later)
                for spec, table in zip(self.config.counts, before, strict=True)
            ]
            found = [one.result() for one in waiting]
        for _, fitted in found:
            numerics.update(fitted)
        return tuple(table for table, _ in found)

    def _workers(self) -> int:
        """Counts at the same time: one where columns lie in files because memory is short."""
        return self.config.workers or (1 if self.raw.shelf.mapped else min(cpu_count(), MOST_WORKERS))

    def _encode_count(
        self,
        spec: CountSpec,
        before: CountTable | None,
        codes: Mapping[str, Ints],
        known_numerics: Mapping[str, NumericEncoder],
        in_time: Ints,
        later: I64,
    ) -> tuple[CountTable, dict[str, NumericEncoder]]:
        """One table, and the encoders of its statistics that are new; see `encode_counts`.

        Args:
            spec: its keys and tasks.
            before: of settled rows.
            codes: as of `encode_counts`.
            known_numerics: those that stand already; they are only read, as counts are worked out side by side.
            in_time: int [n] training rows, from the earliest to the latest.
            later: int64 [R - n] the other rows.
        """
        events, known, shelf = self.events, self.known, self.raw.shelf
        rows: dict[Side, Ints] = {"user": events.users, "item": events.items}
        sides = [self.config.feature(key).side for key in spec.keys]
        key_codes = [
            codes[key] if side == "context" else shelf.take(codes[key].astype(np.int32), rows[side])
            for key, side in zip(spec.keys, sides, strict=True)
        ]
        sizes = tuple(len(self.encoders.keys[key]) for key in spec.keys)
        groups = Groups.of(key_codes, sizes, in_time)
        asked = combine([column[later] for column in key_codes], sizes)
        shelf.rest(in_time)
        del key_codes
        names = [task.name for task in self.config.tasks]
        chosen = [names.index(task) for task in spec.tasks]
        labels, mask = [flags(events.labels[:, task]) for task in chosen], [events.mask[:, task] for task in chosen]
        table = CountTable.fit(spec, groups, sizes, labels, mask, known, before)
        earlier = None if before is None else before.earlier(groups, sizes)
        frozen = table.lookup(asked)
        del asked
        self.raw.rest()
        moments = groups.moments(events.times)
        self.raw.rest()
        learned = known if self.old is None else events.parts == Part.TRAIN
        target = self._tables[of_pair(self.config, spec)]
        fitted: dict[str, NumericEncoder] = {}
        for place, name in enumerate(table.names):
            task = place - 1 if place else None
            label, counted = (labels[task], mask[task]) if task is not None else (events.times, known)
            values = table.as_of(groups, moments, task, label, counted, earlier)
            values[later] = frozen[:, place]
            self.raw.rest()
            encoder = known_numerics.get(name) or NumericEncoder.fit(values[learned], spec.bins, spec.scale)
            fitted[name] = encoder
            target.add_codes(name, encoder.buckets(values), encoder.size)
            target.add_numbers(name, encoder.scaled(values))
            del values  # before the next one is worked out
        return table, fitted

    def _training_rows_in_time(self) -> Ints:
        rows, count = self.raw.in_time, int(self.known.sum())
        if self.known[rows[:count]].all():  # a cut in time: they are the first ones
            return rows[:count]
        return self.raw.shelf.keep(rows[self.known[rows]])

    def encode_derived(
        self, numerics: dict[str, NumericEncoder], hashed: dict[str, HashedVocabulary]
    ) -> tuple[Derived, ...]:
        """Derived features with their inputs.

        Args:
            numerics: gets the encoders of numbers that it has none of.
            hashed: gets the rows of crosses.
        """
        if not self.config.derived:
            return ()
        events, found = self.events, []
        rows: dict[Side, Ints] = {"user": events.users, "item": events.items, "context": np.arange(len(events))}
        at = Situation(rows, events.times, self._times_before())
        for place, spec in enumerate(self.config.derived):
            inputs = [self._input(place, position) for position in range(len(spec.sources))]
            found.append(Derived(spec, tuple(inputs)))
            values, feature = found[-1].values(at), spec.feature
            if spec.kind == "cross":
                hashed[feature.name] = self._hashed_cross(spec, values)
            column = fill_missing(feature, values)
            if spec.kind != "cross" and feature.name not in numerics:
                fitted = column[self.known]
                numerics[feature.name] = NumericEncoder.fit(fitted, feature.bins, feature.scale, feature.edges)
            codes, numbers = self._encoded(feature, column)
            table = self._tables[spec.of_pair]
            if codes is not None:
                table.add_codes(feature.name, codes, self.encoders.sizes()[feature.name])
            if numbers is not None:
                table.add_numbers(feature.name, numbers)
        return tuple(found)

    def _input(self, place: int, position: int) -> AnyArray:
        """An input of a derived feature; the earlier data set's value where a row is taken from it."""
        spec = self.config.derived[place]
        side, column = spec.sources[position]
        values, kept = self.raw.input(side, column, spec.reads), self.kept[side]
        if self.old is None or kept is None or not (kept >= 0).any():
            return values
        before = self.old.derived[place].inputs[position]
        return np.where(kept >= 0, before[np.maximum(kept, 0)], values)

    def _times_before(self) -> F64:
        """Time of the user's row before each event row, as far as it may be known there; NaN where none is or asked."""
        events = self.events
        if not any(spec.kind == "since" and not spec.inputs for spec in self.config.derived):
            return np.full(len(events), np.nan)
        users = len(self.raw.user_ids)
        history, ends = history_and_ends(self.config, events, users, np.ones(len(events), dtype=bool), None)
        started = ends > history.ptr[events.users]
        none = np.nan if self.settled is None else self.settled.last_times(events.users)
        return np.where(started, history.times[np.maximum(ends - 1, 0)], none)

    def _hashed_cross(self, spec: DerivedSpec, values: AnyArray) -> HashedVocabulary:
        """Rows of a cross; carried rows have been counted by the earlier data set."""
        kept = self.kept["context"]
        counted = self.known if kept is None else self.known & (kept < 0)
        before = None if self.old is None else self.old.encoders.hashed[spec.name]
        weights = np.ones(int(counted.sum()), dtype=np.int64)
        found = HashedVocabulary.fit(values[counted], weights, spec.hash_buckets, spec.min_count, before)
        log.info('"%s": %s', spec.name, found.collisions)
        return found
