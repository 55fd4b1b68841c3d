"""Bricks of the multi-task rankers: experts as one batched product, gates, mixtures, towers.

Everything that reads the model input goes through `read_together`, which multiplies the input once with all their first
weights side by side, and everything that mixes experts goes through `mix`, one batched product for all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.settings import Settings
from ..nn.activation import HiddenGate, relu
from ..nn.dropout import FastDropout
from ..nn.mlp import MLP, init_linear
from ..nn.split import SplitInput

SMALL_PRODUCT = 400
"""PyTorch's CPU batched product leaves its fast kernel below this many multiplications per row."""

FEW_EXPERTS = 16
"""Below this many, a softmax along the first axis is up to five times as fast as along the last (measured)."""


class GateConfig(Settings):
    """How a gate weighs its experts; the defaults are the papers': one linear layer without bias, then softmax."""

    bias: bool = False
    """Whether the gate's linear layer has a bias."""
    hidden: tuple[int, ...] = ()
    """Hidden layers of the gate; none in the papers."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the gate's logits: above 1 spreads the weight over the experts."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a row goes without an expert in training; the other weights are renormalised."""


class FirstLayer(Protocol):
    """Something that starts with a linear layer of the model input: `read_together` runs many of them at once."""

    @property
    def first(self) -> tuple[Tensor, Tensor | None]:
        """Weight [N, D] and bias [N] of the first layer."""

    def finish(self, projected: Tensor) -> Tensor:
        """What follows the first layer: [R, N] -> result."""


def read_together(x: SplitInput, readers: Sequence[FirstLayer]) -> list[Tensor]:
    """Results of several readers of the same input, their first layers as one product.

    Args:
        x: model input [R, D].
        readers: experts and gates.

    Returns:
        Each reader's result, in order.
    """
    weights, biases = zip(*(reader.first for reader in readers), strict=True)
    if len(readers) == 1:
        return [readers[0].finish(x.linear(weights[0], biases[0]))]
    projected = x.linears(weights, biases)
    return [reader.finish(part) for reader, part in zip(readers, projected, strict=True)]


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sums of experts, all mixtures in one batched product: [R, S, E], [R, E, H] -> [R, S, H]."""
    mixtures, num_experts, hidden = weights.shape[1], experts.shape[1], experts.shape[2]
    needed = -(-SMALL_PRODUCT // max(1, num_experts * hidden))
    if mixtures >= needed:
        return torch.bmm(weights, experts)
    return torch.bmm(F.pad(weights, (0, 0, 0, needed - mixtures)), experts)[:, :mixtures]


def softmax(x: Tensor) -> Tensor:
    """Softmax over the experts, the last axis: [R, E] -> [R, E]."""
    if x.shape[1] < FEW_EXPERTS:
        return torch.softmax(x.t(), dim=0).t()  # PyTorch's kernel for the first axis works on many rows at once
    return torch.softmax(x, dim=1)


class Experts(nn.Module):
    """E expert networks with independent weights, computed together.

    The first layer is one product with a weight [E * H, D]; deeper layers are one batched product each.

    Args:
        width: input width D.
        num_experts: E.
        hidden: widths of every expert's layers; the last is H.
        dropout: probability after each layer.
        hidden_gate: activation of GateNet's gate after each layer, or `none`.
        normalise: layer-normalise each expert before its last activation, which becomes Swish instead of ReLU. HoME
            (arXiv 2408.05430) does it with batch normalisation against dying and diverging experts; a layer norm keeps
            rows independent of each other.
    """

    dense: ClassVar = ("finish",)
    """Methods that `runtime.compile` compiles."""

    def __init__(
        self,
        width: int,
        num_experts: int,
        hidden: Sequence[int],
        *,
        dropout: float = 0.0,
        hidden_gate: str = "none",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.num_experts, self.hidden, self.normalise = num_experts, tuple(hidden), normalise
        first = self.hidden[0]
        self.weight = nn.Parameter(_he(torch.empty(num_experts * first, width), width))
        self.bias = nn.Parameter(torch.zeros(num_experts * first))
        self.deep_weight = nn.ParameterList(
            _he(torch.empty(num_experts, below, above), below)
            for below, above in zip(self.hidden, self.hidden[1:], strict=False)
        )
        self.deep_bias = nn.ParameterList(torch.zeros(num_experts * above) for above in self.hidden[1:])
        gated = hidden_gate != "none"
        self.gates = nn.ModuleList(HiddenGate(h, hidden_gate, num_experts) for h in self.hidden if gated)
        self.dropout = FastDropout(dropout)

    @property
    def width(self) -> int:
        """Output width H of every expert."""
        return self.hidden[-1]

    @property
    def last_weight(self) -> nn.Parameter:
        """Weight of the last layer of all experts."""
        return self.deep_weight[-1] if len(self.deep_weight) else self.weight

    @property
    def first(self) -> tuple[Tensor, Tensor | None]:
        """See `FirstLayer`."""
        return self.weight, self.bias

    def finish(self, projected: Tensor) -> Tensor:
        """Pre-activations of the first layer [R, E * H1] -> expert outputs [R, E, H]."""
        x = self._activate(projected.reshape(-1, self.num_experts, self.hidden[0]), 0)
        for level, (weight, bias) in enumerate(zip(self.deep_weight, self.deep_bias, strict=True), 1):
            per_expert = torch.baddbmm(bias.view(self.num_experts, 1, -1), x.transpose(0, 1), weight)  # [E, R, H_level]
            deeper = per_expert.transpose(0, 1)
            x = self._activate(deeper, level)
        return x

    def _activate(self, x: Tensor, level: int) -> Tensor:
        """Pre-activations [R, E, H] -> what the next layer reads."""
        last = level == len(self.hidden) - 1
        x = F.silu(F.layer_norm(x, (x.shape[-1],))) if self.normalise and last else relu(x)
        if len(self.gates):
            x = self.gates[level](x.transpose(0, 1)).transpose(0, 1)
        dropped: Tensor = self.dropout(x)
        return dropped

    def forward(self, x: SplitInput) -> Tensor:
        """Model input [R, D] -> expert outputs [R, E, H]."""
        return read_together(x, [self])[0]


class Gate(nn.Module):
    """Softmax weights over experts, from the input alone: `softmax(W x / temperature)`.

    Args:
        width: input width D.
        num_experts: E.
        config: see `GateConfig`.
    """

    def __init__(self, width: int, num_experts: int, config: GateConfig) -> None:
        super().__init__()
        self.num_experts, self.temperature, self.dropout = num_experts, config.temperature, config.dropout
        layers = []
        for size in config.hidden:
            layers.append(init_linear(nn.Linear(width, size), relu=True))
            width = size
        layers.append(init_linear(nn.Linear(width, num_experts, bias=config.bias), relu=False))
        self.layers = nn.ModuleList(layers)

    @property
    def first(self) -> tuple[Tensor, Tensor | None]:
        """See `FirstLayer`."""
        layer: nn.Linear = self.layers[0]  # type: ignore[assignment]
        return layer.weight, layer.bias

    def scores(self, projected: Tensor) -> Tensor:
        """First layer [R, N] -> what the softmax is taken of, [R, E]."""
        x = projected
        for layer in list(self.layers)[1:]:
            x = layer(torch.relu(x))
        return x / self.temperature if self.temperature != 1.0 else x

    def finish(self, projected: Tensor) -> Tensor:
        """First layer [R, N] -> weights [R, E], which sum to 1 in every row."""
        x = self.scores(projected)
        if self.training and self.dropout > 0:
            dropped = torch.rand_like(x) < self.dropout
            dropped = dropped & ~dropped.all(1, keepdim=True)  # a row that would lose every expert keeps them all
            x = x.masked_fill(dropped, -math.inf)
        return softmax(x)

    def forward(self, x: SplitInput) -> Tensor:
        """Model input [R, D] -> weights [R, E]."""
        return read_together(x, [self])[0]


class Tower(nn.Module):
    """A task's own network: MLP, then one linear layer with bias to its logit (or to several outputs).

    Args:
        width: input width.
        hidden: widths of the MLP's layers; none makes the tower linear.
        outputs: number of outputs.
        dropout: probability after each hidden layer.
        hidden_gate: activation of GateNet's gate after each layer, or `none`.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], *, outputs: int = 1, dropout: float = 0.0, hidden_gate: str = "none"
    ) -> None:
        super().__init__()
        self.mlp = MLP(width, hidden, dropout, hidden_gate)
        self.output = init_linear(nn.Linear(self.mlp.width, outputs), relu=False)

    def forward(self, x: Tensor | SplitInput) -> Tensor:
        """Float [R, width] -> [R], or [R, outputs] with several outputs."""
        if isinstance(x, SplitInput) and not len(self.mlp):
            out = x.linear(self.output.weight, self.output.bias)
        else:
            out = self.output(self.mlp(x))
        return out.squeeze(1) if out.shape[1] == 1 else out


def _he(weight: Tensor, fan_in: int) -> Tensor:
    """Fill with He's uniform initialisation for layers before a ReLU."""
    return nn.init.uniform_(weight, -math.sqrt(6.0 / fan_in), math.sqrt(6.0 / fan_in))
