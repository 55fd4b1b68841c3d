"""The cosine contrastive loss of the towers: items not taken count only above a margin (Mao et al. CIKM 2021, SimpleX).

`L = mean of (1 - cos(u, i)) + w mean over drawn j of max(0, cos(u, j) - m)`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from recsys.base.settings import Settings
from recsys.retrieval.towers.objective import Compared, TowerLoss, even_draw


class ContrastiveOptions(Settings):
    """Keys of `retrieval.loss_options`."""

    margin: float = Field(default=0.3, ge=-1, le=1)
    """Cosine below which an item that was not taken is far enough."""
    weight: float = Field(default=1.0, gt=0)
    """Of the items that were not taken."""


class CosineContrastive(TowerLoss, kind="cosine_contrastive"):
    """Cosine of the next item up, cosines of drawn items above a margin down."""

    paper = "Mao et al. CIKM 2021"
    Options = ContrastiveOptions

    def draw(self, generator: torch.Generator) -> Tensor:
        """`retrieval.negatives` items, evenly."""
        return even_draw(self.config.negatives, self.num_items, generator)

    def __call__(self, compared: Compared) -> Tensor:
        """Mean over the positions held here; an item that a position takes is no negative of it."""
        batch, users = compared.batch, normalize(compared.users, dim=-1)
        taken = (users * normalize(compared.own_positives, dim=-1)).sum(-1)
        others = users @ normalize(compared.negatives, dim=-1).T  # [P', B']
        apart = batch.own(batch.targets)[:, None] != batch.drawn
        above = (others - self.options.margin).clamp(min=0) * apart
        pushed = above.sum(1) / apart.sum(1).clamp(min=1)
        loss: Tensor = (1 - taken + self.options.weight * pushed).mean()
        return loss
