"""Raw columns -> the encoded blocks, counts and histories of a `Dataset`. Everything fitted is fitted on known rows.

Known rows are the training rows and, when an earlier data set is carried on, its events. What that data set had learned
stays as it was: values keep their rows and new ones come behind them, numbers keep their buckets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...base.arrays import F32, F64, I64, AnyArray, Ints
from ...base.errors import RunError
from ..batch import SideLayout, join_blocks
from ..dataset import Dataset
from ..derived_spec import DerivedSpec
from ..feature_spec import FeatureSpec, Side
from ..hashing import HashedVocabulary
from ..log import EventLog
from ..packed import pack
from ..pretrained import TableStart
from ..schema import DataConfig
from ..split import Part
from ..vocabulary import Vocabulary
from .attributes import Attribute
from .carry import Past
from .counts import CountTable, combine, encode_counts
from .derived import Derived, Situation, derived_layout, encoded
from .encoders import Column, Encoders, encode_side, fill_missing, side_layout, weighed_values
from .numeric import NumericEncoder
from .overlay import overlay, overlay_attribute
from .raw_columns import RawColumns
from .sequences import build_sequences, history_and_ends

log = logging.getLogger(__name__)

SIDES: tuple[Side, ...] = ("user", "item", "context")


@dataclass(frozen=True)
class Carried:
    """What of an earlier data set stands in this one.

    Attributes:
        past: the earlier data set.
        at: int64 [P] rows of this log that are carried.
        rows: int64 [P] the earlier log's rows they are.
        users: int64 [U] the earlier data set's row of each user, -1 for new ones.
        items: int64 [N] the earlier data set's row of each item, -1 for new ones.
    """

    past: Past
    at: I64
    rows: I64
    users: I64
    items: I64


class Encoding:
    """Working state while a data set is being encoded.

    Args:
        raw: columns by row.
        num_catalogue: item rows below this may be recommended.
        carried: of an earlier data set, or None.
    """

    def __init__(self, raw: RawColumns, num_catalogue: int, carried: Carried | None) -> None:
        self.raw = raw
        self.config: DataConfig = raw.config
        self.events: EventLog = raw.events
        self.num_catalogue = num_catalogue
        self.carried = carried
        self.old = None if carried is None else carried.past.source
        events = self.events
        self.known = events.parts <= Part.TRAIN
        users, items = (len(raw.user_ids), len(raw.item_ids))
        named = {side: self.known & (rows >= 0) for side, rows in (("user", events.users), ("item", events.items))}
        self.weights: dict[Side, I64] = {
            "user": np.bincount(events.users[named["user"]], minlength=users),
            "item": np.bincount(events.items[named["item"]], minlength=items),
            "context": self.known.astype(np.int64),
        }
        self.kept = {side: self._kept(side) for side in SIDES}

    def _kept(self, side: Side) -> I64:
        """Row of the earlier data set that each row's values are taken from, -1 where the new tables know better."""
        rows = np.full(len(self.weights[side]), -1, dtype=np.int64)
        if self.carried is None:
            return rows
        if side == "context":
            rows[self.carried.at] = self.carried.rows
            return rows
        theirs = self.carried.users if side == "user" else self.carried.items
        return np.where(self.raw.home_rows(side) < 0, theirs, -1) if len(rows) else rows

    def dataset(self) -> Dataset:
        """Everything together."""
        config, events = self.config, self.events
        sides = {side: config.inputs(side) for side in SIDES}
        columns = {side: {spec.name: self.raw.column(spec) for spec in specs} for side, specs in sides.items()}
        after = {spec.name: self.raw.column(spec) for spec in config.features if spec.after_event}
        read = {name: column for side in (*columns.values(), after) for name, column in side.items()}
        vocabularies, hashed = self._vocabularies(read)
        numerics: dict[str, NumericEncoder] = {} if self.old is None else dict(self.old.encoders.numerics)
        for side, specs in sides.items():
            for spec in specs:
                if spec.kind == "numeric" and spec.name not in numerics:
                    seen = columns[side][spec.name][self.weights[side] > 0]
                    numerics[spec.name] = NumericEncoder.fit(seen, spec.bins, spec.scale, spec.edges)
        keys, key_codes = self._keys(columns)
        tables, statistics = self._counts(keys, key_codes)
        for name, values in statistics.items():
            if name not in numerics:
                count = next(table.spec for table in tables if name in table.names)
                numerics[name] = NumericEncoder.fit(values[events.parts == Part.TRAIN], count.bins, count.scale)
        derived, computed = self._derived()
        for one in derived:
            values, feature = computed[one.spec.name], one.spec.feature
            if one.spec.kind == "cross":
                hashed[feature.name] = self._hashed_cross(one.spec, values)
            elif feature.name not in numerics:
                fitted = fill_missing(feature, values)[self.known]
                numerics[feature.name] = NumericEncoder.fit(fitted, feature.bins, feature.scale, feature.edges)
        encoders = Encoders(vocabularies, numerics, keys, config.shared, hashed)
        before = None if self.old is None else self.old.event_codes
        event_codes = {
            name: self._with_old(config.feature(name), encoders.codes(name, column), before)
            for name, column in after.items()
        }
        layouts: dict[str, SideLayout] = {side: side_layout(specs, columns[side]) for side, specs in sides.items()}
        self._refuse_other_vectors(layouts)
        blocks = {
            side: encode_side(specs, columns[side], encoders, len(self.kept[side])) for side, specs in sides.items()
        }
        if self.old is not None:
            olds = {"user": self.old.users, "item": self.old.items, "context": self.old.row_query}
            for side, specs in sides.items():
                own = {spec.name for spec in specs if self.raw.is_id(spec)}
                blocks[side] = overlay(blocks[side], olds[side], self.kept[side], layouts[side], own)
        by_side: dict[str, list[tuple[str, F32]]] = {"query_counts": [], "item_counts": []}
        for table in tables:
            pair = any(config.feature(key).side == "item" for key in table.spec.keys)
            by_side["item_counts" if pair else "query_counts"] += [(name, statistics[name]) for name in table.names]
        counted = {}
        for name, named in by_side.items():
            layouts[name] = SideLayout(tuple(n for n, _ in named), tuple(n for n, _ in named))
            counted[name] = encode_counts(named, encoders, len(events))
        by_place = {place: [s for s in config.derived if s.of_pair == (place == "item")] for place in ("query", "item")}
        row_derived = {place: encoded(computed, specs, encoders, len(events)) for place, specs in by_place.items()}
        layouts |= {f"{place}_derived": derived_layout(specs) for place, specs in by_place.items()}
        prior = {spec.name: found for spec in config.features if (found := self._prior(spec)) is not None}
        sequences, ends = build_sequences(config, events, len(self.raw.user_ids), self.num_catalogue, prior)
        ids = tuple(self.raw.item_ids.to_pylist())
        of_rows = {
            "row_query": join_blocks((blocks["context"], counted["query_counts"], row_derived["query"])),
            "row_item": join_blocks((counted["item_counts"], row_derived["item"])),
        }
        packed = pack({"users": blocks["user"], "items": blocks["item"], **of_rows}, layouts, encoders.sizes())
        return Dataset(
            config=config,
            encoders=encoders,
            user_ids=tuple(self.raw.user_ids.to_pylist()),
            item_ids=ids,
            titles=self._titles(ids),
            num_catalogue=self.num_catalogue,
            events=events,
            users=packed["users"],
            items=packed["items"],
            row_query=packed["row_query"],
            row_item=packed["row_item"],
            sides=layouts,
            key_codes=key_codes,
            counts=tables,
            event_codes=event_codes,
            sequences=sequences,
            sequence_ends=ends,
            fingerprint=self._fingerprint(),
            notes=self.raw.tables.notes,
            attributes=self._attributes(),
            derived=derived,
            table_starts={
                spec.name: TableStart(self.raw.tables.vectors[spec.name], vocabularies[spec.name], spec.frozen)
                for spec in config.features
                if spec.pretrained and spec.name in vocabularies
            },
        )

    def _fingerprint(self) -> str:
        own = self.raw.tables.fingerprint
        return own if self.carried is None else self.carried.past.fingerprint(own)

    def _titles(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """What people call each item; what they called it before where the item table no longer lists it."""
        known = self.config.title and self.raw.tables.items is not None
        titles = self.raw.of_items(self.config.title).to_pylist() if known else [None] * len(ids)
        if self.old is not None:
            before = [self.old.titles[row] if row >= 0 else None for row in self.kept["item"]]
            titles = [title or earlier for title, earlier in zip(titles, before, strict=True)]
        return tuple(title or raw for title, raw in zip(titles, ids, strict=True))

    def _attributes(self) -> dict[str, Attribute]:
        found = self.raw.attributes()
        if self.old is None:
            return found
        old = self.old.attributes
        return {name: overlay_attribute(mine, old.get(name), self.kept["item"]) for name, mine in found.items()}

    def _refuse_other_vectors(self, layouts: Mapping[str, SideLayout]) -> None:
        for side, layout in layouts.items():
            known = layout.vectors if self.old is None else self.old.sides[side].vectors
            for (name, width), (_, before) in zip(layout.vectors, known, strict=True):
                if width != before:
                    raise RunError(
                        f'vectors "{name}" have {width} numbers, in the source run {before}; train without --from'
                    )

    def _weights_of(self, spec: FeatureSpec) -> I64:
        """Known rows that each entry of a raw column stands for; none where an earlier data set knows the value."""
        weights = self.weights[spec.side]
        return weights if self.raw.is_id(spec) else np.where(self.kept[spec.side] >= 0, 0, weights)

    def _vocabularies(self, columns: Mapping[str, Column]) -> tuple[dict[str, Vocabulary], dict[str, HashedVocabulary]]:
        """Values of every categorical and multi feature, one vocabulary for those that share a table.

        Those of the earlier data set stand in their rows, the ones learned here behind them.
        """
        found: dict[str, Vocabulary] = {}
        hashed: dict[str, HashedVocabulary] = {}
        specs = [spec for spec in map(self.config.feature, columns) if spec.kind in ("categorical", "multi")]
        for owner in [spec for spec in specs if not spec.shared_with]:
            members = [owner, *(spec for spec in specs if spec.shared_with == owner.name)]
            parts = [weighed_values(spec, columns[spec.name], self._weights_of(spec)) for spec in members]
            values, weights = pa.concat_arrays([part for part, _ in parts]), np.concatenate([w for _, w in parts])
            if owner.hash_buckets:
                before = None if self.old is None else self.old.encoders.hashed[owner.name]
                folded = HashedVocabulary.fit(values, weights, owner.hash_buckets, owner.min_count, before)
                log.info('"%s": %s', owner.name, folded.collisions)
                hashed |= {spec.name: folded for spec in members}
                continue
            fitted = Vocabulary.fit(values, weights, owner.min_count)
            if self.old is not None:
                fitted = self.old.encoders.vocabularies[owner.name].grow(fitted.values)
            found |= {spec.name: fitted for spec in members}
        return found, hashed

    def _with_old(self, spec: FeatureSpec, codes: I64, before: Mapping[str, I64] | None) -> I64:
        """Vocabulary rows, with those an earlier data set knows taken from it."""
        if before is None or self.raw.is_id(spec):
            return codes
        kept = self.kept[spec.side]
        return np.where(kept >= 0, before[spec.name][np.maximum(kept, 0)], codes)

    def _keys(self, columns: Mapping[Side, Mapping[str, Column]]) -> tuple[dict[str, Vocabulary], dict[str, I64]]:
        """Vocabularies of count keys over all known values (no frequency floor), and codes of every row."""
        keys: dict[str, Vocabulary] = {}
        codes: dict[str, I64] = {}
        for name in dict.fromkeys(key for count in self.config.counts for key in count.keys):
            spec = self.config.feature(name)
            column, weights = columns[spec.side][name], self._weights_of(spec)
            seen = weights > 0
            keys[name] = Vocabulary.fit(column.filter(pa.array(seen)), weights[seen])
            if self.old is not None:
                if name not in self.old.encoders.keys:
                    raise RunError(
                        f'the source run kept no values of the count key "{name}", as runs of an earlier version did; '
                        "train it again, or train without --from"
                    )
                keys[name] = self.old.encoders.keys[name].grow(keys[name].values)
            codes[name] = self._with_old(
                spec, keys[name].rows(column), None if self.old is None else self.old.key_codes
            )
        return keys, codes

    def _counts(
        self, keys: Mapping[str, Vocabulary], codes: Mapping[str, I64]
    ) -> tuple[tuple[CountTable, ...], dict[str, F32]]:
        """Count tables, and each statistic for every event row: as-of in known rows, frozen afterwards."""
        events, known, tables = self.events, self.known, []
        statistics: dict[str, F32] = {}
        names = [task.name for task in self.config.tasks]
        for spec in self.config.counts:
            row_codes = []
            for key in spec.keys:
                side = self.config.feature(key).side
                rows: Ints = {"user": events.users, "item": events.items, "context": np.arange(len(events))}[side]
                row_codes.append(codes[key][rows])
            sizes = tuple(len(keys[key]) for key in spec.keys)
            combined = combine(row_codes, sizes)
            chosen = [names.index(task) for task in spec.tasks]
            labels, mask = events.labels[known][:, chosen], events.mask[known][:, chosen]
            table = CountTable.fit(spec, combined[known], sizes, labels, mask)
            values = np.empty((len(events), 1 + len(chosen)), dtype=np.float32)
            values[known] = table.as_of(combined[known], events.times[known], labels, mask)
            values[~known] = table.lookup(combined[~known])
            tables.append(table)
            statistics.update(zip(table.names, np.ascontiguousarray(values.T), strict=True))
        return tuple(tables), statistics

    def _derived(self) -> tuple[tuple[Derived, ...], dict[str, AnyArray]]:
        """Derived features with their inputs, and their values in every event row."""
        events, derived = self.events, []
        for place, spec in enumerate(self.config.derived):
            inputs = []
            for position, (side, column) in enumerate(spec.sources):
                values, kept = self.raw.input(side, column, spec.reads), self.kept[side]
                if self.old is not None and (kept >= 0).any():
                    before = self.old.derived[place].inputs[position]
                    values = np.where(kept >= 0, before[np.maximum(kept, 0)], values)
                inputs.append(values)
            derived.append(Derived(spec, tuple(inputs)))
        rows: dict[Side, Ints] = {"user": events.users, "item": events.items, "context": np.arange(len(events))}
        at = Situation(rows, events.times, self._times_before())
        return tuple(derived), {one.spec.name: one.values(at) for one in derived}

    def _times_before(self) -> F64:
        """Time of the user's row before each event row, as far as it may be known there; NaN where none is or asked."""
        events = self.events
        if not any(spec.kind == "since" and not spec.inputs for spec in self.config.derived):
            return np.full(len(events), np.nan)
        users = len(self.raw.user_ids)
        history, ends = history_and_ends(self.config, events, users, np.ones(len(events), dtype=bool), None)
        started = ends > history.ptr[events.users]
        return np.where(started, history.times[np.maximum(ends - 1, 0)], np.nan)

    def _hashed_cross(self, spec: DerivedSpec, values: AnyArray) -> HashedVocabulary:
        """Rows of a cross; carried rows have been counted by the earlier data set."""
        counted = self.known & (self.kept["context"] < 0)
        before = None if self.old is None else self.old.encoders.hashed[spec.name]
        weights = np.ones(int(counted.sum()), dtype=np.int64)
        found = HashedVocabulary.fit(values[counted], weights, spec.hash_buckets, spec.min_count, before)
        log.info('"%s": %s', spec.name, found.collisions)
        return found

    def _prior(self, spec: FeatureSpec) -> tuple[I64, I64] | None:
        """(user rows, item rows) from before the log; of users known earlier, what was known of them then."""
        if not spec.prior:
            return None
        owner, items = self.raw.prior(spec)
        if self.carried is not None:
            new = self.carried.users[owner] < 0
            before = self.carried.past.prior(spec.name, self.raw.item_ids)
            owner, items = np.concatenate([before[0], owner[new]]), np.concatenate([before[1], items[new]])
        known = (items >= 0) & (items < self.num_catalogue)
        return owner[known], items[known]
