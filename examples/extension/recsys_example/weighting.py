"""Random loss weighting: weights of the tasks drawn anew at every step (Lin et al. TMLR 2022)."""

from __future__ import annotations

import torch
from pydantic import Field

from recsys.base.settings import Settings
from recsys.ranking.balance import Balance


class RandomOptions(Settings):
    """Keys of `ranking.balance.options`."""

    spread: float = Field(default=1.0, ge=0)
    """Standard deviation of the normal numbers whose softmax the weights are; 0 weighs all tasks alike."""


class RandomWeights(Balance, kind="random"):
    """`L = sum_k K softmax(spread z)_k w_k L_k`, z normal, w the weights of the configuration."""

    paper = "Lin et al. TMLR 2022"
    summary = "weights of the tasks drawn anew at every step"
    Options = RandomOptions

    def weights(self) -> dict[str, float]:
        """Drawn from the global generator, which a checkpoint keeps."""
        shares = torch.softmax(self.options.spread * torch.randn(len(self.names)), dim=0) * len(self.names)
        return {name: self.initial[name] * float(share) for name, share in zip(self.names, shares, strict=True)}
