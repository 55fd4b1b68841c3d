"""The missing-value layer: each numeric feature learns the value it takes where nothing was observed.

Source: Meituan's ranker (2018). Zero-fill blocks the weight's update and mean-fill is arbitrary; a learned default does
for a network what a learned default branch does for boosted trees.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class MissingValue(nn.Module):
    """`out = x` where observed, else a learned scalar per feature.

    Args:
        features: number of numeric features n.
        init: float [n] initial defaults, e.g. training medians; zeros when None (features are standardised).
    """

    paper: ClassVar[str] = "Meituan technology blog 2018"
    summary: ClassVar[str] = "a learned value for each missing number, in every model"

    def __init__(self, features: int, init: Tensor | None = None) -> None:
        super().__init__()
        self.default = nn.Parameter(torch.zeros(features) if init is None else init.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Float [R, n] with NaN where missing -> [R, n] without NaN; gradients are free of NaN too."""
        missing = torch.isnan(x)
        return torch.where(missing, self.default, torch.nan_to_num(x))
