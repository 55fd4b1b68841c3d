"""ESCM2: ESMM plus a loss for pCVR on clicked rows, corrected for which rows get clicked (arXiv 2204.05125).

ESMM over-estimates pCVR and may learn conversion without regard to the click. ESCM2 keeps its two losses and adds
`cvr_weight` times an estimate, over all impressions, of the conversion loss e that is seen on clicked rows only: IPS
`o e / p` or, doubly robust, `d + o (e - d) / p` with an imputation tower d, which learns by `o (e - d)^2 / p`. o is
the click, p = pCTR clipped from below and without gradient.

Shapes: x [R, D] -> logits a, b [R], imputed error d [R]. Sibling: ESMM (`cvr_weight = 0`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ...data.batch import Batch, Layout
from ...data.schema import TaskSpec
from ..layers import Tower
from ..losses import LossConfig, doubly_robust, inverse_propensity, masked_mean, row_losses, sample_spaces
from .esmm import ESMM, ESMMConfig


class ESCM2Config(ESMMConfig):
    """Keys of `kind = "escm2"`."""

    kind: str = "escm2"
    """Which ranker."""
    estimator: Literal["ips", "dr"] = "ips"
    """`ips`: inverse propensity; `dr`: doubly robust, with an imputation tower."""
    cvr_weight: float = Field(default=1.0, ge=0)
    """Weight of the corrected conversion loss."""
    ctcvr_weight: float = Field(default=1.0, ge=0)
    """Weight of ESMM's loss on the product."""
    min_propensity: float = Field(default=0.02, gt=0, le=1)
    """Click probabilities are raised to this before they divide: bias against variance."""


class ESCM2(ESMM, kind="escm2"):
    """ESMM with a de-biased conversion loss."""

    paper = "Wang et al. SIGIR 2022, arXiv 2204.05125"
    summary = "ESMM with inverse-propensity or doubly robust conversion loss"
    Config = ESCM2Config

    def __init__(self, config: ESCM2Config, layout: Layout, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, layout, tasks)
        self.escm2 = config
        self.imputation: Tower | None = None
        if config.estimator == "dr":
            self.imputation = Tower(self.width, self.cvr_hidden, dropout=config.dropout, hidden_gate=config.hidden_gate)

    def losses(self, batch: Batch, config: LossConfig) -> dict[str, Tensor]:
        """ESMM's losses with the corrected conversion loss added, and `aux/imputation` for the doubly robust kind."""
        x = self.embed(batch)
        logits = self.logits(x)
        losses = self.entire_space_losses(logits, batch, config)
        label, space, weight = self.end_to_end(batch)
        observed = self._clicked(batch).to(label.dtype)
        propensity = torch.sigmoid(logits[self.escm2.click]).clamp(min=self.escm2.min_propensity)
        error = row_losses(logits[self.escm2.conversion], label, "binary")
        if self.imputation is None:
            estimate = inverse_propensity(error, observed, propensity)
        else:
            imputed = F.softplus(self.imputation(x))  # cross-entropies are positive
            estimate, teaching = doubly_robust(error, imputed, observed, propensity)
            losses["aux/imputation"] = self.escm2.cvr_weight * masked_mean(teaching, space, weight, config.reduction)
        corrected = self.escm2.cvr_weight * masked_mean(estimate, space, weight, config.reduction)
        whole, conversion = f"loss/{self.escm2.product or self.escm2.conversion}", f"loss/{self.escm2.conversion}"
        losses[whole] = self.escm2.ctcvr_weight * losses[whole]
        losses[conversion] = losses[conversion] + corrected if conversion in losses else corrected
        return losses

    def _clicked(self, batch: Batch) -> Tensor:
        """Rows whose conversion label was observed, bool [R]."""
        labels, masks, _ = sample_spaces(batch)
        click = [task.name for task in self.tasks].index(self.escm2.click)
        return masks[:, click] & (torch.where(masks[:, click], labels[:, click], 0.0) > 0.5)
