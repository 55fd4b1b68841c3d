"""A list of item rows per user, stored as one flat array and offsets (CSR): truth, histories, exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from .arrays import I64, Bool, Ints
from .errors import DataError


@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists of item rows: user u owns `items[ptr[u]:ptr[u + 1]]`.

    Attributes:
        items: int64 [E], item rows of all users, one after the other; whole numbers of another width are converted.
        ptr: int64 [U + 1], where each user's list begins; `ptr[-1] == E`.

    Raises:
        DataError: the offsets do not cut the items into lists.
    """

    items: I64
    ptr: I64

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", np.asarray(self.items, dtype=np.int64))
        object.__setattr__(self, "ptr", np.asarray(self.ptr, dtype=np.int64))
        ptr = self.ptr
        if ptr.ndim != 1 or len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(self.items) or (ptr[1:] < ptr[:-1]).any():
            raise DataError(
                f"offsets of {len(ptr) - 1} lists must rise from 0 to the {len(self.items)} items they cut; "
                "pass ptr[0] = 0, ptr[-1] = len(items), never falling"
            )

    @classmethod
    def from_pairs(cls, users: ArrayLike, items: ArrayLike, num_users: int) -> Self:
        """Gather (user row, item row) pairs into lists; the order within a user is kept.

        Args:
            users: int [E], user row of each pair.
            items: int [E], item row of each pair.
            num_users: how many lists to make; users without a pair get an empty one.

        Raises:
            DataError: a user row outside [0, num_users).
        """
        user_rows, item_rows = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        if len(user_rows) and (user_rows.min() < 0 or user_rows.max() >= num_users):
            raise DataError(
                f"user rows run from {user_rows.min()} to {user_rows.max()} but there are {num_users} users; "
                "pass rows in [0, num_users)"
            )
        order = np.argsort(user_rows, kind="stable")
        return cls(item_rows[order], offsets(np.bincount(user_rows, minlength=num_users)))

    @classmethod
    def from_lists(cls, lists: Sequence[ArrayLike]) -> Self:
        """One list of item rows per user."""
        rows = [np.asarray(one, dtype=np.int64).reshape(-1) for one in lists]
        return cls(np.concatenate([np.empty(0, np.int64), *rows]), offsets([len(one) for one in rows]))

    @classmethod
    def empty(cls, num_users: int) -> Self:
        """A list without an entry for each user."""
        return cls(np.empty(0, np.int64), np.zeros(num_users + 1, np.int64))

    @classmethod
    def from_padded(cls, rows: Ints) -> Self:
        """The entries of int [U, k] that are not -1 (the pad), in order."""
        valid = rows >= 0
        return cls(rows[valid].astype(np.int64), offsets(valid.sum(1)))

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def lengths(self) -> I64:
        """Length of each list, int [U]."""
        return self.ptr[1:] - self.ptr[:-1]

    @property
    def users(self) -> I64:
        """User row of each entry, int [E]."""
        return np.arange(len(self)).repeat(self.lengths)

    def __getitem__(self, user: int) -> I64:
        return self.items[self.ptr[user] : self.ptr[user + 1]]

    def block(self, start: int, stop: int) -> Ragged:
        """The lists of users `start` to `stop`; the items are a view."""
        ptr = self.ptr[start : stop + 1]
        return Ragged(self.items[ptr[0] : ptr[-1]], ptr - ptr[0])

    def take(self, users: Ints) -> Ragged:
        """The lists of chosen users, int [B], in the order given; a user may be named more than once."""
        positions, ptr = spans(self.ptr[users], self.lengths[users])
        return Ragged(self.items[positions], ptr)

    def followed_by(self, other: Ragged) -> Ragged:
        """The lists of both, each of this one's followed by the other's of the same user."""
        users = np.concatenate([self.users, other.users])
        return Ragged.from_pairs(users, np.concatenate([self.items, other.items]), len(self))

    def unique(self) -> Ragged:
        """The same lists sorted by item row, each item once."""
        users = self.users
        order = np.lexsort((self.items, users))
        items, users = self.items[order], users[order]
        keep = np.ones(len(items), dtype=bool)
        keep[1:] = (items[1:] != items[:-1]) | (users[1:] != users[:-1])
        return Ragged(items[keep], offsets(np.bincount(users[keep], minlength=len(self))))

    def select(self, entries: Bool) -> Ragged:
        """The lists with only the entries where bool [E] `entries` holds; the users stay the same."""
        return Ragged(self.items[entries], offsets(np.bincount(self.users[entries], minlength=len(self))))


def offsets(lengths: ArrayLike) -> I64:
    """Offsets int64 [U + 1] of consecutive lists of these lengths [U]."""
    counts = np.asarray(lengths)
    ptr = np.zeros(counts.size + 1, dtype=np.int64)
    np.add.accumulate(counts, dtype=np.int64, out=ptr[1:])
    return ptr


def spans(starts: Ints, lengths: Ints) -> tuple[I64, I64]:
    """Positions of the entries of slices of a flat array, one slice after the other.

    Args:
        starts: int [B], where each slice begins.
        lengths: int [B], its entries; 0 or more.

    Returns:
        Positions int64 [sum of lengths], and the offsets int64 [B + 1] of the slices among them.
    """
    ptr = offsets(lengths)
    return np.arange(ptr[-1]) + (starts - ptr[:-1]).repeat(lengths), ptr


def pair_keys(users: Ints, items: Ints, num_items: int) -> I64:
    """One integer per (user row, item row), so that sets of pairs can be compared as sets of numbers."""
    return users.astype(np.int64) * num_items + items


def locate(lists: Ragged, users: Ints, items: Ints) -> Ints:
    """Where each (user row, item row) pair stands among the entries of the lists; -1 where it does not.

    Args:
        lists: the lists to look in, of items named once.
        users: int [Q], user row of each question.
        items: int [Q], item row of each question; below 0 is a pad and is never found.

    Returns:
        int [Q], positions in `lists.items`.
    """
    if len(lists.items) == 0 or len(users) == 0:
        return np.full(len(users), -1, dtype=np.int64)
    num_items = int(max(lists.items.max(), items.max(), 0)) + 1
    known = pair_keys(lists.users, lists.items, num_items)
    order = np.argsort(known)
    asked = pair_keys(users, items, num_items)
    at = order[np.minimum(np.searchsorted(known, asked, sorter=order), len(known) - 1)]
    return np.where((known[at] == asked) & (items >= 0), at, -1)


def contains(lists: Ragged, users: Ints, items: Ints) -> Bool:
    """Whether each (user row, item row) pair is in that user's list, bool [Q]; see `locate`."""
    found: Bool = locate(lists, users, items) >= 0
    return found
