"""Sets of item rows as the index takes them: one packed bitmap for a whole request, row lists for single queries.

A `Bitmap` says which items may be returned at all (a category, a price range, an allow or block list); exclusions, a
`Ragged`, are the further items that a single query must not get (the history of its user).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...base.arrays import I64, Bool
from ...base.errors import ConfigError
from ...base.ragged import Ragged, pair_keys


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A set of item rows, one bit each.

    Args:
        bits: uint8 [ceil(size / 8)], little-endian bits (row r is bit r % 8 of byte r // 8); bits past `size` are 0.
        size: number of rows that the set speaks about, N.
    """

    bits: NDArray[np.uint8]
    size: int

    def __post_init__(self) -> None:
        """Freeze the bytes and check their number."""
        if self.bits.dtype != np.uint8 or self.bits.shape != ((self.size + 7) // 8,):
            raise ConfigError(
                f"a bitmap over {self.size} rows needs {(self.size + 7) // 8} uint8 bytes, "
                f"got {self.bits.dtype} {list(self.bits.shape)}; use Bitmap.from_mask or Bitmap.from_rows"
            )
        self.bits.flags.writeable = False

    @classmethod
    def from_mask(cls, mask: ArrayLike) -> Bitmap:
        """The rows where `mask`, bool [N], is true."""
        dense = np.asarray(mask)
        if dense.ndim != 1 or dense.dtype != np.bool_:
            raise ConfigError(f"a mask must be bool [N], got {dense.dtype} {list(dense.shape)}")
        return cls(np.packbits(dense, bitorder="little"), len(dense))

    @classmethod
    def from_rows(cls, rows: ArrayLike, size: int) -> Bitmap:
        """The given rows, of `size` (an allow list; `~` turns it into a block list)."""
        listed = as_rows(rows)
        if len(listed) and (listed.min() < 0 or listed.max() >= size):
            worst = int(listed.min()) if listed.min() < 0 else int(listed.max())
            raise ConfigError(f"row {worst} is outside the {size} item rows; give rows in 0..{size - 1}")
        mask = np.zeros(size, dtype=np.bool_)
        mask[listed] = True
        return cls.from_mask(mask)

    @cached_property
    def count(self) -> int:
        """Number of rows in the set."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    @cached_property
    def rows(self) -> I64:
        """The rows in the set, ascending: int64 [count]."""
        return np.flatnonzero(self.mask()).astype(np.int64, copy=False)

    def mask(self) -> Bool:
        """The set as bool [size]."""
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_)

    def contains(self, rows: ArrayLike) -> Bool:
        """Whether each row is in the set; a negative row (a pad) or one past `size` is not."""
        asked = np.asarray(rows, dtype=np.int64)
        inside = (asked >= 0) & (asked < self.size)
        safe = np.where(inside, asked, 0)
        if not self.size:
            return inside
        found: Bool = inside & ((self.bits[safe >> 3] >> (safe & 7).astype(np.uint8)) & 1).astype(bool)
        return found

    def __and__(self, other: Bitmap) -> Bitmap:
        """The rows in both sets."""
        return Bitmap(self.bits & self._same_size(other).bits, self.size)

    def __or__(self, other: Bitmap) -> Bitmap:
        """The rows in either set."""
        return Bitmap(self.bits | self._same_size(other).bits, self.size)

    def __invert__(self) -> Bitmap:
        """The rows that are not in the set."""
        flipped = ~self.bits
        if self.size % 8:
            flipped[-1] &= (1 << (self.size % 8)) - 1
        return Bitmap(flipped, self.size)

    def _same_size(self, other: Bitmap) -> Bitmap:
        if other.size != self.size:
            raise ConfigError(
                f"cannot combine filters over {self.size} and {other.size} rows; build both for one index"
            )
        return other


ExcludedRows = Ragged | Sequence[Any]
"""What `search` takes as exclusions: lists per query, as `Ragged` or as one list or array of rows each.

The rows stand in any order, repeats are allowed, and rows that are not in the index are ignored.
"""


def as_exclusions(excluded: ExcludedRows, num_queries: int) -> Ragged:
    """The excluded rows of each query.

    Raises:
        ConfigError: they are of another number of queries, or no whole numbers.
    """
    lists = excluded if isinstance(excluded, Ragged) else Ragged.from_lists([as_rows(rows) for rows in excluded])
    if len(lists) != num_queries:
        raise ConfigError(
            f"exclusions for {len(lists)} queries came with {num_queries} queries; give one list per query"
        )
    return lists


def excluded_pairs(excluded: Ragged, num_rows: int) -> tuple[I64, I64]:
    """The distinct excluded (query, row) pairs inside the index, ascending: two int64 arrays of one length."""
    inside = (excluded.items >= 0) & (excluded.items < num_rows)
    keys = np.unique(pair_keys(excluded.users[inside], excluded.items[inside], num_rows))
    return keys // max(num_rows, 1), keys % max(num_rows, 1)


def as_rows(rows: ArrayLike) -> I64:
    """Item rows as int64 [n]; anything but whole numbers is refused."""
    listed = np.asarray(rows)
    if listed.ndim == 1 and len(listed) == 0:
        return np.empty(0, dtype=np.int64)
    if listed.ndim != 1 or listed.dtype.kind not in "iu":
        raise ConfigError(f"item rows must be whole numbers [n], got {listed.dtype} {list(listed.shape)}")
    return listed.astype(np.int64, copy=False)
