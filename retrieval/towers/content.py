"""The content of a row: the sum of the embeddings of its columns, of an item's and of a user's own features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...data.batch import Block, SideLayout
from ...nn.embedding import EmbeddingTable, mean_share
from ...nn.gates import FieldGateConfig, build_field_gate
from ...nn.mlp import init_linear


class ContentSum(nn.Module):
    """Sum of the embeddings of a block's columns, each through its gate if there are gates: [R] rows -> [R, D]."""

    offsets: Tensor

    def __init__(self, layout: SideLayout, table: EmbeddingTable, gate: FieldGateConfig) -> None:
        super().__init__()
        self._table = (table,)  # held by reference: its parameters belong to the tower
        self.register_buffer("offsets", table.offsets_of(layout.categorical), persistent=False)
        self.bag_offsets: list[int] = table.offsets_of(layout.bags).tolist()
        self.vectors = nn.ModuleList(
            init_linear(nn.Linear(width, table.dim), relu=False) for _, width in layout.vectors
        )
        self.gate = build_field_gate(gate, (0, len(layout.categorical) + len(layout.bags)), table.dim)

    def forward(self, block: Block) -> Tensor:
        """Block of R rows -> float [R, D]."""
        (table,) = self._table
        bags = [(bag + offset, mean_share(bag > 0)) for bag, offset in zip(block.bags, self.bag_offsets, strict=True)]
        rows = block.categorical + self.offsets
        if self.gate is not None:
            fields = torch.cat([table(rows), *(table.pooled(*bag)[:, None] for bag in bags)], dim=1)  # [R, F, D]
            total = self.gate.scaled(fields, self.gate.weight).sum(1)
        else:  # summed without being written down
            whole = torch.ones_like(rows, dtype=table.dtype)
            shares = torch.cat([whole, *(share for _, share in bags)], dim=1)
            total = table.pooled(torch.cat([rows, *(bag for bag, _ in bags)], dim=1), shares)
        for linear, values in zip(self.vectors, block.vectors, strict=True):
            total = total + linear(values)
        return total
