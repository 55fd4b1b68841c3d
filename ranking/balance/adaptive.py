"""Balances whose weights learn from the losses or their gradients: uncertainty weighting, GradNorm."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...data.schema import TaskSpec
from .base import Balance, BalanceConfig, auxiliary, gradients_of, sum_of

if TYPE_CHECKING:
    from ..ranker import Ranker

log = logging.getLogger(__name__)


class Uncertainty(Balance, kind="uncertainty"):
    """Homoscedastic uncertainty: each task's weight is learned as `e^-s`, s the log-variance of its noise.

    `L = sum_k w_k (e^-s_k L_k + s_k / 2)`, for regression `w_k (e^-s_k L_k / 2 + s_k / 2)`, with the fixed weight w_k.
    s starts at 0 and is free: below 0 it weighs a task above its fixed weight. A task without rows in a batch leaves s
    alone.
    """

    paper = "Kendall et al. CVPR 2018, arXiv 1705.07115"
    summary = "weights learned from each task's noise"

    def __init__(self, config: BalanceConfig, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(self.names)))

    def weights(self) -> dict[str, float]:
        """`w_k e^-s`, halved for regression."""
        factors = torch.exp(-self.log_variance.detach()).tolist()
        return {
            name: self.initial[name] * factor * (0.5 if name in self.regression else 1.0)
            for name, factor in zip(self.names, factors, strict=True)
        }

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        terms = auxiliary(losses)
        for name, loss in self.by_task(losses).items():
            s = self.log_variance[self.names.index(name)]
            half = 0.5 if name in self.regression else 1.0
            term = half * torch.exp(-s) * loss + s / 2
            terms.append(self.initial[name] * torch.where(loss.detach() == 0, 0.0, term))
        return sum_of(terms)


class GradNorm(Balance, kind="gradnorm"):
    """GradNorm: weights move until each task's gradient at the last shared layer has the norm its progress asks for.

    `G_k = w_k |grad L_k|` should be `mean(G) r_k^alpha`, r_k the task's share of loss left, relative to the mean. The
    weights descend on `sum |G_k - target|` with the target held fixed and keep the sum they started with. Two things
    are ours: the descent is on log w_k, so that weights stay positive and the step does not depend on the scale of
    the losses (it is measured in mean norms); and because G_k is linear in w_k its gradient is written down,
    `sign(G_k - target) G_k`, where the paper builds a second-order graph. Auxiliary losses are added as they are.
    """

    paper = "Chen et al. ICML 2018, arXiv 1711.02257"
    summary = "weights that equalise gradient norms at the last shared layer"

    task_weights: Tensor
    first_losses: Tensor

    def __init__(self, config: BalanceConfig, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, tasks)
        self.register_buffer("task_weights", torch.tensor([self.initial[name] for name in self.names]))
        self.register_buffer("first_losses", torch.zeros(len(self.names)))
        self.sum = float(self.task_weights.sum())
        self.warned = False

    def weights(self) -> dict[str, float]:
        """The weights as they stand."""
        return dict(zip(self.names, self.task_weights.tolist(), strict=True))

    def backward(self, losses: Mapping[str, Tensor], ranker: Ranker) -> Tensor:
        """Measure the norms, step the ranker's gradient at the present weights, then move the weights."""
        tasks = self.by_task(losses)
        active = [name for name, loss in tasks.items() if float(loss.detach()) > 0 and self.initial[name] > 0]
        layer = ranker.shared_layer()
        moved: Tensor | None = None
        if layer and len(active) > 1:
            norms = torch.stack([gradient_norm(tasks[name], layer) for name in active])
            moved = self._moved(active, torch.stack([tasks[name].detach() for name in active]), norms)
        elif not layer and not self.warned:
            log.warning("gradnorm keeps its weights: ranker %s shares no layer between its tasks", ranker.kind)
            self.warned = True
        total = super().backward(losses, ranker)
        if moved is not None:
            self.task_weights.copy_(moved)
        return total

    def _moved(self, active: list[str], losses: Tensor, norms: Tensor) -> Tensor:
        """Weights after one step, [T]; losses and norms [A] of the active tasks."""
        places = torch.tensor([self.names.index(name) for name in active], device=losses.device)
        first = self.first_losses[places]
        first = torch.where(first > 0, first, losses)
        self.first_losses[places] = first
        weights = self.task_weights.clone()
        scaled = weights[places] * norms
        progress = losses / first
        target = scaled.mean() * (progress / progress.mean()) ** self.config.alpha
        step = torch.sign(scaled - target) * scaled / scaled.mean().clamp(min=1e-12)
        weights[places] = weights[places] * torch.exp(-self.config.lr * step)
        return weights * (self.sum / weights.sum())


def gradient_norm(loss: Tensor, layer: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of the loss's gradient at the layer; 0 where it does not reach."""
    squares = loss.new_zeros(())
    for grad in gradients_of(loss, layer):
        if grad is not None:
            squares = squares + (grad.coalesce().values() if grad.is_sparse else grad).square().sum()
    return squares.sqrt()
