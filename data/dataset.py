"""The encoded data of a run: one columnar store, sorted by (user, time), that turns row numbers into batches.

A batch is a few tensor gathers. Row-level blocks hold what changes from event to event (context, as-of counts); user
and item blocks hold what does not. Candidates nobody logged are assembled from the same parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..base.arrays import F64, I64, Ints
from .batch import Batch, Block, Layout, SequenceField, SideLayout, join_blocks, join_layouts
from .candidates import CandidateBlocks
from .encoding.absent import absent_context
from .encoding.attributes import Attribute, TextColumn, identities
from .encoding.counts import CountTable
from .encoding.derived import Derived, Situation, request_blocks
from .encoding.encoders import Encoders
from .encoding.groups import flags
from .feature_spec import FeatureSpec, Side
from .history import History
from .ids import id_text
from .log import EventLog
from .log_rows import EVENT, INPUT, KEY, Known, LogRows, context_columns
from .packed import Packed, select_joined
from .pretrained import TableStart
from .schema import DataConfig
from .sequence_columns import GAP_BUCKETS, SequenceColumns
from .split import Part
from .texts import TextRows, Texts
from .vocabulary import FIRST

NOW = 3
"""A moment after every logged event: what serving asks for (see `Dataset.candidates`)."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Everything a run knows of its data.

    Attributes:
        config: the `[data]` section.
        encoders: learned on training rows.
        user_ids: raw id of each user row.
        item_ids: raw id of each item row.
        titles: what people call each item row; the raw ids when the data names no title.
        num_catalogue: item rows below this may be recommended; later ones appear in validation or test rows only.
        events: the log.
        users: encoded user columns, U rows.
        items: encoded item columns, N rows.
        row_query: context columns, query-side counts and derived features of each event row.
        row_item: item and pair counts, and derived features of the pair, of each event row.
        sides: layout of (users, context, query counts, query derived) and of (items, item counts, item derived) before
            they are joined; the derived ones are absent in data sets of earlier versions.
        key_codes: count-key feature -> vocabulary row of each user, item, or event row (whichever the feature is of).
        counts: tables frozen at the end of training; see `counts_now` for what a request knows.
        event_codes: `after_event` feature -> vocabulary row of each event row, int [R].
        sequences: history of each sequence feature.
        sequence_ends: pointer into that history for each event row.
        fingerprint: sha256 of the source files.
        notes: sentences every report repeats.
        attributes: raw values of the item features and of `config.attributes`, N rows.
        derived: features that are computed for each row and request.
        freed: vocabulary -> rows that stand for other values than in the data set that was carried on; empty likewise.
        id_types: `user` and `item` -> type of the ids in the tables (see `ids.id_type`); text where absent.
        table_starts: vocabulary -> vectors its embedding rows start from; empty in a data set that was loaded back,
            whose models are trained.
    """

    config: DataConfig
    encoders: Encoders
    user_ids: Texts
    item_ids: Texts
    titles: Texts
    num_catalogue: int
    events: EventLog
    users: Packed
    items: Packed
    row_query: Packed
    row_item: Packed
    sides: Mapping[str, SideLayout]
    key_codes: Mapping[str, Ints]
    counts: tuple[CountTable, ...]
    event_codes: Mapping[str, Ints]
    sequences: Mapping[str, History]
    sequence_ends: Mapping[str, Ints]
    fingerprint: str
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    table_starts: Mapping[str, TableStart] = field(default_factory=dict)
    id_types: Mapping[str, str] = field(default_factory=dict)
    derived: tuple[Derived, ...] = ()
    freed: Mapping[str, I64] = field(default_factory=dict)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def known_items(self) -> int:
        """Items of the catalogue."""
        return self.num_catalogue

    def listed(self, rows: Ints) -> Ints:
        """Item rows, -1 where one is none of the catalogue: int [n]."""
        return np.where(rows < self.num_catalogue, rows, -1)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Tasks in the order of the label columns."""
        return tuple(task.name for task in self.config.tasks)

    @cached_property
    def user_rows(self) -> Mapping[str, int]:
        """Raw user id -> user row."""
        return TextRows(self.user_ids)

    @cached_property
    def item_rows(self) -> Mapping[str, int]:
        """Raw item id -> item row."""
        return TextRows(self.item_ids)

    @cached_property
    def item_columns(self) -> dict[str, Attribute]:
        """What a filter may ask about the items of the catalogue: their ids, titles and attributes, by column name."""
        size = self.num_catalogue
        named: dict[str, Attribute] = {self.config.item: identities(self.item_ids[:size])}
        if self.config.title:
            named[self.config.title] = identities(self.titles[:size])
        kept = {n: a.first(size) if isinstance(a, TextColumn) else a[:size] for n, a in self.attributes.items()}
        return named | kept

    @cached_property
    def sequence_specs(self) -> tuple[FeatureSpec, ...]:
        """Sequence features, in order."""
        return tuple(spec for spec in self.config.features if spec.kind == "sequence")

    @cached_property
    def layout(self) -> Layout:
        """Columns of the batches this data set makes."""
        sides = self.sides
        fields = tuple(
            SequenceField(spec.name, spec.of, tuple(f"{spec.name}.{p}" for p in spec.properties), spec.length)
            for spec in self.sequence_specs
        )
        sizes = self.encoders.sizes()
        for spec in self.sequence_specs:
            for name in spec.properties:
                sizes[f"{spec.name}.{name}"] = FIRST + (GAP_BUCKETS - 1 if name == "gap" else 2)
        lengths = SideLayout(numeric=tuple(f"{spec.name}.length" for spec in self.sequence_specs))
        matches = SideLayout(
            numeric=tuple(f"{s.name}.{name}.matches" for s in self.sequence_specs for name in s.matches)
        )
        of_query, of_pair = (sides.get(name, SideLayout()) for name in ("query_derived", "item_derived"))
        query = join_layouts((sides["user"], sides["context"], sides["query_counts"], of_query, lengths), fields)
        item = join_layouts((sides["item"], sides["item_counts"], of_pair, matches), ())
        used = {*query.categorical, *query.bags, *item.categorical, *item.bags}
        used |= {name for field in fields for name in (*field.of, *field.properties)}
        return Layout(query, item, *self.encoders.tables(used, sizes))

    def rows(self, part: str | Part) -> Tensor:
        """Event rows of a part, int64, in (user, time) order."""
        wanted = Part[part.upper()] if isinstance(part, str) else part
        return torch.from_numpy(np.flatnonzero(self.events.parts == wanted))

    @cached_property
    def log_rows(self) -> LogRows:
        """The log, its rows as they are gathered for single users; nothing is copied."""
        events, context = self.events, self.sides["context"]
        columns = {name: getattr(events, name) for name in ("items", "times", "parts", "labels", "mask")}
        columns |= context_columns(self.row_query, len(context.categorical), len(context.numeric))
        of_context = (name for name in self.key_codes if self.config.feature(name).side == "context")
        columns |= {KEY + name: self.key_codes[name] for name in of_context}
        columns |= {EVENT + name: codes for name, codes in self.event_codes.items()}
        for place, one in enumerate(self.derived):
            inputs = enumerate(zip(one.spec.sources, one.inputs, strict=True))
            columns |= {f"{INPUT}{place}/{i}": stored for i, ((side, _), stored) in inputs if side == "context"}
        return LogRows(columns, self.row_query.narrow[: len(context.categorical)])

    def known(self, user: str | None, *, events: bool = True) -> Known:
        """What is stored of a user by raw id; of nobody when None.

        Args:
            user: raw id.
            events: also the user's events; none otherwise.
        """
        row = -1 if user is None else self.user_rows.get(user, -1)
        bounds = np.searchsorted(self.events.users, [row, row + 1]) if events and row >= 0 else (0, 0)
        return Known(row, self.log_rows.take(slice(*bounds)))

    def told_since(self, user: str) -> bool:
        """Whether something was told of a user, by raw id, since the rows were encoded: `known` says what."""
        return False

    @cached_property
    def logs_items(self) -> bool:
        """Whether event rows name an item (ranking-only tables need not)."""
        return bool(self.config.item)

    def batch(self, rows: Tensor) -> Batch:
        """Logged event rows (int64 [B]) with labels, masks and weights; query row r meets item row r."""
        events, taken = self.events, rows.numpy()
        users = events.users.take(taken)
        of_query, of_item = [(self.row_query, taken)], [(self.row_item, taken)]
        if self.config.user:
            of_query.insert(0, (self.users, users))
        if self.logs_items:
            of_item.insert(0, (self.items, events.items.take(taken)))
        query, item = select_joined(of_query), select_joined(of_item)
        if self.sequence_specs:
            ends = {spec.name: self.sequence_ends[spec.name][taken] for spec in self.sequence_specs}
            query, item = self._sequences.added(query, item, users, ends)
        told = (torch.from_numpy(column.take(taken, axis=0)) for column in (events.labels, events.mask, events.weights))
        labels, mask, weight = told
        return Batch(query=query, item=item, labels=labels.float(), mask=mask, weight=weight)

    @cached_property
    def _sequences(self) -> SequenceColumns:
        labels = {name: self.events.labels[:, task] for task, name in enumerate(self.task_names)}
        return SequenceColumns.of(self.sequence_specs, self.sequences, self.items, self.sides["item"], labels)

    def candidates(self, users: I64, items: I64, moment: int, times: F64 | None = None) -> Batch:
        """Unlogged (user, item) pairs at the start of a part, or now.

        Context is the user's latest before the moment. A user without any gets the commonest: of every category, and of
        every number's bucket, the one most training rows have; numbers are missing, lists empty, vectors zero.

        Args:
            users: int [Q] user rows.
            items: int [Q, C] item rows (all valid).
            moment: a `Part` whose rows, and all later ones, are not yet known; or `NOW`.
            times: float64 [Q] seconds, when each is asked; see `request_times` where absent. Derived features read it.

        Returns:
            A batch of Q query rows and Q * C item rows, request by request, without labels.
        """
        width = items.shape[1]
        owner = np.repeat(np.arange(len(users)), width)
        flat = items.reshape(-1)
        context_rows = self._latest_rows(moment)[users]
        known = self._known(users, context_rows)

        def codes(key: str, side: Side) -> Ints:
            if side == "user":
                return self.key_codes[key][users]
            return np.where(context_rows >= 0, self.key_codes[key][context_rows], self.common_codes[key])

        blocks = self.candidate_blocks(moment)
        query = join_blocks((known, blocks.of_queries(codes, len(users)))) if self.counts else known
        item = blocks.of_items(codes, owner, flat)
        if self.derived:
            asked = self.request_times(users, moment) if times is None else times
            last = np.where(context_rows >= 0, self.events.times[context_rows], np.nan)
            at = Situation({"user": users, "context": context_rows}, asked, last)
            of_query, of_pair = request_blocks(self.derived, at, owner, flat, self.encoders)
            query, item = join_blocks((query, of_query)), join_blocks((item, of_pair))
        if self.sequence_specs:
            ends = {s.name: self.sequence_bounds(s.name, moment)[users] for s in self.sequence_specs}
            query, item = self._sequences.added(query, item, users, ends)
        return Batch(query=query, item=item, owner=torch.from_numpy(owner))

    def candidate_blocks(self, moment: int) -> CandidateBlocks:
        """What candidates are made of, prepared: with every count `NOW`, with those of training at a part's start."""
        counts = self.counts_now if moment == NOW else self.counts
        if counts is self.counts:
            moment = int(Part.VALID)
        if moment not in self._candidate_blocks:
            sides = {key: self.config.feature(key).side for table in counts for key in table.spec.keys}
            items = {key: self.key_codes[key] for key, side in sides.items() if side == "item"}
            blocks = CandidateBlocks(self.items, self.sides["item"], counts, sides, items, self.encoders)
            self._candidate_blocks[moment] = blocks
        return self._candidate_blocks[moment]

    @cached_property
    def _candidate_blocks(self) -> dict[int, CandidateBlocks]:
        return {}

    @cached_property
    def counts_now(self) -> tuple[CountTable, ...]:
        """Count tables that know every row of the log, as histories do: what a request is answered from.

        A key that no training row has stays unknown, as its vocabulary is the run's, and rates are smoothed towards
        those of the training rows.
        """
        later = np.flatnonzero(self.events.parts > Part.TRAIN)
        return self.counts_with(later) if self.counts and len(later) else self.counts

    def counts_with(self, rows: I64) -> tuple[CountTable, ...]:
        """Count tables that know some event rows besides the training ones, int64 [n]."""
        events = self.events
        of: dict[Side, Ints] = {"user": events.users[rows], "item": events.items[rows], "context": rows}
        labels = [flags(events.labels[rows, task]) for task in range(len(self.task_names))]
        mask = [events.mask[rows, task] for task in range(len(self.task_names))]
        found = []
        for table in self.counts:
            codes = [self.key_codes[key][of[self.config.feature(key).side]] for key in table.spec.keys]
            tasks = [self.task_names.index(name) for name in table.spec.tasks]
            found.append(table.with_rows(codes, [labels[task] for task in tasks], [mask[task] for task in tasks]))
        return tuple(found)

    def request_times(self, users: I64, moment: int) -> F64:
        """When requests of users are asked, float64 seconds [B].

        For a part: at the user's first event of it or later, of others at the first event of all; for `NOW`: by the
        clock.
        """
        if moment == NOW:
            return np.full(len(users), time.time())
        rows = np.flatnonzero(self.events.parts >= moment)[::-1]
        times = self.events.times[rows]
        first = np.full(self.num_users, times.min() if len(rows) else self.events.times.max(initial=0.0))
        first[self.events.users[rows]] = times  # backwards: the earliest one wins
        return first[users]

    def _known(self, users: I64, context_rows: I64) -> Block:
        """User and context columns of requests: of users, and of event rows (-1: none)."""
        if context_rows.min(initial=0) < 0:
            return join_blocks((self.users.select(users), self.context_of(context_rows)))
        both = select_joined([(self.users, users), (self.row_query, context_rows)])
        sides = self.sides["user"], self.sides["context"]  # the counts stand behind the columns
        codes = both.categorical[:, : sum([len(side.categorical) for side in sides])]
        numbers = both.numeric[:, : sum([len(side.numeric) for side in sides])]
        return Block(codes, numbers, both.bags, (), both.vectors)

    def context_of(self, rows: I64, table: Packed | None = None) -> Block:
        """Context columns of event rows, or of rows of another table of them; the default ones where the row is -1."""
        table = self.row_query if table is None else table
        if not table.rows:
            return self.default_context.select(torch.zeros(len(rows), dtype=torch.int64))
        context = table.select(np.maximum(rows, 0))
        absent = torch.from_numpy(rows < 0).unsqueeze(1)

        def known_or_default(default: Tensor, known: Tensor) -> Tensor:
            return torch.where(absent, default, known[:, : default.shape[1]])  # the counts stand behind the columns

        return self.default_context.map(known_or_default, context)

    @cached_property
    def common_codes(self) -> dict[str, int]:
        """Of each context count key, the code of a request without a context: its fill's, or most training rows'."""
        train = self.events.parts == Part.TRAIN
        keys = [spec for spec in self.config.features if spec.name in self.key_codes and spec.side == "context"]
        common = {spec.name: int(np.bincount(self.key_codes[spec.name][train]).argmax()) for spec in keys}
        keyed = self.encoders.keys
        filled = {s.name: keyed[s.name].rows(pa.array([id_text(s.fill)])) for s in keys if s.fill is not None}
        return common | {name: int(rows[0]) for name, rows in filled.items()}

    @cached_property
    def default_context(self) -> Block:
        """Context of a request that nothing is known of: one row, see `candidates`."""
        layout, train = self.sides["context"], self.rows(Part.TRAIN).numpy()
        columns = range(len(layout.categorical))
        common = [int(np.bincount(self.row_query.codes(column, train)).argmax()) for column in columns]
        return absent_context(self.config.inputs("context"), layout, self.encoders, torch.tensor(common).long())

    def sequence_bounds(self, name: str, moment: int) -> I64:
        """Pointer into a sequence's history at a moment, for every user: int64 [U]."""
        history = self.sequences[name]
        return history.ptr[1:] if moment == NOW else history.ends(Part(moment))

    def history(self, where: str | tuple[str, ...]) -> History:
        """Events with label 1 in a task, or in any of several (all events when empty), items of the catalogue only."""
        events = self.events
        chosen = np.ones(len(events), dtype=bool)
        if where:
            tasks = [self.task_names.index(name) for name in ((where,) if isinstance(where, str) else where)]
            chosen = np.any((events.labels[:, tasks] > 0) & events.mask[:, tasks], axis=1)
        chosen &= (events.items >= 0) & (events.items < self.num_catalogue)
        prior = next(
            (self.sequences[spec.name] for spec in self.sequence_specs if spec.prior and spec.where == where), None
        )
        before = None
        if prior is not None:
            early = prior.rows < 0  # listed in a table; events carried from an earlier run are in the log itself
            owner = np.repeat(np.arange(prior.num_users), np.diff(prior.ptr))
            before = owner[early], prior.items[early].astype(np.int64)
        return History.build(events.users, events.items, events.times, events.parts, chosen, self.num_users, before)

    def _latest_rows(self, moment: int) -> I64:
        """Each user's latest event row before the moment, -1 for users without one: int64 [U]."""
        if moment not in self._latest:
            earlier = np.flatnonzero(self.events.parts < moment)
            latest = np.full(self.num_users, -1, dtype=np.int64)
            latest[self.events.users[earlier]] = earlier  # rows ascend in time: the last assignment wins
            self._latest[moment] = latest
        return self._latest[moment]

    @cached_property
    def _latest(self) -> dict[int, I64]:
        return {}
