"""DCN-V2 cross layers in low rank: explicit products of features, one degree per layer (arXiv 2008.13535)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .split import SplitInput


class CrossNetwork(nn.Module):
    """`x_{l+1} = x_0 * (U_l V_l x_l + b_l) + x_l`, width kept.

    Args:
        width: D.
        layers: number of cross layers.
        rank: rank r of each weight `U V` (U [D, r], V [r, D]).
    """

    paper: ClassVar[str] = "Wang et al. WWW 2021, arXiv 2008.13535 (DCN-V2)"

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.down = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(rank, width)) for _ in range(layers))
        self.up = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(width, rank)) for _ in range(layers))
        self.bias = nn.ParameterList(torch.zeros(width) for _ in range(layers))

    def forward(self, x: SplitInput) -> SplitInput:
        """Input [R, D] -> crossed input [R, D]; it mixes both sides, so the split ends here."""
        first = crossed = x.flat()
        for level, (down, up, bias) in enumerate(zip(self.down, self.up, self.bias, strict=True)):
            projected = x.linear(down) if level == 0 else F.linear(crossed, down)
            crossed = torch.addcmul(crossed, first, F.linear(projected, up, bias))
        return SplitInput.of(crossed)
