"""The item side of requests: what an item says whoever asks is encoded once, what a pair says with each request.

A data set is immutable, and so are its counts at a moment, so nothing that is prepared here can be out of date. The
request-time subjects of a run share what is prepared for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ..base.arrays import I64, Ints
from .batch import Block, SideLayout, join_blocks
from .encoding.count_changes import CountChanges
from .encoding.counts import CountTable, EncodedCounts
from .encoding.encoders import Encoders
from .encoding.groups import combine
from .feature_spec import Side
from .packed import Packed

QueryCodes = Callable[[str, Side], Ints]
"""Count key of the query side, and which side -> vocabulary row of each request, int64 [Q]."""


@dataclass(frozen=True)
class _Counted:
    """A count table, encoded, and where its columns stand.

    Attributes:
        table: encoded statistics of every key.
        keys: (name, side) of each key column.
        first: place of its first column among the counts of its side.
        changes: what it came to know since it was encoded.
    """

    table: EncodedCounts
    keys: tuple[tuple[str, Side], ...]
    first: int
    changes: CountChanges | None = None

    @property
    def of_item(self) -> bool:
        """Whether the item alone decides."""
        return all(side == "item" for _, side in self.keys)

    def at(self, codes: Sequence[Ints]) -> Block:
        """Encoded statistics of key codes, one [R] array a key."""
        combined = combine(list(codes), self.table.sizes)
        found = self.table.at(combined)
        return found if self.changes is None else self.changes.written(found, combined)


class CandidateBlocks:
    """Count statistics of requests, and the item blocks of their candidates.

    Args:
        items: encoded item columns, N rows.
        layout: of these columns.
        counts: tables of the moment.
        sides: count key -> side of the feature.
        item_codes: count key of the item side -> vocabulary row of each item, int64 [N].
        encoders: learned on training rows.
    """

    def __init__(
        self,
        items: Packed,
        layout: SideLayout,
        counts: Sequence[CountTable],
        sides: Mapping[str, Side],
        item_codes: Mapping[str, Ints],
        encoders: Encoders,
    ) -> None:
        self._items, self._layout, self._item_codes, self._encoders = items, layout, item_codes, encoders
        self._counts, self._sides = tuple(counts), sides

    def with_changes(self, changes: Sequence[CountChanges]) -> CandidateBlocks:
        """The same blocks with what each count table came to know since; it is read whenever a request is made."""
        other = copy.copy(self)
        other.catalogue = self.catalogue
        of_table = {one.spec.name: change for one, change in zip(self._counts, changes, strict=True)}
        other._tables = tuple(  # type: ignore[assignment]
            tuple(replace(one, changes=of_table[one.table.names[0].removesuffix(".n")]) for one in side)
            for side in self._tables
        )
        return other

    @cached_property
    def _tables(self) -> tuple[tuple[_Counted, ...], tuple[_Counted, ...]]:
        """Tables of the query side and of the item side."""
        found: dict[bool, list[_Counted]] = {False: [], True: []}
        width = {False: 0, True: 0}
        for table in self._counts:
            keys = tuple((key, self._sides[key]) for key in table.spec.keys)
            of_item_side = any(side == "item" for _, side in keys)
            found[of_item_side].append(_Counted(EncodedCounts.of(table, self._encoders), keys, width[of_item_side]))
            width[of_item_side] += len(table.names)
        return tuple(found[False]), tuple(found[True])

    @cached_property
    def catalogue(self) -> Block:
        """Item columns and counts of all N items; the counts of pairs are 0 here, and written by `of_items`."""
        size = self._items.rows
        blocks = [self._items.whole()]
        for one in self._tables[1]:
            if one.of_item:
                blocks.append(one.at([self._item_codes[key] for key, _ in one.keys]))
            else:
                width = len(one.table.names)
                blocks.append(Block(torch.zeros(size, width, dtype=torch.int64), torch.zeros(size, width)))
        return join_blocks(blocks)

    def rewrite(self, rows: I64, items: Block) -> None:
        """Take in that items are others from here on.

        Args:
            rows: int64 [n] item rows, whose key codes have been changed already.
            items: their encoded columns, n rows.
        """
        whole = self.catalogue
        blocks = [items]
        for one in self._tables[1]:
            if one.of_item:
                counted = replace(one, changes=None).at([self._item_codes[key][rows] for key, _ in one.keys])
                blocks.append(counted)
            else:
                width = len(one.table.names)
                blocks.append(Block(torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width)))
        whole.overwrite(torch.from_numpy(rows), join_blocks(blocks))

    def of_queries(self, codes: QueryCodes, queries: int) -> Block:
        """Counts of Q requests, encoded."""
        blocks = [one.at([codes(*key) for key in one.keys]) for one in self._tables[0]]
        if not blocks:
            return Block(torch.empty(queries, 0, dtype=torch.int64), torch.empty(queries, 0))
        return join_blocks(blocks) if len(blocks) > 1 else blocks[0]

    def of_items(self, codes: QueryCodes, owner: I64, items: I64) -> Block:
        """Item columns and counts of R pairs.

        Args:
            codes: of the requests.
            owner: int64 [R] request of each pair.
            items: int64 [R] its item row.
        """
        found = self.catalogue.select(torch.from_numpy(items))
        for one in self._tables[1]:
            if one.of_item and one.changes is None:
                continue
            spread = [
                self._item_codes[key][items] if side == "item" else codes(key, side)[owner] for key, side in one.keys
            ]
            categorical, numeric = len(self._layout.categorical) + one.first, len(self._layout.numeric) + one.first
            if one.of_item and one.changes is not None:
                one.changes.written(found, combine(spread, one.table.sizes), categorical, numeric)
                continue
            counted, width = one.at(spread), len(one.table.names)
            found.categorical[:, categorical : categorical + width] = counted.categorical
            found.numeric[:, numeric : numeric + width] = counted.numeric
        return found
