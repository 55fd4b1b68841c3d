"""Tables of event rows while they are encoded: column by column, each as narrow as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...base.arrays import F32, I32, AnyArray, Ints
from ..batch import SideLayout
from ..packed import SMALL, Packed
from ..shelf import Shelf


class RowColumns:
    """Columns that become one packed table.

    Args:
        layouts: of the sides that stand in it, one behind the other.
        rows: R.
        shelf: keeps the columns.
    """

    def __init__(self, layouts: Sequence[SideLayout], rows: int, shelf: Shelf) -> None:
        self._shelf = shelf
        self._categorical = [name for layout in layouts for name in layout.categorical]
        self._numeric = [name for layout in layouts for name in layout.numeric]
        self._codes: dict[str, Ints] = {}
        self._numbers: F32 = shelf.empty((rows, len(self._numeric)), np.float32)
        self._bags: list[I32] = []
        self._vectors: list[F32] = []
        self._rows = rows

    def add_codes(self, name: str, codes: Ints, size: int) -> None:
        """Vocabulary rows [R] of a categorical column with `size` of them."""
        self._codes[name] = self._shelf.keep(codes.astype(np.uint8 if size <= SMALL else np.int32, copy=False))

    def add_numbers(self, name: str, values: F32) -> None:
        """Scaled numbers [R] of a column."""
        self._numbers[:, self._numeric.index(name)] = values
        self._shelf.rest(self._numbers)

    def add_bag(self, codes: Ints) -> None:
        """Vocabulary rows [R, L] of the next multi-valued column."""
        self._bags.append(self._shelf.keep(codes.astype(np.int32, copy=False)))

    def add_vector(self, vectors: F32) -> None:
        """Vectors [R, d] of the next vector column."""
        self._vectors.append(self._shelf.keep(np.ascontiguousarray(vectors)))

    def packed(self) -> Packed:
        """The table; the columns are given up."""
        kinds = [self._codes[name].dtype for name in self._categorical]
        narrow = tuple(kind == np.uint8 for kind in kinds)
        return Packed(
            narrow,
            self._joined(np.dtype(np.uint8)),
            self._joined(np.dtype(np.int32)),
            self._numbers,
            tuple(self._bags),
            tuple(self._vectors),
        )

    def _joined(self, kind: np.dtype[Any]) -> AnyArray:
        names = [name for name in self._categorical if name in self._codes and self._codes[name].dtype == kind]
        if len(names) == 1:
            return self._codes.pop(names[0])[:, None]
        joined = self._shelf.empty((self._rows, len(names)), kind)
        for place, name in enumerate(names):
            joined[:, place] = self._codes.pop(name)
            self._shelf.rest(joined)
        return joined
