"""What each user did before a moment, as slices of one flat array (CSR): nothing from the future by construction.

Events are sorted by (user, part, time, file order), so "before" is a pointer and a history is the run of events up to
it. Parts follow one another in time under a `time` or `leave_last` split; under a `random` or `column` split a user's
training events come first, so that a pointer behind them shows no event of a later part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base.arrays import F64, I32, I64, Bool, Ints
from ..base.counting import STEP, counting_order, rises, tallies
from ..base.ragged import Ragged, offsets, spans
from .split import Part


@dataclass(frozen=True)
class History:
    """A chosen kind of event (all, or the positives of one task), per user by part and then time.

    Attributes:
        items: int32 [E] item row of each event.
        times: float64 [E] seconds; -inf for events from before the log.
        parts: int8 [E] part of each event.
        rows: int [E] event row each came from; -1 for events from before the log.
        ptr: int64 [U + 1] user u's events are `ptr[u]:ptr[u + 1]`.
    """

    items: I32
    times: F64
    parts: NDArray[np.int8]
    rows: Ints
    ptr: I64

    @classmethod
    def build(
        cls,
        users: Ints,
        items: Ints,
        times: F64,
        parts: NDArray[np.int8],
        chosen: Bool,
        num_users: int,
        prior: tuple[I64, I64] | None = None,
    ) -> History:
        """From an event log sorted by (user, time).

        Args:
            users: int [R] user rows, ascending.
            items: int [R] item rows.
            times: float [R] seconds.
            parts: int8 [R].
            chosen: bool [R] events that count.
            num_users: U.
            prior: (users, items) of events from before the log, each user's oldest first.
        """
        rows: Ints = np.flatnonzero(chosen).astype(row_kind(len(chosen)), copy=False)
        user, part = users.take(rows), parts.take(rows)
        if not _in_order(user, part):
            rows = rows[counting_order(part - Part.PRIOR, len(Part))]
            rows = rows[counting_order(users.take(rows), num_users)]  # stable: part and time decide within a user
            user, part = users.take(rows), parts.take(rows)
        item, time = items.take(rows), times.take(rows)
        if prior is not None and len(prior[0]):
            before = len(prior[0])
            user = np.concatenate([prior[0], user])
            order = counting_order(user, num_users)
            item = np.concatenate([prior[1], item])[order]
            time = np.concatenate([np.full(before, -np.inf), time])[order]
            part = np.concatenate([np.full(before, Part.PRIOR, dtype=np.int8), part])[order]
            rows = np.concatenate([np.full(before, -1, dtype=rows.dtype), rows])[order]
        ptr = offsets(tallies(user, num_users))
        return cls(item.astype(np.int32, copy=False), time, part.astype(np.int8, copy=False), rows, ptr)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.ptr) - 1

    def ends(self, part: Part) -> I64:
        """Pointer of each user behind their last event of an earlier part than `part`, int64 [U]."""
        earlier = np.zeros(len(self.parts) + 1, dtype=row_kind(len(self.parts)))
        np.cumsum(self.parts < part, out=earlier[1:])
        return np.asarray(self.ptr[:-1] + earlier[self.ptr[1:]] - earlier[self.ptr[:-1]], dtype=np.int64)

    def before(self, part: Part) -> History:
        """The events of earlier parts than `part` alone."""
        kept = self.parts < part
        ptr = np.concatenate([[0], np.cumsum(self.ends(part) - self.ptr[:-1])]).astype(np.int64)
        return History(self.items[kept], self.times[kept], self.parts[kept], self.rows[kept], ptr)

    def ends_at_rows(self, users: Ints, times: F64, chosen: Bool) -> Ints:
        """Pointer of each event row behind the strictly earlier events of its user: int [R].

        Args:
            users: int [R] as of `build`.
            times: float [R] as of `build`.
            chosen: bool [R] as of `build`.
        """
        own = self.rows[self.rows >= 0]
        if not rises(own):
            return self.ends_before(users, times, self.ptr[1:][users])
        # Events stand in the order of the log: those before a row are counted, from the first row of its moment on.
        kind = row_kind(len(users))
        moment = np.arange(len(users), dtype=kind)
        moment[1:][(users[1:] == users[:-1]) & (times[1:] == times[:-1])] = 0
        np.maximum.accumulate(moment, out=moment)
        counted = np.zeros(len(users) + 1, dtype=kind)
        np.cumsum(chosen, out=counted[1:])
        begins = offsets(tallies(users, self.num_users))
        of_users = self.ptr[1:] - counted[begins[1:]]
        ends = np.empty(len(users), dtype=row_kind(len(self.items)))
        for start in range(0, len(users), STEP):
            part = slice(start, start + STEP)
            ends[part] = of_users[users[part]] + counted[moment[part]]
        return ends

    def last_seen(self, users: Ints, ends: I64) -> F64:
        """Time of the last event before each pointer, infinite where there is none or none is known: float64 [B].

        Args:
            users: int [B].
            ends: int64 [B] pointers behind the events that are known.
        """
        known = ends > self.ptr[users]
        times = self.times[np.where(known, ends - 1, 0)] if len(self.times) else np.zeros(len(ends))
        return np.where(known & np.isfinite(times), times, np.inf)

    def ends_before(self, users: Ints, times: F64, limits: I64) -> I64:
        """Pointer behind the last event strictly earlier than each moment, never behind `limits`; int64 [B].

        Asks for a history in time order: of an ordered split, or of one part.

        Args:
            users: int [B].
            times: float [B] seconds.
            limits: int [B] furthest pointer allowed, e.g. of the part's start.
        """
        owner = np.repeat(np.arange(self.num_users), np.diff(self.ptr))
        # One merged sort answers all questions: a question stands before the events of its own second.
        keys_time = np.concatenate([self.times, times])
        keys_user = np.concatenate([owner, users])
        question = np.concatenate([np.ones(len(owner), np.int8), np.zeros(len(users), np.int8)])
        order = np.lexsort((question, keys_time, keys_user))
        is_event = question[order] == 1
        before = np.cumsum(is_event)
        answer = np.empty(len(users), dtype=np.int64)
        asked = order[~is_event] - len(owner)
        answer[asked] = before[~is_event]
        return np.minimum(answer, limits)

    def gap_buckets(self, buckets: int) -> I64:
        """Time since the user's event before, int64 [E]: 0 where unknown, else 1 + floor(log2(1 + seconds)), capped.

        Args:
            buckets: classes, the unknown one included.
        """
        previous = np.concatenate([[-np.inf], self.times[:-1]]) if len(self.times) else self.times
        previous[self.ptr[:-1][np.diff(self.ptr) > 0]] = -np.inf
        return _octaves(self.times, previous, buckets)

    def request_gap_buckets(self, buckets: int, now: float | F64) -> I64:
        """Time from each event to the request that follows it, int64 [E], in the classes of `gap_buckets`.

        A request stands where the user's next event does; after the last event of all it stands at `now`.

        Args:
            buckets: classes, the unknown one included.
            now: seconds, for all or of each user [U].
        """
        following = np.concatenate([self.times[1:], [np.nan]]) if len(self.times) else self.times
        present = np.diff(self.ptr) > 0
        following[self.ptr[1:][present] - 1] = np.broadcast_to(now, self.num_users)[present]
        return _octaves(following, self.times, buckets)

    def window(self, users: Ints, ends: I64, length: int) -> tuple[Tensor, Tensor]:
        """The last `length` events before each pointer, oldest first, padded at the end.

        Args:
            users: int [B] user rows.
            ends: int [B] absolute pointers.
            length: L.

        Returns:
            positions: int64 [B, L] absolute event positions, 0 where padded.
            present: bool [B, L].
        """
        start = torch.from_numpy(np.maximum(self.ptr[users], ends - length))
        end = torch.from_numpy(np.asarray(ends, dtype=np.int64))
        positions = start.unsqueeze(1) + torch.arange(length)
        present = positions < end.unsqueeze(1)
        return positions.masked_fill(~present, 0), present

    def until(self, users: Ints, ends: I64) -> Ragged:
        """Item rows of the users' whole histories up to each pointer, oldest first: B lists."""
        return self.between(self.ptr[users], ends)

    def between(self, starts: I64, ends: I64) -> Ragged:
        """Item rows of the events from one pointer up to another, in order: B lists, empty where `ends` is no later."""
        positions, ptr = spans(starts, np.maximum(ends - starts, 0))
        return Ragged(self.items[positions].astype(np.int64), ptr)


def row_kind(rows: int) -> type[np.int32] | type[np.int64]:
    """Whole numbers that count so many rows."""
    return np.int32 if rows < 2**31 else np.int64


def _in_order(users: Ints, parts: NDArray[np.int8]) -> bool:
    """Whether neither the users fall nor the parts of one user."""
    for start in range(0, len(users), STEP):
        user, part = users[start : start + STEP + 1], parts[start : start + STEP + 1]
        if not ((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (part[1:] >= part[:-1]))).all():
            return False
    return True


def _octaves(later: F64, earlier: F64, buckets: int) -> I64:
    """0 where either time is unknown, else 1 + floor(log2(1 + seconds between)), capped; int64 [E]."""
    with np.errstate(invalid="ignore"):
        gap = later - earlier
    known = np.isfinite(gap)
    octave = np.log2(np.where(known, np.maximum(gap, 0.0), 0.0) + 1.0).astype(np.int64)
    return np.where(known, np.minimum(octave + 1, buckets - 1), 0)
