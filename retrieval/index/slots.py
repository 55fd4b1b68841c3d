"""Which item row lies in which slot of an append-only index.

A graph index cannot remove and no index can overwrite, so a replaced vector is appended in a new slot and the old slot
becomes a tombstone; rows, which the rest of the system knows, never move.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import I64
from .bitmap import Bitmap


class SlotMap:
    """Slots 0..num_slots - 1 of the index against item rows 0..num_rows - 1.

    While nothing was replaced or deleted, slot s is row s and no array is kept.
    """

    def __init__(self, num_rows: int) -> None:
        """Start with every row in the slot of its own number."""
        self.num_rows = num_rows
        self.num_slots = num_rows
        self._row_of: I64 | None = None  # slot -> row, -1 for a tombstone; longer than num_slots
        self._slot_of: I64 | None = None  # row -> slot, -1 for a deleted row; longer than num_rows
        self._deleted = 0
        self._alive: NDArray[np.uint8] | None = None
        self._translated: tuple[Bitmap, NDArray[np.uint8]] | None = None

    @classmethod
    def from_array(cls, row_of: I64, num_rows: int) -> SlotMap:
        """Rebuild the map from what `to_array` gave."""
        slots = cls(num_rows)
        slots.num_slots = len(row_of)
        slots._row_of = np.array(row_of, dtype=np.int64)
        slots._slot_of = np.full(num_rows, -1, dtype=np.int64)
        alive = np.flatnonzero(row_of >= 0)
        slots._slot_of[row_of[alive]] = alive
        slots._deleted = num_rows - len(alive)
        return slots

    def to_array(self) -> I64 | None:
        """The row of each slot, -1 for tombstones: int64 [num_slots]; None while slot s is row s."""
        return None if self._row_of is None else self._row_of[: self.num_slots]

    @property
    def size(self) -> int:
        """Number of rows that are not deleted."""
        return self.num_rows - self._deleted

    @property
    def pristine(self) -> bool:
        """Whether slot s is row s and no slot is a tombstone."""
        return self._row_of is None

    @property
    def dead(self) -> int:
        """Number of tombstones."""
        return self.num_slots - self.size

    def rows(self, slots: I64) -> I64:
        """The rows in the given slots; -1 stays -1."""
        if self._row_of is None:
            return slots
        found: I64 = np.where(slots >= 0, self._row_of[slots], -1)
        return found

    def slots(self, rows: I64) -> I64:
        """The slots of rows that are not deleted."""
        return rows if self._slot_of is None else self._slot_of[rows]

    def alive_rows(self) -> I64:
        """The rows that are not deleted, ascending."""
        if self._slot_of is None:
            return np.arange(self.num_rows, dtype=np.int64)
        return np.flatnonzero(self._slot_of[: self.num_rows] >= 0)

    def among(self, allowed: Bitmap) -> I64:
        """The rows of a filter that are not deleted, ascending."""
        if self._slot_of is None:
            return allowed.rows
        kept: I64 = allowed.rows[self._slot_of[allowed.rows] >= 0]
        return kept

    def count(self, allowed: Bitmap) -> int:
        """How many rows of a filter are not deleted."""
        return allowed.count if self._deleted == 0 else len(self.among(allowed))

    def append(self, rows: I64) -> None:
        """Give each row the next free slot; a slot that it held becomes a tombstone."""
        appended = np.arange(self.num_slots, self.num_slots + len(rows), dtype=np.int64)
        num_rows = max(self.num_rows, int(rows.max(initial=-1)) + 1)
        if self._row_of is None and np.array_equal(rows, appended):
            self.num_rows = self.num_slots = num_rows
            return
        row_of, slot_of = self._arrays(num_rows, self.num_slots + len(rows))
        held = slot_of[rows]
        row_of[held[held >= 0]] = -1
        self._deleted -= int((held[rows < self.num_rows] < 0).sum())
        row_of[appended] = rows
        slot_of[rows] = appended
        self.num_slots += len(rows)
        self.num_rows = num_rows
        self._alive = self._translated = None

    def delete(self, rows: I64) -> None:
        """Turn the slots of the given rows into tombstones."""
        row_of, slot_of = self._arrays(self.num_rows, self.num_slots)
        held = slot_of[rows]
        gone = np.unique(held[held >= 0])
        row_of[gone] = -1
        slot_of[rows] = -1
        self._deleted += len(gone)
        self._alive = self._translated = None

    def bits(self, allowed: Bitmap | None) -> NDArray[np.uint8]:
        """The slots that may be returned, packed as `Bitmap` packs: uint8 [ceil(num_slots / 8)]."""
        if self._row_of is None:
            return Bitmap.from_mask(np.ones(self.num_slots, dtype=np.bool_)).bits if allowed is None else allowed.bits
        row_of = self._row_of[: self.num_slots]
        if allowed is None:
            if self._alive is None:
                self._alive = np.packbits(row_of >= 0, bitorder="little")
            return self._alive
        translated = self._translated
        if translated is None or translated[0] is not allowed:
            mask = np.append(allowed.mask(), np.False_)  # a tombstone's -1 reads the False at the end
            translated = (allowed, np.packbits(mask[row_of], bitorder="little"))
            self._translated = translated
        return translated[1]

    def _arrays(self, num_rows: int, num_slots: int) -> tuple[I64, I64]:
        """Both directions as arrays with room for the asked numbers; growth is geometric, so appends stay cheap."""
        if self._row_of is None or self._slot_of is None:
            self._row_of = np.arange(self.num_slots, dtype=np.int64)
            self._slot_of = np.arange(self.num_rows, dtype=np.int64)
        self._row_of = _with_room(self._row_of, num_slots)
        self._slot_of = _with_room(self._slot_of, num_rows)
        return self._row_of, self._slot_of


def _with_room(array: I64, length: int) -> I64:
    if len(array) >= length:
        return array
    grown = np.full(max(length, len(array) + len(array) // 4), -1, dtype=np.int64)
    grown[: len(array)] = array
    return grown


def write_slots(path: Path, row_of: I64) -> None:
    """Write the row of each slot as little-endian 64-bit numbers."""
    row_of.astype("<i8").tofile(path)


def read_slots(path: Path) -> I64:
    """Read what `write_slots` wrote (the manifest has checked its length and hash)."""
    return np.fromfile(path, dtype="<i8").astype(np.int64)
