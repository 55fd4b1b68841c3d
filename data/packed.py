"""Encoded rows as they are stored: row-major, packed by dtype, so that a batch is one gather a dtype.

Most columns are buckets of numbers or codes of small vocabularies, and one byte holds them. Batches widen: models add
the offset of a vocabulary to int64 rows, and a sum of two integer dtypes costs many times one of a single dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base.arrays import F32, I32, I64, AnyArray, Ints
from .batch import Block, SideLayout

U8 = NDArray[np.uint8]
SMALL = 256
"""Vocabularies of at most so many rows are stored as uint8."""
SIDES = {
    "users": ("user",),
    "items": ("item",),
    "row_query": ("context", "query_counts", "query_derived"),
    "row_item": ("item_counts", "item_derived"),
}
"""Tables of a data set, and the sides whose columns each holds, one after the other."""


@dataclass(frozen=True)
class Packed:
    """Values of one table for `R` rows; what `Block` holds for a batch. Arrays may be mapped from files, read-only.

    Attributes:
        narrow: of each categorical column, in the order of the layout, whether it stands in `small`, else in `wide`.
        small: uint8 [R, a] vocabulary rows.
        wide: int32 [R, b] vocabulary rows.
        numbers: float32 [R, n], NaN where missing.
        bags: int32 [R, L_j] vocabulary rows per multi-valued feature, 0 pads.
        vectors: float32 [R, d_j] per vector feature.
    """

    narrow: tuple[bool, ...]
    small: U8
    wide: I32
    numbers: F32
    bags: tuple[I32, ...] = ()
    vectors: tuple[F32, ...] = ()

    @classmethod
    def of(cls, block: Block, sizes: Sequence[int] | None = None) -> Packed:
        """Pack the values of a block without sequences.

        Args:
            block: R rows.
            sizes: rows of the vocabulary of each categorical column; none is taken for small when None.
        """
        codes = block.categorical.numpy()
        narrow = (False,) * codes.shape[1] if sizes is None else tuple(size <= SMALL for size in sizes)
        chosen = np.array(narrow, dtype=np.bool_)
        return cls(
            narrow,
            codes[:, chosen].astype(np.uint8, order="C"),
            codes[:, ~chosen].astype(np.int32, order="C"),
            np.ascontiguousarray(block.numeric.numpy()),
            tuple(bag.numpy().astype(np.int32, order="C") for bag in block.bags),
            tuple(np.ascontiguousarray(vector.numpy()) for vector in block.vectors),
        )

    @classmethod
    def from_arrays(cls, narrow: tuple[bool, ...], arrays: Mapping[str, AnyArray]) -> Packed:
        """From what `arrays` gave."""
        several = {
            kind: tuple(arrays[f"{kind}/{i}"] for i in range(sum(name.startswith(f"{kind}/") for name in arrays)))
            for kind in ("bags", "vectors")
        }
        return cls(narrow, arrays["small"], arrays["wide"], arrays["numbers"], several["bags"], several["vectors"])

    def arrays(self) -> dict[str, AnyArray]:
        """The arrays by name: `small`, `wide`, `numbers`, `bags/0` and so on, `vectors/0` and so on."""
        found: dict[str, AnyArray] = {"small": self.small, "wide": self.wide, "numbers": self.numbers}
        for kind, columns in (("bags", self.bags), ("vectors", self.vectors)):
            found |= {f"{kind}/{place}": array for place, array in enumerate(columns)}
        return found

    @property
    def rows(self) -> int:
        """R."""
        return len(self.numbers)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        arrays: tuple[AnyArray, ...] = (self.small, self.wide, self.numbers, *self.bags, *self.vectors)
        return sum(array.itemsize * array.shape[1] for array in arrays)

    def codes(self, column: int, rows: Ints | None = None) -> I64:
        """Vocabulary rows of one categorical column, int64: of the given rows, or of all R."""
        place = self.narrow[:column].count(self.narrow[column])
        codes = (self.small if self.narrow[column] else self.wide)[:, place]
        return (codes if rows is None else codes[rows]).astype(np.int64)

    def select(self, rows: Tensor | Ints) -> Block:
        """The given rows (int64 [R']) as a block."""
        return select_joined([(self, rows)])

    def whole(self) -> Block:
        """All rows as a block: a copy in memory."""
        return self.select(np.arange(self.rows))

    def blank(self, rows: int) -> Packed:
        """As many columns of zeros, for rows of which nothing is read."""
        arrays = (self.small, self.wide, self.numbers)
        small, wide, numbers = (np.zeros((rows, array.shape[1]), array.dtype) for array in arrays)
        bags = tuple(np.zeros((rows, bag.shape[1]), bag.dtype) for bag in self.bags)
        vectors = tuple(np.zeros((rows, vector.shape[1]), vector.dtype) for vector in self.vectors)
        return Packed(self.narrow, small, wide, numbers, bags, vectors)

    def write(self, rows: I64, block: Block) -> None:
        """Overwrite rows, int64 [n], with the values of a block without sequences; the arrays must be writable."""
        chosen = np.array(self.narrow, dtype=np.bool_)
        codes = block.categorical.numpy()
        self.small[rows], self.wide[rows] = codes[:, chosen], codes[:, ~chosen]
        self.numbers[rows] = block.numeric.numpy()
        for own, values in zip((*self.bags, *self.vectors), (*block.bags, *block.vectors), strict=True):
            own[rows] = 0
            own[rows, : values.shape[1]] = values.numpy()[:, : own.shape[1]]

    @cached_property
    def _runs(self) -> tuple[tuple[bool, slice], ...]:
        """Neighbouring columns of one dtype, in the order of the layout: where they stand, and their places there."""
        runs, ends = [], {True: 0, False: 0}
        for narrow, columns in groupby(self.narrow):
            start = ends[narrow]
            ends[narrow] += len(list(columns))
            runs.append((narrow, slice(start, ends[narrow])))
        return tuple(runs)

    def _gathered(self, rows: Ints) -> Iterator[Tensor]:
        """Categorical columns of the given rows, in their order, piece by piece."""
        arrays = ((True, self.small), (False, self.wide))
        found = {narrow: _take(array, rows) for narrow, array in arrays if array.shape[1]}
        for narrow, places in self._runs:
            yield found[narrow][:, places]


def pack(blocks: Mapping[str, Block], sides: Mapping[str, SideLayout], sizes: Mapping[str, int]) -> dict[str, Packed]:
    """The tables of a data set.

    Args:
        blocks: values of each table, by the names of `SIDES`.
        sides: layout of each side; derived ones are absent in data sets of earlier versions.
        sizes: rows of every vocabulary.
    """
    columns = {
        name: [column for side in of if side in sides for column in sides[side].categorical]
        for name, of in SIDES.items()
    }
    return {name: Packed.of(block, [sizes[column] for column in columns[name]]) for name, block in blocks.items()}


def select_joined(parts: Sequence[tuple[Packed, Tensor | Ints]]) -> Block:
    """Rows of several tables side by side as one block, copied once.

    Args:
        parts: tables, each with the rows int64 [R'] to take from it.
    """
    taken = [(table, rows.numpy() if isinstance(rows, Tensor) else rows) for table, rows in parts]
    count = len(taken[0][1])
    empty = torch.empty(count, 0, dtype=torch.int64)  # what it is joined with becomes int64
    numbers = [_take(table.numbers, rows) for table, rows in taken if table.numbers.shape[1]]
    return Block(
        torch.cat([empty, *(piece for table, rows in taken for piece in table._gathered(rows))], dim=1),
        numbers[0] if len(numbers) == 1 else torch.cat([torch.empty(count, 0), *numbers], dim=1),
        tuple(_take(bag, rows).long() for table, rows in taken for bag in table.bags),
        (),
        tuple(_take(vector, rows) for table, rows in taken for vector in table.vectors),
    )


def _take(array: NDArray[np.generic], rows: Ints) -> Tensor:
    """Rows of a matrix [R, n]: numpy copies each as a whole, several times faster than an indexed tensor."""
    return torch.from_numpy(array.take(rows, axis=0))
