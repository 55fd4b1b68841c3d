"""Activations by name, and GateNet's hidden gate, which scales a hidden layer by a function of itself.

GateNet (arXiv 2007.03519, section 3.4): `g = a * act(W a)` after the activation `a` of a hidden layer. Its sibling, the
gate on embeddings, is in `nn.gates`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

Activation = Literal["sigmoid", "tanh", "linear", "relu"]
HiddenGateKind = Literal["none", "tanh", "linear", "sigmoid"]
LayerActivation = Literal["relu", "tanh"]


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply `sigmoid`, `tanh`, `relu` or `linear`."""
    if activation == "sigmoid":
        return torch.sigmoid(x)
    if activation == "tanh":
        return torch.tanh(x)
    return torch.relu(x) if activation == "relu" else x


def relu(x: Tensor) -> Tensor:
    """`max(x, 0)` of a tensor nobody else reads; overwrites it where no gradient is wanted, in half the time."""
    return torch.relu(x) if x.requires_grad else torch.relu_(x)


class Rectifier(nn.Module):
    """`relu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return relu(x)


class HiddenGate(nn.Module):
    """GateNet's hidden gate: `g = a * act(W a)` after a hidden layer's activation `a`; no bias, as in the paper.

    Parameters: H^2, or E H^2 for the same layer of E experts, each with a gate of its own.

    Args:
        width: H.
        activation: of the gate; tanh in the paper.
        num_experts: E; None for a plain layer.
    """

    paper: ClassVar[str] = "Huang et al. 2020 (GateNet)"

    def __init__(self, width: int, activation: str = "tanh", num_experts: int | None = None) -> None:
        super().__init__()
        self.activation = activation
        weight = torch.empty(num_experts or 1, width, width)
        for matrix in weight:
            nn.init.xavier_uniform_(matrix)
        self.weight = nn.Parameter(weight[0].clone() if num_experts is None else weight)  # [H, H] or [E, H, H]

    def forward(self, a: Tensor) -> Tensor:
        """Float [R, H] -> [R, H], or [E, R, H] -> [E, R, H] for experts."""
        projected = nn.functional.linear(a, self.weight) if self.weight.dim() == 2 else torch.bmm(a, self.weight.mT)
        return a * activate(projected, self.activation)
