"""What happened since a run was made, over the run: the log is replayed, and answers are those of a rebuilt data set.

Before every answer the log is asked whether there is something new, and what is new is taken in, in order. What moves
at once: histories, sequences, seen items, the latest context, the rung, the counts of every key. What stays until the
next run: weights, vocabularies, edges, companions, popularity.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..base.arrays import F64
from ..base.memory import uncollected
from ..data.dataset import NOW
from ..data.live import LiveDataset
from ..funnel.funnel import Funnel
from ..funnel.ladder import Ladder
from ..retrieval.index.bitmap import Bitmap
from ..retrieval.seen import Seen, SeenConfig
from .catalogue import LiveCatalogue
from .log.base import LogRow, LogUnavailableError, StateLog, bodies

logger = logging.getLogger(__name__)

ITEM_KINDS = ("item_put", "item_delete")
READ = 20_000
"""Rows taken in before one answer; with more behind them the answer is stale."""


class _RequestTimes(Mapping[int, F64]):
    """When requests stand: those of now at the newest event, which moves.

    Args:
        known: of the run.
        dataset: with live events.
    """

    def __init__(self, known: Mapping[int, F64], dataset: LiveDataset) -> None:
        self._known, self._dataset = known, dataset
        self._newest = float(known[NOW].max(initial=-np.inf))

    def __getitem__(self, moment: int) -> F64:
        if moment != NOW:
            return self._known[moment]
        return np.broadcast_to(max(self._newest, self._dataset.live.newest), self._dataset.num_users)

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _moving(seen: Seen, dataset: LiveDataset) -> Seen:
    """The same with windows that are counted from the newest event that was told."""
    return replace(seen, requests=_RequestTimes(seen.requests, dataset)) if seen.requests else seen


class _LiveLadder(Ladder):
    """See `Ladder`; windows move with the events."""

    def seen_by(self, policy: SeenConfig) -> Seen:
        """See `Ladder.seen_by`."""
        assert isinstance(self.dataset, LiveDataset)
        return _moving(super().seen_by(policy), self.dataset)


class LiveFunnel(Funnel):
    """A funnel that names no item which was deleted or is not to be had now.

    Args:
        funnel: of the run.
        dataset: with what was told.
    """

    def __init__(self, funnel: Funnel, dataset: LiveDataset) -> None:
        self.living: Bitmap | None = None
        self.become(funnel, dataset)

    def become(self, funnel: Funnel, dataset: LiveDataset) -> None:
        """Answer with another funnel from here on."""
        self.__dict__.update(funnel.__dict__)
        self.dataset = dataset
        seen = funnel.retriever.data.seen
        if seen.requests:
            self.retriever = funnel.retriever.leaving_out(_moving(seen, dataset))
        self.ladder = _LiveLadder(dataset, self.retriever)

    def unblocked(self, allowed: Bitmap | None) -> Bitmap | None:
        """See `Funnel.unblocked`."""
        found = super().unblocked(allowed)
        if self.living is None:
            return found
        return self.living if found is None else found & self.living


class Overlay:
    """A run with live state; `funnel` answers with all that was taken in.

    Args:
        funnel: of the run.
        log: what happens.
        after: position in the log behind which the run does not know what happened.
        since: seconds; events that are not later are known to the run.
    """

    def __init__(self, funnel: Funnel, log: StateLog, after: int = 0, since: float = -np.inf) -> None:
        self.log, self.position, self.since = log, after, since
        self.of = funnel
        self.items = LiveCatalogue(funnel)
        self.changes = 0
        self.dataset = LiveDataset.over(funnel.dataset)
        self.funnel = LiveFunnel(funnel, self.dataset)
        self._lock = threading.Lock()
        self._behind_since: float | None = None
        self._version = -1

    @property
    def stale(self) -> bool:
        """Whether there are acknowledged events that answers do not know, or may be."""
        return self._behind_since is not None

    @property
    def lag(self) -> float:
        """Seconds for which that has been so, 0 where it is not."""
        since = self._behind_since
        return 0.0 if since is None else time.monotonic() - since

    def _set_behind(self, behind: bool) -> None:
        if behind != self.stale:
            self._behind_since = time.monotonic() if behind else None

    def catch_up(self, limit: int = READ) -> None:
        """Take in what is new, at most so many rows; `stale` says whether there is more."""
        with self._lock, self._reading():
            version = self.log.version()
            if version == self._version and not self.stale:
                return
            self._version = version  # asked before it is read: what comes in between is read again, and is nothing new
            rows = self.log.read_after(self.position, limit)
            more = len(rows) == limit and self.log.last > rows[-1].position
            self.apply(rows)
            self._set_behind(more)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Answers go on without a log that cannot be read now; they say that they may be stale."""
        try:
            yield
        except LogUnavailableError as error:
            if not self.stale:
                logger.warning("%s", error)
            self._set_behind(True)

    def apply(self, rows: Sequence[LogRow]) -> None:
        """Take in rows of the log, as if one by one in their order.

        Taking in costs milliseconds, however many rows it is of. So events are taken in together, and then what
        changed of items; a change that decides how later events of its item are read goes before those.
        """
        decisive, decided = self._decisive(rows), set[str]()
        events: list[LogRow] = []
        changes: list[LogRow] = []
        for place, row in enumerate(rows):
            if row.kind in ITEM_KINDS:
                changes.append(row)
                if place in decisive:
                    decided.add(row.item)
            elif row.kind == "event":
                if row.item in decided:
                    self._take_in(events, changes)
                    events, changes, decided = [], [], set()
                events.append(row)
            else:
                if row.kind == "forget":
                    self._add_events(events)
                    events = []
                self._change(row)
        self._take_in(events, changes)
        if rows:
            self.position = rows[-1].position

    def _decisive(self, rows: Sequence[LogRow]) -> set[int]:
        """Places of the changes that decide how later events among the rows are read."""
        changed, meets = set[str](), False
        for row in rows:
            if row.kind in ITEM_KINDS:
                changed.add(row.item)
            meets |= row.kind == "event" and row.item in changed
        if not meets:
            return set()
        places = [place for place, row in enumerate(rows) if row.kind in ITEM_KINDS]
        found = self.items.decisive([rows[place] for place in places])
        return {place for place, decides in zip(places, found, strict=True) if decides}

    def _take_in(self, events: Sequence[LogRow], changes: Sequence[LogRow]) -> None:
        self._add_events(events)
        if changes:
            self._change_items(changes)

    def _add_events(self, rows: Sequence[LogRow]) -> None:
        rows = [row for row in rows if row.time > self.since]
        if not rows:
            return
        said = bodies(rows)
        self.dataset.live.add(
            [row.user for row in rows],
            [row.item for row in rows],
            np.array([row.time for row in rows]),
            [body["columns"] for body in said],
            [body.get("exposure", 0) for body in said],
        )

    def _change(self, row: LogRow) -> None:
        """A row that is no event."""
        live, stored = self.dataset.live, self.dataset.run.user_rows.get(row.user, -1)
        if row.kind == "user_put":
            live.features[live.key_of(row.user, stored)] = json.loads(row.body)["columns"]
        elif row.kind == "forget":
            live.forget(row.user, stored)

    def _change_items(self, rows: Sequence[LogRow]) -> None:
        """Items that were put or deleted."""
        if self.items.apply(rows):
            self.dataset = self.dataset.among(self.items.dataset)
            self.funnel.become(self.items.funnel, self.dataset)
        else:
            self.dataset.rewritten(self.items.written)
        living = self.items.living
        self.funnel.living = None if living.all() else Bitmap.from_mask(living)
        if not self.funnel.rules.config.idle:
            self.funnel.rules = self.funnel.rules.changed(self.funnel.rules.config)
        self.changes += 1

    @property
    def nbytes(self) -> int:
        """About how much memory the live state takes."""
        return self.dataset.live.nbytes


def overlay_of(funnel: Funnel, log: StateLog) -> Overlay:
    """A run over what happened that it does not know, all of it taken in.

    A run that was trained on an export of this log knows it up to the export's last row; of another run, what is later
    than its newest event is new.
    """
    told = funnel.trained.log
    if told is not None and told["log"] == log.log_id:
        found = Overlay(funnel, log, after=int(told["last"]))
    else:
        times = funnel.dataset.events.times
        newest = float(times[np.isfinite(times)].max(initial=-np.inf)) if funnel.dataset.config.time else -np.inf
        if log.last and np.isfinite(newest):
            logger.warning("the run was trained on no export of this log: events up to %.0f count as known", newest)
        found = Overlay(funnel, log, since=newest)
    with uncollected():
        while rows := log.read_after(found.position, READ):  # not up to `log.last`, whose row may have been trimmed
            found.apply(rows)
    return found
