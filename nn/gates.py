"""Gates that scale embeddings: GateNet's per-field gate, GemNN's joint gate (GateNet's hidden gate: `nn.activation`).

GateNet (arXiv 2007.03519) gates a field by what that field says; GemNN (SIGIR 2021) gates every coordinate by what all
fields say together. GateNet's bit-wise private gate is GemNN's with a block-diagonal weight and no bias.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..base.settings import Settings
from .activation import Activation, activate
from .features import Encoded, SideFields
from .split import SplitInput


class FieldGateConfig(Settings):
    """GateNet's gate on each field's embedding."""

    kind: Literal["none", "vector", "bit"] = "none"
    """`vector`: one number per field; `bit`: one per coordinate; `none`: no gate."""
    sharing: Literal["private", "shared"] = "private"
    """Whether every field has its own gate weights or all fields share them."""
    activation: Activation = "sigmoid"
    """Of the gate's output."""


class JointGateConfig(Settings):
    """GemNN's gate on the concatenated embeddings: each coordinate's gate sees every field."""

    enabled: bool = False
    """Put the gate between the embeddings and the network."""
    activation: Activation = "sigmoid"
    """Of the gate's output; the paper's choice could not be verified."""
    bias: bool = True
    """Whether the gate has a bias; the paper's choice could not be verified."""
    rank: int = Field(default=0, ge=0)
    """Factorise the D x D weight to this rank; 0 keeps it full."""
    scale: float = Field(default=1.0, gt=0)
    """Multiplies the gate: 2 with a sigmoid starts near 1 (as in PPNet's gate unit)."""


class FieldGate(nn.Module):
    """GateNet's feature-embedding gate: `g_i = act(W_i e_i)`, output `e_i * g_i`; no bias, as in the paper.

    Parameters: vector private F K, vector shared K, bit private F K^2, bit shared K^2. Dense inputs pass unchanged.

    Args:
        num_fields: embedded fields of the query side and of the item side.
        dim: embedding width K.
        bitwise: a gate per coordinate instead of one per field.
        shared: one weight for all fields instead of one per field.
        activation: of the gate.
    """

    paper: ClassVar[str] = "Huang et al. 2020 (GateNet)"

    def __init__(
        self, num_fields: tuple[int, int], dim: int, *, bitwise: bool, shared: bool, activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        self.num_query, self.shared, self.activation = num_fields[0], shared, activation
        weight = torch.empty(1 if shared else sum(num_fields), dim, dim if bitwise else 1)
        for matrix in weight:
            nn.init.xavier_uniform_(matrix)
        self.weight = nn.Parameter(weight)  # [F or 1, K, K or 1]

    def gate(self, fields: Tensor, weight: Tensor) -> Tensor:
        """Gate values of one side: [R, F, K], [F or 1, K, G] -> [R, F, G]."""
        projected = fields @ weight[0] if self.shared else torch.einsum("rfk,fkg->rfg", fields, weight)
        return activate(projected, self.activation)

    def scaled(self, fields: Tensor, weight: Tensor) -> Tensor:
        """Fields of one side and their gates' weights -> scaled fields: [R, F, K], [F or 1, K, G] -> [R, F, K]."""
        return fields * self.gate(fields, weight)

    def forward(self, encoded: Encoded) -> Encoded:
        """Scale the fields of both sides; each side by itself, so the query side is still computed once."""
        split = 1 if self.shared else self.num_query
        query_weight, item_weight = self.weight[:split], self.weight if self.shared else self.weight[split:]

        def side(fields: SideFields, weight: Tensor) -> SideFields:
            return replace(fields, fields=self.scaled(fields.fields, weight))

        return Encoded(side(encoded.query, query_weight), side(encoded.item, item_weight), encoded.owner)


def build_field_gate(config: FieldGateConfig, num_fields: tuple[int, int], dim: int) -> FieldGate | None:
    """The gate that is configured, if any; see `FieldGate`."""
    if config.kind == "none":
        return None
    bitwise, shared = config.kind == "bit", config.sharing == "shared"
    return FieldGate(num_fields, dim, bitwise=bitwise, shared=shared, activation=config.activation)


class JointGate(nn.Module):
    """GemNN's bit-wise gate: `x' = x * scale act(W x + b)`, between the embedding layer and the first dense layer.

    Parameters: D^2 + D, or 2 D r + D at rank r (D fewer without bias). Abstract read, body not: activation and bias
    are options, the defaults are ours.

    Args:
        width: D.
        activation: of the gate.
        bias: whether the gate has one.
        rank: rank of W; 0 for full.
        scale: factor on the gate.
    """

    paper: ClassVar[str] = "Fei et al. SIGIR 2021 (GemNN)"

    def __init__(
        self, width: int, *, activation: str = "sigmoid", bias: bool = True, rank: int = 0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.activation, self.scale = activation, scale
        self.down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, width))) if rank else None
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, rank or width)))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def gate(self, x: SplitInput) -> Tensor:
        """Gate values, [R, D]."""
        if self.down is None:
            projected = x.linear(self.weight, self.bias)
        else:
            projected = nn.functional.linear(x.linear(self.down), self.weight, self.bias)
        return self.scale * activate(projected, self.activation)

    def forward(self, x: SplitInput) -> SplitInput:
        """Input [R, D] -> gated input [R, D]; every coordinate now depends on both sides, so the split ends here."""
        return SplitInput.of(x.flat() * self.gate(x))
