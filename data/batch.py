"""Tensors of one step. A row of a ranking batch is a (query, item) pair.

The *query* side holds what is known of the user and the moment; the *item* side what is known of the item and, as
cross statistics, of the pair. One user scored against many candidates is a batch with one query row and many item rows:
`owner[r]` says which query row item row `r` belongs to, so that models compute the query side once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..base.device import to_device


@dataclass(frozen=True)
class SequenceField:
    """A sequence feature: each of its elements is described by `of` item features and by `properties`.

    Attributes:
        name: feature name.
        of: vocabulary of each described item feature, one per column of the sequence tensor.
        properties: vocabulary of each behaviour property (log time gap, ...), one per further column.
        length: most elements kept.
    """

    name: str
    of: tuple[str, ...]
    properties: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class SideLayout:
    """Which columns the tensors of one side hold, in order.

    Attributes:
        categorical: vocabulary name of each column of `Block.categorical` (bucketised numbers included).
        numeric: name of each column of `Block.numeric`.
        bags: vocabulary name of each multi-valued feature.
        sequences: sequence features (query side only).
        vectors: (name, width) of each pre-computed vector feature.
    """

    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    bags: tuple[str, ...] = ()
    sequences: tuple[SequenceField, ...] = ()
    vectors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Layout:
    """Columns of both sides, and what their codes are rows of.

    Attributes:
        query: columns of the query side.
        item: columns of the item side.
        sizes: column -> rows of its vocabulary (row 0 pads, row 1 is 'unknown').
        shared: column -> the feature whose vocabulary, and rows of the embedding table, it has too.
    """

    query: SideLayout
    item: SideLayout
    sizes: Mapping[str, int]
    shared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Values of one side for `R` rows.

    Attributes:
        categorical: int64 [R, F] vocabulary rows.
        numeric: float32 [R, n], NaN where missing.
        bags: int64 [R, L_j] vocabulary rows per multi-valued feature, 0 pads.
        sequences: int64 [R, L_j, of + properties] per sequence, oldest first, 0 pads at the end.
        vectors: float32 [R, d_j] per vector feature.
    """

    categorical: Tensor
    numeric: Tensor
    bags: tuple[Tensor, ...] = ()
    sequences: tuple[Tensor, ...] = ()
    vectors: tuple[Tensor, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.categorical.shape[0]  # as it is: int() would fix the number of rows of an exported program

    def map(self, change: Callable[..., Tensor], *others: Block) -> Block:
        """A block of the changed tensors.

        Args:
            change: called with each tensor of this block and the tensors of `others` in the same place.
            others: blocks of as many bags, sequences and vectors.
        """
        blocks = (self, *others)

        def each(name: str) -> tuple[Tensor, ...]:
            return tuple(change(*tensors) for tensors in zip(*(getattr(b, name) for b in blocks), strict=True))

        return Block(
            change(*(block.categorical for block in blocks)),
            change(*(block.numeric for block in blocks)),
            each("bags"),
            each("sequences"),
            each("vectors"),
        )

    def select(self, rows: Tensor) -> Block:
        """The given rows (int64 [R']) as a block."""
        bags, sequences, vectors = (
            tuple([tensor.index_select(0, rows) for tensor in tensors]) if tensors else ()
            for tensors in (self.bags, self.sequences, self.vectors)
        )
        categorical, numeric = self.categorical.index_select(0, rows), self.numeric.index_select(0, rows)
        return Block(categorical, numeric, bags, sequences, vectors)

    def overwrite(self, rows: Tensor, others: Block) -> None:
        """Put other values into rows, int64 [n], in place; bags may be narrower, 0 pads."""

        def put(own: Tensor, values: Tensor) -> Tensor:
            own[rows] = torch.nn.functional.pad(values, (0, own.shape[1] - values.shape[1]))
            return own

        self.map(put, others)

    def padded(self, rows: int) -> Block:
        """This block with rows of zeros behind it, `rows` in all."""
        return self.map(lambda own: torch.cat([own, own.new_zeros(rows - own.shape[0], *own.shape[1:])]))

    def to(self, device: torch.device | str) -> Block:
        """This block on `device`: itself where it is there."""
        if self.categorical.device == torch.device(device):
            return self
        return self.map(lambda tensor: to_device(tensor, device))


def _empty() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of one ranking step.

    Attributes:
        query: user and context values, Q rows.
        item: item and pair values, R rows.
        owner: int64 [R] query row of each item row; None when row r of one side meets row r of the other (Q = R).
        labels: float32 [R, T], 0 where masked; empty when serving.
        mask: bool [R, T], whether the row lies in the task's sample space.
        weight: float32 [R] training weight of each row; [R, T] where tasks have weights of their own.
    """

    query: Block
    item: Block
    owner: Tensor | None = None
    labels: Tensor = field(default_factory=_empty)
    mask: Tensor = field(default_factory=_empty)
    weight: Tensor = field(default_factory=_empty)

    @property
    def rows(self) -> int:
        """Number of scored rows R."""
        return self.item.rows if self.owner is not None else max(self.query.rows, self.item.rows)

    def select(self, rows: Tensor) -> Batch:
        """Scored rows `rows` as a batch of their own (query rows are kept whole when `owner` is set)."""
        query = self.query.select(rows) if self.owner is None else self.query
        owner = None if self.owner is None else self.owner.index_select(0, rows)
        rest = {
            name: tensor.index_select(0, rows) if tensor.numel() else tensor
            for name, tensor in (("labels", self.labels), ("mask", self.mask), ("weight", self.weight))
        }
        return Batch(query=query, item=self.item.select(rows), owner=owner, **rest)

    def to(self, device: torch.device | str) -> Batch:
        """This batch on `device`: itself where it is there."""
        if self.item.categorical.device == torch.device(device):
            return self
        return Batch(
            query=self.query.to(device),
            item=self.item.to(device),
            owner=None if self.owner is None else to_device(self.owner, device),
            labels=to_device(self.labels, device),
            mask=to_device(self.mask, device),
            weight=to_device(self.weight, device),
        )


def join_blocks(blocks: Sequence[Block]) -> Block:
    """Blocks of equal rows side by side."""
    categorical, numeric = [], []
    bags: tuple[Tensor, ...] = ()
    sequences, vectors = bags, bags
    for block in blocks:
        categorical.append(block.categorical)
        numeric.append(block.numeric)
        bags, sequences, vectors = bags + block.bags, sequences + block.sequences, vectors + block.vectors
    return Block(torch.cat(categorical, dim=1), torch.cat(numeric, dim=1), bags, sequences, vectors)


def join_layouts(layouts: Sequence[SideLayout], sequences: tuple[SequenceField, ...]) -> SideLayout:
    """Layout of `join_blocks`."""
    return SideLayout(
        tuple(name for layout in layouts for name in layout.categorical),
        tuple(name for layout in layouts for name in layout.numeric),
        tuple(name for layout in layouts for name in layout.bags),
        sequences,
        tuple(vector for layout in layouts for vector in layout.vectors),
    )
