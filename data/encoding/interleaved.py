"""Rows of two lists as one, read and written part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from ...base.arrays import I64, AnyArray
from ...base.counting import STEP
from ..packed import Packed
from ..shelf import Shelf

Values: TypeAlias = AnyArray | Callable[[slice], AnyArray]
"""Values of rows, or what gives those of a range of rows."""


@dataclass(frozen=True)
class Interleaved:
    """Where the rows of two lists stand in one.

    Attributes:
        rows: of the first list.
        left_out: int64 [H] ascending, rows of the first list that are not in the new one.
        before: int64 [n] ascending, for each row of the second list how many remaining ones of the first precede it.
        shelf: keeps what is made.
    """

    rows: int
    left_out: I64
    before: I64
    shelf: Shelf

    def __len__(self) -> int:
        return self.rows - len(self.left_out) + len(self.before)

    @cached_property
    def places(self) -> I64:
        """Row of the new list that each row of the second one is, int64 [n]."""
        return self.before + np.arange(len(self.before))

    def columns(self, pairs: Sequence[tuple[Values, AnyArray]]) -> list[AnyArray]:
        """Values of the two lists as columns of the one.

        Args:
            pairs: of each column the first list's values [rows, ...], or what gives those of a range of rows, and the
                second one's [n, ...], whose dtype the column has.
        """
        found = [self.shelf.empty((len(self), *second.shape[1:]), second.dtype) for _, second in pairs]
        kept = done = 0
        for start in range(0, max(self.rows, 1), STEP):
            part = slice(start, min(start + STEP, self.rows))
            low, high = np.searchsorted(self.left_out, (start, part.stop))
            after = kept + part.stop - start - int(high - low)
            last = len(self.before) if part.stop == self.rows else int(np.searchsorted(self.before, after))
            order = self._order(part, slice(low, high), slice(done, last), after + last - kept - done, kept + done)
            for column, (first, second) in zip(found, pairs, strict=True):
                values = first(part) if callable(first) else first[part]
                if order is None:
                    column[kept + done : after + last] = values
                else:
                    both = np.concatenate([values.astype(column.dtype, copy=False), second[done:last]])
                    both.take(order, axis=0, out=column[kept + done : after + last], mode="clip")
            kept, done = after, last
            self.shelf.rest(*found, *(array for pair in pairs for array in pair if not callable(array)))
        return found

    def _order(self, part: slice, left: slice, later: slice, size: int, start: int) -> I64 | None:
        """Where each new row of a part stands among the part's rows and the later ones behind them, int64 [size].

        Args:
            part: rows of the first list.
            left: those of `left_out` that lie in it.
            later: rows of the second list that stand in it.
            size: rows that it makes.
            start: row of the new list that it begins at.

        Returns:
            None where they are the part's rows as they are.
        """
        if left.start == left.stop and later.start == later.stop:
            return None
        here = np.zeros(size, dtype=bool)
        here[self.places[later] - start] = True
        order = np.empty(size, dtype=np.int64)
        rows = part.stop - part.start
        order[here] = np.arange(rows, rows + later.stop - later.start)
        order[~here] = np.delete(np.arange(rows), self.left_out[left] - part.start)
        return order

    def table(self, first: Packed, second: Packed) -> Packed:
        """The two lists' tables of the same columns as one, each column as narrow as in the second."""
        small: Values = first.small
        wide: Values = first.wide
        if first.narrow != second.narrow:
            small, wide = (
                _codes(first, [place for place, narrow in enumerate(second.narrow) if narrow == wanted], self.shelf)
                for wanted in (True, False)
            )
        pairs: list[tuple[Values, AnyArray]] = [
            (small, second.small),
            (wide, second.wide),
            (first.numbers, second.numbers),
        ]
        pairs += [*zip(first.bags, second.bags, strict=True), *zip(first.vectors, second.vectors, strict=True)]
        narrow, codes, numbers, *rest = self.columns(pairs)
        bags = len(second.bags)
        return Packed(second.narrow, narrow, codes, numbers, tuple(rest[:bags]), tuple(rest[bags:]))


def _codes(table: Packed, columns: Sequence[int], shelf: Shelf) -> Callable[[slice], AnyArray]:
    """Some categorical columns of a range of rows, int64 [r, c]."""

    def read(rows: slice) -> AnyArray:
        found = np.empty((rows.stop - rows.start, len(columns)), dtype=np.int64)
        at = np.arange(rows.start, rows.stop)
        for place, column in enumerate(columns):
            found[:, place] = table.codes(column, at)
        shelf.rest(table.small, table.wide)
        return found

    return read


def of_each(values: AnyArray, ptr: I64, rows: slice) -> AnyArray:
    """Value of the list that each of a range of entries belongs to; list u has the entries `ptr[u]:ptr[u + 1]`."""
    if rows.stop <= rows.start:
        return values[:0]
    first, last = np.searchsorted(ptr, (rows.start, rows.stop - 1), side="right") - 1
    bounds = np.clip(ptr[first : last + 2], rows.start, rows.stop)
    return np.repeat(values[first : last + 1], np.diff(bounds))
