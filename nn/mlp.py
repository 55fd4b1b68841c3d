"""The plain multi-layer perceptron and its initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn

from .activation import HiddenGate, LayerActivation, Rectifier
from .dropout import FastDropout
from .split import SplitInput


def init_linear(linear: nn.Linear, relu: bool) -> nn.Linear:
    """He initialisation before a ReLU, Xavier otherwise; bias zero. Never constant: neurons must differ."""
    if relu:
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class MLP(nn.Sequential):
    """`width -> hidden[0] -> ... -> hidden[-1]`: linear, activation, hidden gate, dropout; the identity without layers.

    Args:
        width: input width.
        hidden: widths of the layers.
        dropout: probability after each layer.
        hidden_gate: activation of GateNet's gate after each layer, or `none`.
        activation: of each layer.
    """

    dense: ClassVar = ("forward",)
    """Methods that `runtime.compile` compiles."""

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        hidden_gate: str = "none",
        activation: LayerActivation = "relu",
    ) -> None:
        layers: list[nn.Module] = []
        relu = activation == "relu"
        for size in hidden:
            layers += [init_linear(nn.Linear(width, size), relu=relu), Rectifier() if relu else nn.Tanh()]
            if hidden_gate != "none":
                layers.append(HiddenGate(size, hidden_gate))
            if dropout > 0:
                layers.append(FastDropout(dropout))
            width = size
        super().__init__(*layers)
        self.width = width

    @property
    def last_weight(self) -> nn.Parameter:
        """Weight of the last linear layer."""
        return cast("nn.Parameter", [layer for layer in self if isinstance(layer, nn.Linear)][-1].weight)

    def forward(self, x: Tensor | SplitInput) -> Tensor:
        """Float [R, width] -> [R, hidden[-1]]; of a `SplitInput` the query part of the first layer is computed once."""
        layers = iter(self)
        if isinstance(x, SplitInput):
            first = cast("nn.Linear | None", next(layers, None))
            h = x.flat() if first is None else x.linear(first.weight, first.bias)
        else:
            h = x
        for layer in layers:
            h = layer(h)
        return h
