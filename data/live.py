"""A run's data set and what happened since it was made: the same users and items, and events behind the log.

Nothing is fitted here, and the run's arrays stay as they are. A user of whom something was told since is known by what
is stored and what was told, in the order of the moments; counts know every event at once.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ..base.arrays import F32, F64, I64, AnyArray, Bool, Ints
from .candidates import CandidateBlocks
from .dataset import NOW, Dataset
from .encoding.attributes import Attribute
from .encoding.count_changes import CountChanges
from .encoding.groups import combine
from .encoding.told_events import EncodedEvents, EventEncoder
from .log_rows import EVENT, KEY, Known, LogRows

T = TypeVar("T")
REMEMBERED = 256
"""Users whose encoded rows are kept until something more is told of them."""
Key = int | str
"""A user: the row of the users table, or the raw id of whom the run does not store."""


class Grown:
    """Columns that grow at their end.

    Args:
        like: columns of the same kinds, with any number of rows.
    """

    def __init__(self, like: Mapping[str, AnyArray]) -> None:
        self._space = {name: np.empty((0, *values.shape[1:]), values.dtype) for name, values in like.items()}
        self.rows = 0

    def __getitem__(self, name: str) -> AnyArray:
        return self._space[name][: self.rows]

    def extend(self, columns: Mapping[str, AnyArray], rows: int) -> None:
        """Append rows."""
        end = self.rows + rows
        for name, values in self._space.items():
            if end > len(values):
                larger = np.empty((max(end, len(values) * 3 // 2 + 64), *values.shape[1:]), values.dtype)
                larger[: self.rows] = values[: self.rows]
                self._space[name] = larger
            self._space[name][self.rows : end] = columns[name]
        self.rows = end

    def columns(self) -> dict[str, AnyArray]:
        """All columns, their filled rows."""
        return {name: values[: self.rows] for name, values in self._space.items()}

    @property
    def nbytes(self) -> int:
        """Bytes, those kept for rows to come included."""
        return sum(values.nbytes for values in self._space.values())


class LiveEvents:
    """Events in the order in which they were told, and who of them is whose.

    An event with an exposure is about the earlier row of the same user and item that names it: it joins that row, whose
    labels become the largest of both (the later one of a regression), and is none of its own.

    Args:
        run: the data set that they follow.
    """

    def __init__(self, run: Dataset) -> None:
        self.run = run
        self.encoder = EventEncoder(run)
        blank = self.encoder.encode([], np.empty(0), [])
        self._narrow = blank.rows.narrow
        self._grown = Grown({**blank.rows.columns, "raw": blank.raw, "scenes": blank.scenes})
        self._before, self._exposure = array("i"), array("Q")
        self._last: dict[Key, int] = {}
        self._joined: dict[Key, int] = {}
        self.features: dict[Key, Mapping[str, Any]] = {}
        self.forgotten: set[str] = set()
        self.changes = tuple(CountChanges(table, run.encoders) for table in run.counts_now)
        self.newest = -np.inf

    def __len__(self) -> int:
        return self._grown.rows

    @property
    def nbytes(self) -> int:
        """About how much memory all of it takes."""
        own = self._grown.nbytes + len(self._before) * 4 + len(self._exposure) * 8 + 100 * len(self._last)
        return own + sum(change.nbytes for change in self.changes)

    def key_of(self, user: str, row: int) -> Key:
        """Under what a user's rows stand; `row` is the user row of the run, -1 where it stores none."""
        return row if row >= 0 and user not in self.forgotten else user

    def add(
        self,
        users: Sequence[str],
        items: Sequence[str],
        times: F64,
        columns: Sequence[Mapping[str, str | None]],
        exposures: Sequence[int],
    ) -> None:
        """Take in E events, in order.

        Args:
            users: raw id of each.
            items: raw id of each.
            times: seconds of each.
            columns: what else was told, as text.
            exposures: number that names the exposure that each is, or is about; 0 where none does.
        """
        if not self.run.config.time:
            times = len(self.run.events) + len(self) + np.arange(len(users), dtype=np.float64)
        found = self.encoder.encode(items, times, columns)
        stored = self.run.user_ids.rows(pa.array(users, pa.string()))
        keys = [self.key_of(user, row) for user, row in zip(users, stored.tolist(), strict=True)]
        rows_of = np.array([key if isinstance(key, int) else -1 for key in keys], dtype=np.int64)
        fresh: list[int] = []
        joins: list[tuple[int, int]] = []
        for place, (key, exposure) in enumerate(zip(keys, exposures, strict=True)):
            target = self._shown(key, exposure) if exposure else -1
            if target >= 0:
                joins.append((place, target))
                self._joined[key] = self._joined.get(key, 0) + 1
                continue
            self._before.append(self._last.get(key, -1))
            self._exposure.append(exposure)
            self._last[key] = len(self._before) - 1
            fresh.append(place)
        taken, first = np.array(fresh, dtype=np.int64), len(self)
        new = {**found.rows.columns, "raw": found.raw, "scenes": found.scenes}
        self._grown.extend({name: values[taken] for name, values in new.items()}, len(taken))
        self._count(rows_of[taken], found.items[taken], np.arange(first, len(self)))
        self.newest = max(self.newest, float(times[taken].max(initial=-np.inf)))
        for place, target in joins:
            self._join(rows_of[place], found, place, target, columns[place])

    def _shown(self, key: Key, exposure: int) -> int:
        """The row of a user that an exposure names, -1 where none does."""
        row = self._last.get(key, -1)
        while row >= 0 and self._exposure[row] != exposure:
            row = self._before[row]
        return row

    def _join(self, user: int, found: EncodedEvents, place: int, target: int, told: Mapping[str, str | None]) -> None:
        """An event becomes part of an earlier row."""
        config, at = self.run.config, np.array([target])
        whose, item = np.array([user]), found.items[[place]]
        self._count(whose, item, at, sign=-1)
        before, after = self._grown["raw"][target].copy(), found.raw[place]
        merged = joined_labels(before, after, np.array([task.kind == "regression" for task in config.tasks]))
        self._grown["raw"][target] = merged
        labels, mask = self.encoder.joined(merged[None], self._grown["scenes"][at])
        self._grown["labels"][target], self._grown["mask"][target] = labels[0], mask[0]
        kept = {t.source for t, old, new in zip(config.tasks, before, merged, strict=True) if old == new}
        for name in self.run.event_codes:
            source = config.feature(name).source
            if told.get(source) is not None and source not in kept:
                self._grown[EVENT + name][target] = found.rows[EVENT + name][place]
        self._count(whose, item, at)

    def _count(self, users: I64, items: I64, rows: Ints, sign: int = 1) -> None:
        """Count rows, or take them back: int64 [R] user row and item row of each, -1 where the run stores none."""
        if not len(rows):
            return
        names = self.run.task_names
        for table, change in zip(self.run.counts_now, self.changes, strict=True):
            codes = [self._codes(key, users, items, rows) for key in table.spec.keys]
            tasks = [names.index(name) for name in table.spec.tasks]
            kept = np.all(codes, axis=0)  # of a key of row 0, an item that came later, nothing is counted
            at = rows[kept]
            labels, mask = self._grown["labels"][at][:, tasks], self._grown["mask"][at][:, tasks]
            change.add(combine([one[kept] for one in codes], table.sizes), labels, mask, sign)

    def _codes(self, key: str, users: I64, items: I64, rows: Ints) -> Ints:
        """Codes of a count key, int [R]."""
        side = self.run.config.feature(key).side
        if side == "context":
            return self._grown[KEY + key][rows]
        of, stored = (users if side == "user" else items), self.run.key_codes[key]
        absent = self._absent(key, side == "item")
        return np.where(of >= 0, stored[np.maximum(of, 0)], absent) if len(stored) else np.full(len(of), absent)

    def _absent(self, key: str, item: bool) -> int:
        if key not in self._absents:
            self._absents[key] = self.encoder.absent_code(key, item)
        return self._absents[key]

    @cached_property
    def _absents(self) -> dict[str, int]:
        return {}

    def rows_of(self, key: Key) -> LogRows:
        """A user's rows, in the order in which they were told."""
        rows, row = [], self._last.get(key, -1)
        while row >= 0:
            rows.append(row)
            row = self._before[row]
        columns = self._grown.columns()
        del columns["raw"], columns["scenes"]
        return LogRows(columns, self._narrow).take(np.array(rows[::-1], dtype=np.int64))

    @property
    def strangers(self) -> set[str]:
        """Raw ids of users of whom something was told and whom the run does not store, or has forgotten."""
        return {key for known in (self._last, self.features) for key in known if isinstance(key, str)}

    def version(self, user: str, row: int) -> tuple[object, ...]:
        """Another one whenever something was told of a user; `row` as of `key_of`."""
        key = self.key_of(user, row)
        return key, self._last.get(key, -1), self._joined.get(key, 0), self.features.get(key)

    def knows(self, key: Key) -> bool:
        """Whether something was told of a user."""
        return key in self._last or key in self.features

    def forget(self, user: str, row: int) -> None:
        """Everything of a user is as if it were not there; what comes later is of somebody new."""
        for key in (row, user):
            self._last.pop(key, None)
            self.features.pop(key, None)
        self.forgotten.add(user)


def joined_labels(before: F32, after: F32, regression: Bool) -> F32:
    """Labels [T] of a row that later labels join, NaN where neither tells one: the largest, of a regression the later.

    Args:
        before: float32 [T].
        after: float32 [T].
        regression: bool [T].
    """
    return np.where(regression, np.where(np.isnan(after), before, after), np.fmax(before, after)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class LiveDataset(Dataset):
    """A run's data set with live events; made by `LiveDataset.over`.

    Attributes:
        run: the data set as it was made.
        live: what was told since.
    """

    run: Dataset
    live: LiveEvents

    @classmethod
    def over(cls, run: Dataset) -> LiveDataset:
        """Nothing was told yet."""
        kept = {spec.name: getattr(run, spec.name) for spec in fields(Dataset)}
        return cls(run=run, live=LiveEvents(run), **kept)

    def among(self, run: Dataset) -> LiveDataset:
        """What was told since, over the run's data set with other items; rows of items stay what they were."""
        self.live.run, self.live.encoder = run, EventEncoder(run)
        kept = {spec.name: getattr(run, spec.name) for spec in fields(Dataset)}
        return LiveDataset(run=run, live=self.live, **kept)

    def rewritten(self, items: I64) -> None:
        """Take in that items of the run, int64 [n] rows, are described by other values from here on."""
        if "_sequences" in self.__dict__:
            self._sequences.rewrite(self.items, items)
        with self._memory_lock:
            self._memory.clear()

    @property
    def item_rows(self) -> Mapping[str, int]:
        """See `Dataset.item_rows`."""
        return self.run.item_rows

    @property
    def item_columns(self) -> Mapping[str, Attribute]:  # type: ignore[override]
        """See `Dataset.item_columns`."""
        return self.run.item_columns

    @property
    def known_items(self) -> int:
        """See `Dataset.known_items`."""
        return self.run.known_items

    def listed(self, rows: Ints) -> Ints:
        """See `Dataset.listed`."""
        return self.run.listed(rows)

    def known(self, user: str | None, *, events: bool = True) -> Known:
        """See `Dataset.known`: what is stored, and what was told since."""
        live = self.live
        stored = self.run.known(None if user in live.forgotten else user, events=events)
        if user is None:
            return stored
        key = live.key_of(user, stored.row)
        found = replace(stored, features=live.features.get(key, {}))
        told = live.rows_of(key) if events else stored.events
        if not events or not len(told):
            return found
        both = LogRows.joined([stored.events, told])
        return replace(found, events=both.take(np.argsort(both["times"], kind="stable")))

    def told_since(self, user: str) -> bool:
        """See `Dataset.told_since`."""
        if user in self.live.forgotten:
            return True
        return self.live.knows(self.live.key_of(user, self.run.user_rows.get(user, -1)))

    def remembered(self, user: str, make: Callable[[], T]) -> T:
        """What is made of all that is known of a user, from memory as long as nothing more was told of them.

        Args:
            user: raw id.
            make: makes it.
        """
        version = self.live.version(user, self.run.user_rows.get(user, -1))
        with self._memory_lock:
            found = self._memory.pop(user, None)
        made: T = make() if found is None or found[0] != version else found[1]
        with self._memory_lock:
            self._memory[user] = version, made
            while len(self._memory) > REMEMBERED:
                del self._memory[next(iter(self._memory))]
        return made

    @cached_property
    def _memory(self) -> dict[str, tuple[tuple[object, ...], Any]]:
        return {}

    @cached_property
    def _memory_lock(self) -> threading.Lock:
        return threading.Lock()

    def candidate_blocks(self, moment: int) -> CandidateBlocks:
        """See `Dataset.candidate_blocks`; those of `NOW` with the live events counted."""
        if moment == NOW and self.counts:
            return self._now
        return self.run.candidate_blocks(moment)

    @cached_property
    def _now(self) -> CandidateBlocks:
        return self.run.candidate_blocks(NOW).with_changes(self.live.changes)
