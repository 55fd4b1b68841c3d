"""What counts came to know since a table was made: the keys that changed, their sums, and their statistics encoded."""

from __future__ import annotations

import numpy as np
import torch

from ...base.arrays import F64, I64, Bool, Floats
from ..batch import Block
from .counts import CountTable, encode_counts
from .encoders import Encoders


class CountChanges:
    """Sums of the keys of a count table that rows came to; the table itself stays.

    Args:
        table: with the sums before.
        encoders: learned on training rows.
    """

    def __init__(self, table: CountTable, encoders: Encoders) -> None:
        self.table, self._encoders = table, encoders
        self._slots: dict[int, int] = {}
        width = 1 + 2 * len(table.prior)
        self._sums = np.empty((0, width))
        self._block = self._encoded(self._sums)

    def __len__(self) -> int:
        """Keys that changed."""
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums and of what is encoded of them; a key in a dictionary takes about a hundred more."""
        block = self._block.categorical.nbytes + self._block.numeric.nbytes
        return int(self._sums.nbytes + block + 100 * len(self._slots))

    def add(self, codes: I64, labels: Floats, mask: Bool, sign: int = 1) -> None:
        """Count rows, or take them back.

        Args:
            codes: int64 [R] combined code of each row, -1 of those that are counted nowhere.
            labels: [R, t] of the spec's tasks, 0 where masked.
            mask: bool [R, t].
            sign: 1, or -1 to take rows back that were counted.
        """
        known = codes >= 0
        codes, own = codes[known], np.column_stack([np.ones(int(known.sum())), mask[known], labels[known]])
        keys, places = np.unique(codes, return_inverse=True)
        slots = self._slots_of(keys)
        np.add.at(self._sums, slots[places], sign * own)
        fresh = self._encoded(self._sums[slots])
        rows = torch.from_numpy(slots)
        self._block.categorical[rows] = fresh.categorical
        self._block.numeric[rows] = fresh.numeric

    def _slots_of(self, keys: I64) -> I64:
        """Where the sums of keys stand; new ones begin with those of the table."""
        found = np.array([self._slots.get(key, -1) for key in keys.tolist()], dtype=np.int64)
        new = np.flatnonzero(found < 0)
        if not len(new):
            return found
        first = len(self._slots)
        found[new] = np.arange(first, first + len(new))
        self._slots.update(zip(keys[new].tolist(), found[new].tolist(), strict=True))
        if len(self._slots) > len(self._sums):
            self._grow(2 * len(self._slots) + 64)
        self._sums[found[new]] = self.table.sums_of(keys[new])
        return found

    def _grow(self, size: int) -> None:
        sums = np.zeros((size, self._sums.shape[1]))
        sums[: len(self._sums)] = self._sums
        self._sums, before = sums, self._block
        self._block = Block(
            before.categorical.new_zeros(size, before.categorical.shape[1]),
            before.numeric.new_zeros(size, before.numeric.shape[1]),
        )
        self._block.categorical[: before.rows] = before.categorical
        self._block.numeric[: before.rows] = before.numeric

    def _encoded(self, sums: F64) -> Block:
        statistics = self.table.statistics(sums)
        return encode_counts(list(zip(self.table.names, statistics.T, strict=True)), self._encoders, len(sums))

    def lookup(self, codes: I64) -> F64:
        """Sums of combined codes, as of `CountTable.sums_of`."""
        found = self.table.sums_of(codes)
        slots = self._found(codes)
        found[slots >= 0] = self._sums[slots[slots >= 0]]
        return found

    def _found(self, codes: I64) -> I64:
        get = self._slots.get
        return np.fromiter((get(code, -1) for code in codes.tolist()), dtype=np.int64, count=len(codes))

    def written(self, block: Block, codes: I64, categorical: int = 0, numeric: int = 0) -> Block:
        """Write the statistics of changed keys into a block of rows with the statistics of the table; the block.

        Args:
            block: R rows; changed in place.
            codes: int64 [R] combined codes.
            categorical: place of the first categorical column of the table.
            numeric: likewise of the numbers.
        """
        if not self._slots:
            return block
        slots = self._found(codes)
        changed = np.flatnonzero(slots >= 0)
        if len(changed):
            rows, taken = torch.from_numpy(changed), torch.from_numpy(slots[changed])
            width = self._block.categorical.shape[1]
            block.categorical[rows, categorical : categorical + width] = self._block.categorical[taken]
            block.numeric[rows, numeric : numeric + width] = self._block.numeric[taken]
        return block
