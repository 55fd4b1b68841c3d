"""Rows of a log with everything that is encoded of them, as columns: gathered from where they lie, and joined.

Histories, contexts and counts of a user are made of such rows, whether they stand in the log of a run or came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..base.arrays import AnyArray, Ints
from .packed import Packed

QUERY, KEY, EVENT, INPUT = "query/", "key/", "event/", "input/"
"""Beginnings of the names of columns: context, count keys, features of past events, inputs of derived features."""


@dataclass(frozen=True)
class LogRows:
    """R rows of a log.

    Attributes:
        columns: `items`, `times`, `parts`, `labels`, `mask` as of `EventLog`; `query/...` the arrays of the packed
            context; `key/NAME` codes of a context count key; `event/NAME` of an `after_event` feature; `input/D/I` the
            I-th input of the D-th derived feature, where it is of the context.
        narrow: of each context column, see `Packed.narrow`.
    """

    columns: Mapping[str, AnyArray]
    narrow: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.columns["times"])

    def __getitem__(self, name: str) -> AnyArray:
        return self.columns[name]

    @cached_property
    def query(self) -> Packed:
        """Context columns."""
        named = {name.removeprefix(QUERY): values for name, values in self.columns.items() if name.startswith(QUERY)}
        return Packed.from_arrays(self.narrow, named)

    def take(self, rows: Ints | slice) -> LogRows:
        """Some of the rows, in the order given."""
        return LogRows({name: values[rows] for name, values in self.columns.items()}, self.narrow)

    @classmethod
    def joined(cls, parts: Sequence[LogRows]) -> LogRows:
        """The rows of several, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].columns
        return cls({name: np.concatenate([part[name] for part in parts]) for name in names}, parts[0].narrow)


def context_columns(table: Packed, categorical: int, numeric: int) -> dict[str, AnyArray]:
    """Arrays of the first columns of a packed table, by the names of `LogRows`; nothing is copied."""
    narrow = sum(table.narrow[:categorical])
    arrays = table.arrays()
    first = {"small": narrow, "wide": categorical - narrow, "numbers": numeric}
    return {QUERY + name: values[:, : first[name]] if name in first else values for name, values in arrays.items()}


@dataclass(frozen=True)
class Known:
    """What a data set has stored of one user.

    Attributes:
        row: user row, -1 where it stores none.
        events: the user's events, oldest first.
        features: columns of the users table that were told since the rows were encoded.
    """

    row: int
    events: LogRows
    features: Mapping[str, Any] = field(default_factory=dict)
