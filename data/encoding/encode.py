"""Raw columns -> the encoded blocks, counts and histories of a `Dataset`. Everything fitted is fitted on known rows.

Known rows are the training rows and, when an earlier data set is carried on, its events. What that data set had learned
stays as it was: values keep their rows and new ones come behind them, numbers keep their buckets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.arrays import I64, Bool, Ints
from ...base.counting import tallies
from ...base.errors import RunError
from ..batch import Block, SideLayout
from ..dataset import Dataset
from ..feature_spec import FeatureSpec, Side
from ..hashing import HashedVocabulary
from ..log import EventLog
from ..packed import Packed
from ..pretrained import TableStart
from ..schema import DataConfig
from ..split import Part
from ..texts import Texts
from ..vocabulary import MANY, Vocabulary
from .attributes import Attribute
from .carry import Past
from .encoders import Column, Encoders, encode_side, rows_of, side_layout, weighed_values
from .event_rows import EventRows, computed_layouts
from .eviction import LastSeen, Members, Renewed, recoded
from .numeric import NumericEncoder
from .overlay import overlay, overlay_attribute
from .raw_columns import RawColumns
from .sequences import build_sequences

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
        self.settled = None if carried is None else carried.past.settled
        events = self.events
        self.known = events.parts <= Part.TRAIN
        self.weights: dict[Side, I64 | Bool] = {
            "user": tallies(events.users, len(raw.user_ids), self.known),
            "item": tallies(events.items, len(raw.item_ids), self.known),
            "context": self.known,
        }
        counted = {side: self._settled_rows(side) for side in SIDES[:2]}
        for side, rows in counted.items():
            self.weights[side] = self.weights[side] + rows
        self.kept = {side: self._kept(side) for side in SIDES}
        self._settled_counts = counted
        self._freed: dict[str, I64] = {}  # of vocabularies
        self._moved: dict[str, I64] = {}
        self._left: list[str] = []
        raw.rest()

    def _settled_rows(self, side: Side) -> I64:
        """Settled rows of each user or item, int64 [U] or [N]."""
        size = len(self.weights[side])
        return np.zeros(size, dtype=np.int64) if self.settled is None else self.settled.tally(side, size)

    def _kept(self, side: Side) -> I64 | None:
        """Row of the earlier data set that each row's values are taken from, -1 where the new tables know better.

        None where there is no earlier data set.
        """
        if self.carried is None:
            return None
        rows = np.full(len(self.weights[side]), -1, dtype=np.int64)
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
        self._give_up_freed_rows()
        numerics: dict[str, NumericEncoder] = {} if self.old is None else dict(self.old.encoders.numerics)
        for side, specs in sides.items():
            for spec in specs:
                if spec.kind == "numeric" and spec.name not in numerics:
                    seen = columns[side][spec.name][self.weights[side] > 0]
                    numerics[spec.name] = NumericEncoder.fit(seen, spec.bins, spec.scale, spec.edges)
        keys, key_codes = self._keys(columns)
        if self.settled is not None:
            self.settled.refuse_other_keys(key_codes, self._settled_counts)
        encoders = Encoders(vocabularies, numerics, keys, config.shared, hashed)
        layouts: dict[str, SideLayout] = {side: side_layout(specs, columns[side]) for side, specs in sides.items()}
        layouts |= computed_layouts(config)
        self._refuse_other_vectors(layouts)
        blocks = {side: self._block(side, columns[side], layouts[side], encoders) for side in ("user", "item")}
        rows = EventRows(self.raw, self.known, self.kept, self.old, layouts, encoders, self.settled)
        rows.encode_context(columns["context"])
        tables = rows.encode_counts(key_codes, numerics)
        derived = rows.encode_derived(numerics, hashed)
        before = None if self.old is None else self.old.event_codes
        event_codes = {
            name: self._with_old(config.feature(name), encoders.codes(name, column), before)
            for name, column in after.items()
        }
        prior = {spec.name: found for spec in config.features if (found := self._prior(spec)) is not None}
        sequences, ends = build_sequences(config, events, len(self.raw.user_ids), self.num_catalogue, prior)
        ids = Texts(self.raw.item_ids)
        of_query, of_item = rows.packed()
        entities = {
            side: Packed.of(block, [encoders.sizes()[name] for name in layouts[side].categorical])
            for side, block in blocks.items()
        }
        dataset = Dataset(
            config=config,
            encoders=encoders,
            user_ids=Texts(self.raw.user_ids),
            item_ids=ids,
            titles=self._titles(ids),
            num_catalogue=self.num_catalogue,
            events=events,
            users=entities["user"],
            items=entities["item"],
            row_query=of_query,
            row_item=of_item,
            sides=layouts,
            key_codes=key_codes,
            counts=tables,
            event_codes=event_codes,
            sequences=sequences,
            sequence_ends=ends,
            fingerprint=self._fingerprint(),
            notes=(*self.raw.tables.notes, *self._left),
            freed=self._freed,
            attributes=self._attributes(),
            derived=derived,
            table_starts={
                spec.name: TableStart(self.raw.tables.vectors[spec.name], vocabularies[spec.name], spec.frozen)
                for spec in config.features
                if spec.pretrained and spec.name in vocabularies
            },
        )
        return dataset if self.settled is None else self.settled.joined(dataset)

    def _block(self, side: Side, columns: Mapping[str, Column], layout: SideLayout, encoders: Encoders) -> Block:
        """Users or items, encoded."""
        specs = self.config.inputs(side)
        block = encode_side(specs, columns, encoders, len(self.weights[side]))
        if self.old is None:
            return block
        olds, own = {"user": self.old.users, "item": self.old.items}, {s.name for s in specs if self.raw.is_id(s)}
        return overlay(block, olds[side], self._kept_of(side), layout, own)

    def _kept_of(self, side: Side) -> I64:
        kept = self.kept[side]
        assert kept is not None
        return kept

    def _fingerprint(self) -> str:
        own = self.raw.tables.fingerprint
        return own if self.carried is None else self.carried.past.fingerprint(own)

    def _titles(self, ids: Texts) -> Texts:
        """What people call each item; what they called it before where the item table no longer lists it."""
        known = self.config.title and self.raw.tables.items is not None
        titles = self.raw.of_items(self.config.title) if known else pa.nulls(len(ids), pa.string())
        if self.old is not None:
            kept = self._kept_of("item")
            before = pa.array(self.old.titles, pa.string()).take(pa.array(np.maximum(kept, 0), mask=kept < 0))
            titles = pc.coalesce(_not_empty(titles), before)
        return Texts(pc.coalesce(_not_empty(titles), ids.array))

    def _attributes(self) -> dict[str, Attribute]:
        found = self.raw.attributes()
        if self.old is None:
            return found
        old = self.old.attributes
        return {name: overlay_attribute(mine, old.get(name), self._kept_of("item")) for name, mine in found.items()}

    def _refuse_other_vectors(self, layouts: Mapping[str, SideLayout]) -> None:
        for side, layout in layouts.items():
            known = layout.vectors if self.old is None else self.old.sides[side].vectors
            for (name, width), (_, before) in zip(layout.vectors, known, strict=True):
                if width != before:
                    raise RunError(
                        f'vectors "{name}" have {width} numbers, in the source run {before}; train without --from'
                    )

    def _weights_of(self, spec: FeatureSpec) -> I64 | Bool:
        """Known rows that each entry of a raw column stands for; none where an earlier data set knows the value."""
        weights, kept = self.weights[spec.side], self.kept[spec.side]
        return weights if kept is None or self.raw.is_id(spec) else np.where(kept >= 0, weights.dtype.type(0), weights)

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
                earlier = None if self.old is None else self.old.encoders.hashed[owner.name]
                folded = HashedVocabulary.fit(values, weights, owner.hash_buckets, owner.min_count, earlier)
                log.info('"%s": %s', owner.name, folded.collisions)
                hashed |= {spec.name: folded for spec in members}
                continue
            limit = owner.max_rows if self.old is None else 0
            fitted = Vocabulary.fit(values, weights, owner.min_count, limit)
            if self.old is not None:
                before = self.old.encoders.vocabularies[owner.name]
                fitted = self._going_on(before, fitted, owner, [(spec, columns[spec.name]) for spec in members])
            seen = pc.count_distinct(values).as_py()
            if owner.max_rows or len(fitted.values) > MANY or (not owner.min_count and seen > MANY):
                rest = seen - len(fitted.values)
                log.info('"%s": %d values have a row, %d rarer ones are unknown', owner.name, len(fitted.values), rest)
            found |= {spec.name: fitted for spec in members}
        return found, hashed

    def _going_on(self, before: Vocabulary, fitted: Vocabulary, owner: FeatureSpec, members: Members) -> Vocabulary:
        """An earlier vocabulary with the values learned here; where it is full, in the rows of the least recent ones.

        Items of which nothing but the id is known keep their rows: without them they would all be the same.
        """
        wide, limit = before.grow(fitted.values), owner.max_rows
        described = any(not self.raw.is_id(spec) for spec in self.config.inputs("item"))
        only_ids = not described and any(spec.side == "item" and self.raw.is_id(spec) for spec, _ in members)
        if not limit or len(wide.values) <= limit or not self.config.time or only_ids:
            return before.grow(fitted.values, limit)
        assert self.old is not None
        assert self.carried is not None
        kept: dict[Side, I64] = {side: self._kept_of(side) for side in SIDES}
        theirs: dict[Side, I64] = {"user": self.carried.users, "item": self.carried.items}
        seen = LastSeen(self.raw, self.old, self.settled, self.known, kept, theirs)
        renewed = Renewed.of(before, wide, seen.of(members, wide), seen.begins, limit)
        if len(renewed.freed):
            for spec, _ in members:
                self._freed[spec.name], self._moved[spec.name] = renewed.freed, renewed.moved
            self._left.append(
                f'"{owner.name}": {len(renewed.freed):,} values left their rows to new ones (max_rows = {limit:,}); '
                f"the last of them was seen at {renewed.since:.0f}"
            )
            log.info(self._left[-1])
        return renewed.vocabulary

    def _give_up_freed_rows(self) -> None:
        """What the earlier data set says of values that left is from now on that they are unknown."""
        if self.old is not None and self._moved:
            self.old = recoded(self.old, self._moved, self.raw.shelf)
            self.settled = None if self.settled is None else replace(self.settled, source=self.old)

    def _with_old(self, spec: FeatureSpec, codes: Ints, before: Mapping[str, Ints] | None) -> Ints:
        """Vocabulary rows, with those an earlier data set knows taken from it."""
        if before is None or self.raw.is_id(spec):
            return codes
        kept = self._kept_of(spec.side)
        return np.where(kept >= 0, before[spec.name][np.maximum(kept, 0)], codes)

    def _keys(self, columns: Mapping[Side, Mapping[str, Column]]) -> tuple[dict[str, Vocabulary], dict[str, Ints]]:
        """Vocabularies of count keys over all known values (no frequency floor), and codes of every row."""
        keys: dict[str, Vocabulary] = {}
        codes: dict[str, Ints] = {}
        for name in dict.fromkeys(key for count in self.config.counts for key in count.keys):
            spec = self.config.feature(name)
            column = columns[spec.side][name]
            keys[name] = Vocabulary.fit(*weighed_values(spec, column, self._weights_of(spec)))
            if self.old is not None:
                if name not in self.old.encoders.keys:
                    raise RunError(
                        f'the source run kept no values of the count key "{name}", as runs of an earlier version did; '
                        "train it again, or train without --from"
                    )
                keys[name] = self.old.encoders.keys[name].grow(keys[name].values)
            codes[name] = self._with_old(
                spec, rows_of(keys[name], column), None if self.old is None else self.old.key_codes
            )
        return keys, codes

    def _prior(self, spec: FeatureSpec) -> tuple[I64, I64] | None:
        """(user rows, item rows) from before the log; of users known earlier, what was known of them then."""
        if not spec.prior:
            return None
        owner, items = self.raw.prior(spec)
        if self.carried is not None:
            new = self.carried.users[owner] < 0
            owner, items = owner[new], items[new]
            if self.settled is None:  # else they stand in its histories
                before = self.carried.past.prior(spec.name, self.raw.item_ids)
                owner, items = np.concatenate([before[0], owner]), np.concatenate([before[1], items])
        known = (items >= 0) & (items < self.num_catalogue)
        return owner[known], items[known]


def _not_empty(texts: pa.Array) -> pa.Array:
    """Null where a text is empty."""
    return pc.if_else(pc.equal(texts, ""), None, texts)
