"""What rules keep from one user and not from another: what their own events hide, and what is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...base.arrays import F64, I64
from ...base.ragged import Ragged
from ...configs.rules import HideRule
from ...data.dataset import Dataset
from ...data.encoding.attributes import Attribute, TextColumn
from ...data.history import History
from ...data.ids import id_text
from ...data.texts import Texts
from ...retrieval.seen import Seen, SeenConfig

ITEM = "item"
"""Scope of a hide that is of the item alone."""


@dataclass(frozen=True)
class Valued:
    """A column of the items by value, both ways.

    Attributes:
        values: the V distinct values: texts, or numbers ascending.
        codes: int64 [N, m] codes of each item's values, V pads.
    """

    values: Texts | F64
    codes: I64

    @classmethod
    def of(cls, column: Attribute) -> Valued:
        """Read a column."""
        if isinstance(column, TextColumn):
            lengths = np.diff(column.ptr)
            shape = len(column), max(1, int(lengths.max(initial=0)))
            padded = np.full(shape, len(column.values), dtype=np.int64)
            item = np.repeat(np.arange(len(column)), lengths)
            padded[item, np.arange(len(column.codes)) - column.ptr[item]] = column.codes
            return cls(column.values, padded)
        values, codes = np.unique(column, return_inverse=True)  # NaN, nothing known, sorts last
        known = int((~np.isnan(values)).sum())
        return cls(values[:known], np.minimum(codes, known).astype(np.int64)[:, None])

    @property
    def num_values(self) -> int:
        """V."""
        return len(self.values)

    @cached_property
    def items(self) -> Ragged:
        """Item rows of every value."""
        item, place = np.nonzero(self.codes < self.num_values)
        return Ragged.from_pairs(self.codes[item, place], item, self.num_values)

    def like(self, rows: I64) -> I64:
        """Items that share a value with any of these, each once; those without a value are like themselves alone."""
        codes = np.unique(self.codes[rows])
        return np.unique(np.append(self.items.take(codes[codes < self.num_values]).items, rows))

    def named(self, text: str) -> I64:
        """Items with a value that is this text, or the number that it spells."""
        if isinstance(self.values, Texts):
            code = self.values.find(text)
            return np.empty(0, dtype=np.int64) if code < 0 else self.items[code]
        try:
            number = float(text)
        except ValueError:
            return np.empty(0, dtype=np.int64)
        code = int(np.searchsorted(self.values, number))
        found = code < self.num_values and self.values[code] == number
        return self.items[code] if found else np.empty(0, dtype=np.int64)


class Hidden:
    """What each hide rule knows of the users of a data set.

    Args:
        rules: the hides.
        dataset: of the users.
        positive: their positive events.

    Raises:
        ConfigError: a task that is none, or is not binary; days in a log without times.
    """

    def __init__(self, rules: Sequence[HideRule], dataset: Dataset, positive: History) -> None:
        policies = [SeenConfig(tasks=(rule.task,), window_days=rule.days) for rule in rules]
        self._events = tuple(Seen.of(dataset, policy, positive, "rules.hide") for policy in policies)

    def of_others(self, people: Dataset, positive: History) -> Hidden:
        """The same before other users, whose requests stand now."""
        other = Hidden((), people, positive)
        other._events = tuple(events.of_others(people, positive) for events in self._events)
        return other

    def before(self, users: I64, moment: int) -> list[Ragged]:
        """Of each rule the items whose events hide, of user rows [B] at a moment (a `Part`'s start, or `NOW`)."""
        return [events.before(users, moment) for events in self._events]


@dataclass(frozen=True)
class Personal:
    """The rules of single users that hold at a moment.

    Attributes:
        scopes: of each hide the column by whose values it hides; None where it hides the item alone.
        owners: columns that name the users who do not get the item.
    """

    scopes: tuple[Valued | None, ...]
    owners: tuple[Valued, ...]

    def barred(self, ids: Sequence[Any], rows: I64, hidden: Hidden, moment: int) -> Ragged:
        """Item rows that each of B users does not get.

        Args:
            ids: raw user ids, None for somebody anonymous.
            rows: int64 [B] user rows of a data set, -1 for a user who is not in it.
            hidden: what that data set's users hide.
            moment: when the requests stand.
        """
        lists: list[list[I64]] = [[] for _ in ids]
        known = np.flatnonzero(rows >= 0)
        for scope, events in zip(self.scopes, hidden.before(rows[known], moment), strict=True):
            for place, user in enumerate(known.tolist()):
                if len(items := events[place]):
                    lists[user].append(items if scope is None else scope.like(items))
        for owner in self.owners:
            for place, raw in enumerate(ids):
                if raw is not None:
                    lists[place].append(owner.named(id_text(raw)))
        none = np.empty(0, dtype=np.int64)
        return Ragged.from_lists([np.concatenate([none, *found]) for found in lists])
