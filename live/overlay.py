"""What happened since a run was made, over the run: the log is replayed, and answers are those of a rebuilt data set.

Before every answer the log is asked whether there is something new, and what is new is taken in, in order. What moves
at once: histories, sequences, seen items, the latest context, the rung, the counts of every key. What stays until the
next run: weights, vocabularies, edges, companions, popularity.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from ..data.dataset import NOW
from ..data.live import LiveDataset
from ..funnel.funnel import Funnel
from ..funnel.ladder import Ladder
from .log.base import LogRow, StateLog

READ = 20_000
"""Rows taken in before one answer; with more behind them the answer is stale."""


class Overlay:
    """A run with live state; `funnel` answers with all that was taken in.

    Args:
        funnel: of the run.
        log: what happens.
        after: position in the log behind which the run does not know what happened.
    """

    def __init__(self, funnel: Funnel, log: StateLog, after: int = 0) -> None:
        self.log, self.position = log, after
        self.dataset = LiveDataset.over(funnel.dataset)
        self.funnel = copy.copy(funnel)
        self.funnel.dataset = self.dataset
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
        version = self.log.version()
        if version == self._version and not self.stale:
            return
        self._version = version  # asked before it is read: what comes in between is read again, and is nothing new
        rows = self.log.read_after(self.position, limit)
        self.stale = len(rows) == limit and self.log.last > rows[-1].position
        self.apply(rows)

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

    @property
    def nbytes(self) -> int:
        """About how much memory the live state takes."""
        return self.dataset.live.nbytes
