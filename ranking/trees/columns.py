"""What trees read of a batch: one matrix of codes, numbers, lists and vectors, without ids and sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.arrays import F32
from ...base.device import to_host
from ...data.batch import Batch, Block, Layout, SideLayout
from ...data.dataset import Dataset
from .settings import TreeSettings

BLOCK = 16_384
"""Logged rows encoded at once."""


@dataclass(frozen=True)
class Side:
    """Columns of one side of a batch.

    Attributes:
        codes: positions of the categorical columns that are read.
        bags: of each list its vocabulary's size, 0 where only its length is read.
        names: of all columns, the codes first.
    """

    codes: tuple[int, ...]
    bags: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, side: SideLayout, layout: Layout, settings: TreeSettings) -> Side:
        """The columns of a side; buckets of a number are left out beside the number."""
        sizes, numbers = layout.sizes, {*layout.query.numeric, *layout.item.numeric}
        codes = tuple(
            place
            for place, name in enumerate(side.categorical)
            if name not in numbers and sizes[name] <= settings.most_values
        )
        bags = tuple(sizes[name] if sizes[name] <= settings.bag_values else 0 for name in side.bags)
        names = [side.categorical[place] for place in codes] + list(side.numeric)
        for name, size in zip(side.bags, bags, strict=True):
            names += [f"{name} has value {value}" for value in range(1, size)] if size else [f"{name} length"]
        names += [f"{name} {place}" for name, width in side.vectors for place in range(width)]
        return cls(codes, bags, tuple(names))

    def table(self, block: Block) -> Tensor:
        """Values of R rows, float32 [R, F]."""
        parts = [block.categorical[:, list(self.codes)].float(), block.numeric]
        for bag, size in zip(block.bags, self.bags, strict=True):
            if size:
                times = torch.zeros(bag.shape[0], size).scatter_add_(1, bag, torch.ones(bag.shape))
                parts.append(times[:, 1:])  # value 0 pads
            else:
                parts.append((bag > 0).sum(1, keepdim=True).float())
        return torch.cat([*parts, *block.vectors], dim=1)


@dataclass(frozen=True)
class Columns:
    """Columns of both sides."""

    query: Side
    item: Side

    @classmethod
    def of(cls, layout: Layout, settings: TreeSettings) -> Columns:
        """What is read of batches with this layout."""
        return cls(Side.of(layout.query, layout, settings), Side.of(layout.item, layout, settings))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of `table`."""
        return self.query.names + self.item.names

    @property
    def categories(self) -> list[int]:
        """Columns of `table` that hold codes."""
        item = len(self.query.names)
        return [*range(len(self.query.codes)), *range(item, item + len(self.item.codes))]

    def table(self, batch: Batch) -> F32:
        """Values of the batch's R rows, float32 [R, F]; NaN where a number is missing."""
        batch = batch.to("cpu")
        query = self.query.table(batch.query)
        if batch.owner is not None:
            query = query.index_select(0, batch.owner)
        return to_host(torch.cat([query, self.item.table(batch.item)], dim=1))

    def of_rows(self, dataset: Dataset, rows: Tensor) -> F32:
        """Values of logged rows (int64 [R]), float32 [R, F]."""
        found = np.empty((len(rows), len(self.names)), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            found[start : start + BLOCK] = self.table(dataset.batch(rows[start : start + BLOCK]))
        return found
