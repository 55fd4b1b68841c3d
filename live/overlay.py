"""What happened since a run was made, over the run: the log is replayed, and answers are those of a rebuilt data set.

Before every answer the log is asked whether there is something new, and what is new is taken in, in order. What moves
at once: histories, sequences, seen items, the latest context, the rung, the counts of every key. What stays until the
next run: weights, vocabularies, edges, companions, popularity.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from ..data.dataset import NOW
from ..data.live import LiveDataset
from ..funnel.funnel import Funnel
from ..funnel.ladder import Ladder
from ..retrieval.index.bitmap import Bitmap
from .log.base import LogRow, LogUnavailableError, StateLog

logger = logging.getLogger(__name__)

READ = 20_000
"""Rows taken in before one answer; with more behind them the answer is stale."""


class LiveFunnel(Funnel):
    """A funnel that names no item which was deleted or is not to be had now.

    Args:
        funnel: of the run.
        dataset: with live events.
    """

    def __init__(self, funnel: Funnel, dataset: LiveDataset) -> None:
        self.__dict__.update(funnel.__dict__)
        self.dataset = dataset
        self.living: Bitmap | None = None

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
        self.dataset = LiveDataset.over(funnel.dataset)
        self.funnel = LiveFunnel(funnel, self.dataset)
        self._lock = threading.Lock()
        self.stale = False
        self._version = -1
        self._requests: dict[int, Any] = {}
        data = funnel.retriever.data
        if data.seen.requests:  # a window is counted from the newest event, which moves
            self._requests = dict(data.seen.requests)
            seen = replace(data.seen, requests=self._requests)
            self.funnel.retriever = copy.copy(funnel.retriever)
            self.funnel.retriever.data = replace(data, seen=seen)
        self.funnel.ladder = Ladder(self.dataset, self.funnel.retriever)

    def catch_up(self, limit: int = READ) -> None:
        """Take in what is new, at most so many rows; `stale` says whether there is more."""
        with self._lock, self._reading():
            version = self.log.version()
            if version == self._version and not self.stale:
                return
            self._version = version  # asked before it is read: what comes in between is read again, and is nothing new
            rows = self.log.read_after(self.position, limit)
            self.stale = len(rows) == limit and self.log.last > rows[-1].position
            self.apply(rows)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Answers go on without a log that cannot be read now; they say that they may be stale."""
        try:
            yield
        except LogUnavailableError as error:
            if not self.stale:
                logger.warning("%s", error)
            self.stale = True

    def apply(self, rows: Sequence[LogRow]) -> None:
        """Take in rows of the log, in order."""
        for kind, group in groupby(rows, key=lambda row: row.kind):
            some = list(group)
            if kind == "event":
                self._add_events(some)
            else:
                for row in some:
                    self._change(row)
        if rows:
            self.position = rows[-1].position

    def _add_events(self, rows: Sequence[LogRow]) -> None:
        rows = [row for row in rows if row.time > self.since]
        if not rows:
            return
        bodies = [json.loads(row.body) for row in rows]
        self.dataset.live.add(
            [row.user for row in rows],
            [row.item for row in rows],
            np.array([row.time for row in rows]),
            [body["columns"] for body in bodies],
            [body.get("exposure", 0) for body in bodies],
        )
        if self._requests:
            newest = max(float(self._requests[NOW].max(initial=-np.inf)), self.dataset.live.newest)
            self._requests[NOW] = np.broadcast_to(newest, self.dataset.num_users)

    def _change(self, row: LogRow) -> None:
        """A row that is no event."""
        live, stored = self.dataset.live, self.dataset.run.user_rows.get(row.user, -1)
        if row.kind == "user_put":
            live.features[live.key_of(row.user, stored)] = json.loads(row.body)["columns"]
        elif row.kind == "forget":
            live.forget(row.user, stored)
        elif row.kind in ("item_put", "item_delete"):
            self._set_living(row.item, row.kind == "item_put" and json.loads(row.body).get("available", True))

    def _set_living(self, item: str, lives: bool) -> None:
        """Whether an item of the catalogue may be named from now on."""
        row, size = self.dataset.item_rows.get(item, -1), self.dataset.num_catalogue
        if not 0 <= row < size:
            return
        whole = np.ones(size, dtype=np.bool_) if self.funnel.living is None else self.funnel.living.mask()
        mask = whole.copy()
        mask[row] = lives
        self.funnel.living = None if mask.all() else Bitmap.from_mask(mask)

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
    while found.position < log.last:
        found.catch_up()
    return found
