"""Logged exposures as training rows: which item was shown, with what label, and what the user had done before.

The history of an exposure ends before its own second, as a ranker's does: events of one moment may be answers to one
page. Only rows of the training part are exposures, so no label of a later part is ever learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ...base.arrays import F32, I64, Bool
from ...base.errors import ConfigError, DataError
from ...data.dataset import Dataset
from ...data.history import History
from ...data.split import Part
from .inputs import Shown


@dataclass(frozen=True)
class Exposures:
    """Training rows of R exposures, by user and pointer.

    `L = sum_i w_i l(y_i, scale <u_i, v_i> + bias) / sum_i w_i`, l the cross-entropy of the logged label.

    Attributes:
        items: int64 [R] item row that was shown.
        labels: float32 [R] 0 or 1.
        weights: float32 [R] training weight.
        ends: int64 [R] pointer behind the last event of the towers' history that is strictly earlier; never falling
            within a user.
        ptr: int64 [U + 1] user u's exposures are `ptr[u]:ptr[u + 1]`.
    """

    paper: ClassVar[str] = "Huang et al. CIKM 2013"
    summary: ClassVar[str] = "each logged exposure against its 0/1 label, by itself"
    items: I64
    labels: F32
    weights: F32
    ends: I64
    ptr: I64

    @classmethod
    def of(cls, dataset: Dataset, history: History, positive: str) -> Exposures:
        """The training rows of a task's sample space.

        Args:
            dataset: encoded data.
            history: positive events per user, as the towers read them.
            positive: binary task whose labels are learned.

        Raises:
            ConfigError: no task is named, or it has no 0/1 labels.
            DataError: the training rows do not hold both labels.
        """
        if not positive:
            raise ConfigError(
                'retrieval.loss = "exposures" learns the 0/1 labels of a task; name it in retrieval.positive, '
                f"one of: {', '.join(dataset.task_names)}"
            )
        task = dataset.task_names.index(positive)
        if dataset.config.tasks[task].kind != "binary":
            raise ConfigError(
                f'retrieval.loss = "exposures" needs a binary task; "{positive}" is a {dataset.config.tasks[task].kind}'
            )
        events = dataset.events
        usable = (events.parts == Part.TRAIN) & events.mask[:, task]
        usable &= (events.items >= 0) & (events.items < dataset.num_catalogue)
        rows = np.flatnonzero(usable)
        labels = events.labels[rows, task].astype(np.float32)
        if not len(rows) or labels.min() == labels.max():
            raise DataError(
                f'the {len(rows):,} training rows of "{positive}" do not hold both labels, 0 and 1, '
                'which retrieval.loss = "exposures" compares; choose another retrieval.positive or loss'
            )
        users = events.users[rows]
        known = history.before(Part.VALID)
        ends = known.ends_before(users, events.times[rows], known.ptr[users + 1])
        ends += (history.ptr[:-1] - known.ptr[:-1])[users]
        order = np.lexsort((ends, users))
        ptr = np.zeros(history.num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=history.num_users), out=ptr[1:])
        return cls(
            events.items[rows][order].astype(np.int64),
            labels[order],
            events.weights_of(task)[rows][order],
            ends[order],
            ptr,
        )

    @property
    def rate(self) -> float:
        """Weighted share of label 1."""
        return float(np.average(self.labels, weights=self.weights))

    def expected(self, history_ptr: I64, max_length: int) -> I64:
        """Exposures of each user in one window, int64 [U]: all, or their share of a history longer than `max_length`.

        Args:
            history_ptr: int64 [U + 1] of the history the pointers point into.
            max_length: most events of a window.
        """
        counts, rows = np.diff(self.ptr), self.ptr[:-1][np.diff(self.ptr) > 0]
        last = np.zeros(len(counts), dtype=np.int64)
        last[counts > 0] = np.maximum.reduceat(self.ends, rows) - history_ptr[:-1][counts > 0]
        shares = np.minimum(1.0, max_length / np.maximum(last, 1))
        return np.asarray(np.ceil(counts * shares), dtype=np.int64)

    def within(
        self,
        users: I64,
        starts: I64,
        ends: I64,
        from_start: Bool,
    ) -> Shown:
        """The exposures whose history stands in given windows.

        Args:
            users: int64 [B] user row of each window.
            starts: int64 [B] pointer at each window's first event.
            ends: int64 [B] pointer behind each window's last event.
            from_start: bool [B] whether the window begins with the user's first event. Of others, exposures at the
                start are left out: what came before them is not empty but unknown.
        """
        # Keys rise with user and pointer, so one search finds every window's run of exposures.
        width = int(max(self.ends.max(initial=0), ends.max(initial=0))) + 2
        owner = np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))
        keys = owner * width + self.ends
        first = np.searchsorted(keys, users * width + starts + ~from_start, side="left")
        last = np.searchsorted(keys, users * width + ends, side="right")
        counts = last - first
        window = np.repeat(np.arange(len(users)), counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        return Shown(
            torch.from_numpy(window),
            torch.from_numpy(self.ends[rows] - starts[window]),
            torch.from_numpy(self.items[rows]),
            torch.from_numpy(self.labels[rows]),
            torch.from_numpy(self.weights[rows]),
        )
