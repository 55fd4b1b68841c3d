"""People as requests describe them, encoded as the run encodes its own: a data set of the same catalogue and few users.

Everything that reads a `Dataset` answers for them without knowing that they are not stored. Nothing is fitted here: raw
values pass through the run's encoders, and what a request does not say is taken from what is stored of the user.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from ...base.arrays import F64, I64, AnyArray, Bool, Ints
from ..batch import Block, Layout, SideLayout
from ..candidates import CandidateBlocks
from ..dataset import Dataset
from ..ids import id_text
from ..live import LiveDataset
from ..log import EventLog
from ..log_rows import EVENT, INPUT, KEY, LogRows
from ..packed import Packed
from ..reading.tables import BadRows
from ..split import Part
from ..split_spec import ORDERED_SPLITS
from ..subject import Subject
from ..texts import Texts
from .derived import Derived
from .encoders import encode_side
from .overlay import overlay
from .request_columns import RequestColumns, in_order, request_columns
from .sequences import build_sequences


@dataclass(frozen=True, kw_only=True)
class SubjectDataset(Dataset):
    """The subjects of some requests as users of a data set, and a run's catalogue.

    The last event of every user is the request itself: it names no item, so that no history holds it, and its context
    is that of the request.

    Attributes:
        run: the data set that the subjects are encoded like.
        stored_rows: int64 [B] each subject's user row in `run`, -1 where it stores none.
        asked_at: float64 [B] seconds, when each request says that it is asked; -inf where it does not.
        unknown: of each subject, what the run knows nothing of: `history`, `features` or `context` -> raw values.
    """

    run: Dataset
    stored_rows: I64
    asked_at: F64
    unknown: tuple[Mapping[str, tuple[str, ...]], ...]

    @cached_property
    def layout(self) -> Layout:
        """See `Dataset.layout`."""
        return self.run.layout

    @cached_property
    def item_rows(self) -> Mapping[str, int]:
        """See `Dataset.item_rows`."""
        return self.run.item_rows

    @property
    def known_items(self) -> int:
        """See `Dataset.known_items`."""
        return self.run.known_items

    def candidate_blocks(self, moment: int) -> CandidateBlocks:
        """See `Dataset.candidate_blocks`: of the run's catalogue and counts."""
        return self.run.candidate_blocks(moment)

    @cached_property
    def common_codes(self) -> dict[str, int]:
        """See `Dataset.common_codes`: learned from the run's training rows."""
        return self.run.common_codes

    @cached_property
    def default_context(self) -> Block:
        """See `Dataset.default_context`: learned from the run's training rows."""
        return self.run.default_context

    def request_times(self, users: I64, moment: int) -> F64:
        """See `Dataset.request_times`; a time that the request says comes first."""
        told = self.asked_at[users]
        return np.where(np.isfinite(told), told, super().request_times(users, moment))


def subject_of(dataset: Dataset, user: Any) -> Subject | None:
    """The subject that somebody, by raw id or as a subject, is answered as; None of whom the stored rows say it all.

    It is one where the request brings knowledge, or where something was told of the user since.
    """
    if isinstance(user, Subject):
        if not user.brings_nothing:
            return user
        user = user.user
    return Subject(user=user) if user is not None and dataset.told_since(id_text(user)) else None


def encode_subjects(dataset: Dataset, subjects: Sequence[Subject], positive: str) -> SubjectDataset:
    """Encode the subjects of requests.

    Args:
        dataset: of the run.
        subjects: B of them.
        positive: binary task that an event without labels is one of; the first binary task when empty.

    Raises:
        ConfigError: a request names a column that the run does not read.
        DataError: a value is not what the schema says.
    """
    alone = len(subjects) == 1 and subjects[0].brings_nothing
    if alone and subjects[0].user is not None and isinstance(dataset, LiveDataset):
        return dataset.remembered(id_text(subjects[0].user), lambda: _encoded(dataset, subjects, positive))
    return _encoded(dataset, subjects, positive)


def _encoded(dataset: Dataset, subjects: Sequence[Subject], positive: str) -> SubjectDataset:
    bad = BadRows("error", may_drop=False)
    raw = request_columns(dataset, subjects, positive, bad)
    users, events = _Users(raw), _Events(raw)
    log = events.log
    config, count = dataset.config, len(subjects)
    sequences, ends = build_sequences(config, log, count, dataset.num_catalogue, events.prior)
    changed: dict[str, Any] = {
        "user_ids": Texts(pc.fill_null(raw.user_ids, "")),
        "events": log,
        "users": Packed.of(users.block),
        "row_query": Packed.of(events.query),
        "row_item": dataset.row_item.blank(len(log)),
        "key_codes": {**dataset.key_codes, **users.key_codes, **events.key_codes},
        "event_codes": events.event_codes,
        "derived": tuple(_derived(place, one, raw, users, events) for place, one in enumerate(dataset.derived)),
        "sequences": sequences,
        "sequence_ends": ends,
    }
    kept = {field.name: getattr(dataset, field.name) for field in fields(Dataset) if field.name not in changed}
    unknown = tuple(
        {name: tuple(dict.fromkeys(values)) for name, values in named.items() if values}
        for named in (
            {"history": raw.unknown_items[s], "features": users.unknown[s], "context": events.unknown[s]}
            for s in range(count)
        )
    )
    asked_at = raw.times[raw.num_events :]
    return SubjectDataset(
        run=dataset, stored_rows=raw.stored_rows, asked_at=asked_at, unknown=unknown, **kept, **changed
    )


def _derived(place: int, one: Derived, raw: RequestColumns, users: _Users, events: _Events) -> Derived:
    """A derived feature, and its place among them, whose inputs are those of the subjects and of their events."""
    inputs = []
    for i, ((side, column), stored) in enumerate(zip(one.spec.sources, one.inputs, strict=True)):
        if side == "item":
            inputs.append(stored)
            continue
        told = raw.input(side, column, one.spec.reads)
        found = (
            users.input(column, stored, told) if side == "user" else events.input(f"{INPUT}{place}/{i}", column, told)
        )
        inputs.append(found)
    return Derived(one.spec, tuple(inputs))


class _Users:
    """The user block of the subjects: given values, then stored ones, then what a user without a row has."""

    def __init__(self, raw: RequestColumns) -> None:
        self.raw = raw
        dataset, config = raw.run, raw.config
        specs = raw.specs("user")
        columns = {spec.name: raw.column_as(spec, dataset.sides["user"]) for spec in specs}
        stored = raw.stored_rows
        own = {spec.name: (stored < 0) | raw.given("user", spec) for spec in specs}
        block = encode_side(specs, columns, dataset.encoders, len(stored))
        theirs = dataset.users.select(np.maximum(stored, 0)) if dataset.num_users else block
        self.block = overlay_columns(block, theirs, dataset.sides["user"], own)
        self.key_codes: dict[str, I64] = {}
        for name, vocabulary in dataset.encoders.keys.items():
            if config.feature(name).side == "user":
                known = dataset.key_codes[name][np.maximum(stored, 0)] if dataset.num_users else stored
                self.key_codes[name] = np.where(own[name], vocabulary.rows(columns[name]), known)
        self.unknown = [raw.unlearned("user", [s], specs, block) for s in range(len(stored))]

    def input(self, column: str, stored: AnyArray, told: AnyArray) -> AnyArray:
        """An input of a derived feature, one value per subject."""
        rows = self.raw.stored_rows
        own = np.array([column in said for said in self.raw.said["user"]]) | (rows < 0) | (not len(stored))
        return np.where(own, told, stored[np.maximum(rows, 0)] if len(stored) else told)


class _Events:
    """The log of the subjects: what is stored of each, what the requests bring, and the requests themselves."""

    def __init__(self, raw: RequestColumns) -> None:
        self.raw, self.run = raw, raw.run
        self.past = LogRows.joined([one.events for one in raw.known])  # rows of it are called stored from here on
        self.starts = np.cumsum([0, *(len(one.events) for one in raw.known)])
        ordered = [self._in_order(s) for s in range(len(raw.stored_rows))]
        self.stored = np.concatenate([rows for rows, _ in ordered])
        self.brought = np.concatenate([rows for _, rows in ordered])
        self.users = np.repeat(np.arange(len(ordered)), [len(rows) for rows, _ in ordered])
        self.ends = np.cumsum(np.bincount(self.users, minlength=len(ordered))) - 1  # the requests' own rows
        self.log = self._log()
        self.unknown: list[list[str]] = []
        self.query = self._query()
        self.key_codes = {
            name: self._codes(name, self.past[KEY + name], vocabulary.rows(raw.column(raw.config.feature(name))))
            for name, vocabulary in self.run.encoders.keys.items()
            if raw.config.feature(name).side == "context"
        }
        self.event_codes = {
            name: self._taken(
                self.past[EVENT + name], self.run.encoders.codes(name, raw.column(raw.config.feature(name)))
            )
            for name in self.run.event_codes
        }

    def _in_order(self, s: int) -> tuple[I64, I64]:
        """Stored rows and rows of the request's events, -1 where the row is of the other, oldest first.

        The request itself comes last.
        """
        raw = self.raw
        stored = np.arange(self.starts[s], self.starts[s + 1])
        brought = np.flatnonzero(raw.owner[: raw.num_events] == s)
        times = np.concatenate([self.past["times"][stored], raw.times[brought]])
        order = in_order(times) if np.isfinite(raw.times[brought]).all() else np.arange(len(times))
        first = np.append(np.append(stored, np.full(len(brought), -1))[order], -1)
        second = np.append(np.append(np.full(len(stored), -1), brought)[order], raw.num_events + s)
        return first, second

    def _log(self) -> EventLog:
        raw, past = self.raw, self.past
        parts = self._taken(past["parts"], np.full(len(raw.owner), Part.TEST, dtype=np.int8))
        if raw.config.split.kind in ORDERED_SPLITS:  # what came since stands in the part of the row behind it
            for start, end in zip(np.append(0, self.ends[:-1] + 1), self.ends + 1, strict=True):
                parts[start:end] = np.minimum.accumulate(parts[start:end][::-1])[::-1]
        else:
            parts[(self.brought >= 0) & (self.brought < raw.num_events)] = Part.TRAIN  # no later part enters a sequence
        times = self._taken(past["times"], raw.times)
        first = np.append(0, self.ends[:-1] + 1)
        before = np.where(self.ends > first, times[np.maximum(self.ends - 1, 0)], np.nan)
        times[self.ends] = np.where(np.isfinite(before), before, np.nan)  # of a request: when the user was last seen
        return EventLog(
            users=self.users,
            items=self._taken(past["items"], raw.items),
            times=times,
            parts=parts,
            labels=self._taken(past["labels"], raw.labels),
            mask=self._taken(past["mask"], raw.mask),
            weights=np.ones((len(self.users), *self.run.events.weights.shape[1:]), dtype=np.float32),
            propensities=None,
            source_rows=np.full(len(self.users), -1, dtype=np.int64),
        )

    def _taken(self, stored: AnyArray, brought: AnyArray) -> AnyArray:
        """Values of every row of the log, stored or of the request's events."""
        values: AnyArray = brought[np.maximum(self.brought, 0)].astype(stored.dtype)
        at = self.stored >= 0
        values[at] = stored[self.stored[at]]
        return values

    def _latest_stored(self) -> I64:
        """The last stored row that is each subject's, -1 where none is: int64 [B]."""
        latest = np.full(len(self.ends), -1, dtype=np.int64)
        at = self.stored >= 0
        latest[self.users[at]] = self.stored[at]  # rows ascend: the last assignment wins
        return latest

    def _query(self) -> Block:
        """Context of every row, encoded; the counts behind the columns are read from tables and not from here."""
        raw, run = self.raw, self.run
        specs, layout = raw.specs("context"), run.sides["context"]
        given = {spec.name: raw.given("context", spec) for spec in specs}
        encoded = encode_side(specs, {s.name: raw.column_as(s, layout) for s in specs}, run.encoders, len(raw.owner))
        count, first = len(raw.stored_rows), raw.num_events
        self.unknown = [
            raw.unlearned("context", np.flatnonzero(raw.owner == s).tolist(), specs, encoded) for s in range(count)
        ]
        # Requests: what they say, then the stored context, then the commonest one.
        latest = self._latest_stored()
        fallback = run.context_of(latest, self.past.query)
        asked = encoded.select(torch.arange(first, first + count))
        own = {name: known[first:] for name, known in given.items()}
        asked = overlay_columns(asked, fallback, layout, own)
        brought = encoded.select(torch.arange(first)).map(lambda *pair: torch.cat(pair), asked)
        mine = brought.select(torch.from_numpy(np.maximum(self.brought, 0)))
        return overlay(mine, self.past.query, self.stored, layout, ()) if len(self.past) else mine

    def _codes(self, name: str, stored: Ints, brought: Ints) -> Ints:
        """Count-key codes of a context feature, int64 [R]; of a request those of its own context."""
        raw, first = self.raw, self.raw.num_events
        latest = self._latest_stored()
        known = np.full(len(latest), self.run.common_codes[name])
        known[latest >= 0] = stored[latest[latest >= 0]]
        said = raw.given("context", raw.config.feature(name))[first:]
        codes = brought.copy()
        codes[first:] = np.where(said, brought[first:], known)
        return self._taken(stored, codes)

    def input(self, name: str, column: str, told: AnyArray) -> AnyArray:
        """An input of a derived feature, one value per row of the log; of a request its own or the latest one.

        Args:
            name: of the column of `LogRows`.
            column: of the events table.
            told: values of the request's events, and of the requests.
        """
        stored = self.past[name]
        first, latest = self.raw.num_events, self._latest_stored()
        said = np.array([column in columns for columns in self.raw.said["context"][first:]], dtype=np.bool_)
        mine = told.copy()
        kept = ~said & (latest >= 0)
        mine[first:][kept] = stored[latest[kept]]
        return self._taken(stored, mine)

    @property
    def prior(self) -> dict[str, tuple[I64, I64]]:
        """What the users table lists from before the log, of those whose history is not replaced."""
        found = {}
        for name, history in self.run.sequences.items():
            users, items = [], []
            for s, row in enumerate(self.raw.stored_rows):
                if row >= 0 and self.raw.appends[s]:
                    positions = np.arange(history.ptr[row], history.ptr[row + 1])
                    early = history.items[positions[history.rows[positions] < 0]].astype(np.int64)
                    users.append(np.full(len(early), s, dtype=np.int64))
                    items.append(early)
            if users:
                found[name] = np.concatenate(users), np.concatenate(items)
        return found


def overlay_columns(block: Block, theirs: Block, layout: SideLayout, own: Mapping[str, Bool]) -> Block:
    """A block with single values taken from another.

    Args:
        block: R rows.
        theirs: the same columns and rows.
        layout: names of the columns.
        own: column -> bool [R], whether the block's value stays.
    """

    def merged(mine: torch.Tensor, other: torch.Tensor, names: Collection[str]) -> torch.Tensor:
        if not names:
            return mine
        stays = torch.from_numpy(np.stack([own[name] for name in names], axis=1))
        return torch.where(stays, mine, other)

    def each(
        mine: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...], names: Sequence[str]
    ) -> tuple[torch.Tensor, ...]:
        return tuple(merged(a, b, [name]) for a, b, name in zip(mine, other, names, strict=True))

    return Block(
        merged(block.categorical, theirs.categorical, layout.categorical),
        merged(block.numeric, theirs.numeric, layout.numeric),
        each(block.bags, theirs.bags, layout.bags),
        (),
        each(block.vectors, theirs.vectors, [name for name, _ in layout.vectors]),
    )
