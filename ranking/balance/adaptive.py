"""Balances that learn from the losses or their gradients: uncertainty weighting, GradNorm, PCGrad."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...data.schema import TaskSpec
from .base import Balance, BalanceConfig, auxiliary, sum_of

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


class PCGrad(Balance, kind="pcgrad"):
    """PCGrad: where two tasks' gradients point against each other, each gives up its part along the other.

    For each task i, over the other tasks j in random order: if `g_i . g_j < 0`, then
    `g_i := g_i - (g_i . g_j) / |g_j|^2 g_j` with the original g_j; then sum. Done on the dense parameters that several
    tasks train; everything else, tables included, gets the plain weighted sum. One backward pass per task.
    """

    paper = "Yu et al. NeurIPS 2020, arXiv 2001.06782"
    summary = "projects away conflicting parts of the tasks' gradients"

    def backward(self, losses: Mapping[str, Tensor], ranker: Ranker) -> Tensor:
        """One backward pass per task, surgery, sum."""
        weights = self.weights()
        terms = [weights[name] * loss for name, loss in self.by_task(losses).items()]
        extra = auxiliary(losses)
        parameters = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
        gradients = [gradients_of(term, parameters) for term in terms]
        shared = [
            place
            for place in range(len(parameters))
            if sum(grad is not None and not grad.is_sparse and bool(grad.any()) for grad in _column(gradients, place))
            > 1
        ]
        if len(terms) > 1 and shared:
            self._project(gradients, shared)
        if extra:  # an ordinary pass, because these may reach parameters outside the ranker
            torch.autograd.backward(sum_of(extra))
        for place, parameter in enumerate(parameters):
            for grad in _column(gradients, place):
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        return sum_of(terms + extra).detach()

    @staticmethod
    def _project(gradients: list[list[Tensor | None]], shared: list[int]) -> None:
        """Replace the gradients at `shared` by the projected ones."""
        like = {place: grad for task in gradients for place in shared if (grad := task[place]) is not None}
        rows = []
        for task in gradients:
            parts = [like[place] * 0 if (grad := task[place]) is None else grad for place in shared]
            rows.append(torch.cat([part.flatten() for part in parts]))
        projected = project_conflicts(torch.stack(rows))
        start = 0
        for place in shared:
            stop = start + like[place].numel()
            for task, row in zip(gradients, projected, strict=True):
                task[place] = row[start:stop].view_as(like[place])
            start = stop


def project_conflicts(gradients: Tensor) -> Tensor:
    """PCGrad's surgery: gradients [T, P] of the tasks -> projected gradients [T, P], not yet summed."""
    tasks = gradients.shape[0]
    squares = gradients.square().sum(1)
    projected = gradients.clone()
    for i in range(tasks):
        for j in torch.randperm(tasks).tolist():
            if i == j:
                continue
            dot = torch.dot(projected[i], gradients[j])
            if float(dot) < 0:
                projected[i].sub_(gradients[j], alpha=float(dot / squares[j]))
    return projected


def gradient_norm(loss: Tensor, layer: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of the loss's gradient at the layer; 0 where it does not reach."""
    squares = loss.new_zeros(())
    for grad in gradients_of(loss, layer):
        if grad is not None:
            squares = squares + (grad.coalesce().values() if grad.is_sparse else grad).square().sum()
    return squares.sqrt()


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradient of the loss at every parameter, None where it does not reach; the graph is kept."""
    if not loss.requires_grad:
        return [None] * len(parameters)
    return list(torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True))


def _column(gradients: list[list[Tensor | None]], place: int) -> list[Tensor | None]:
    return [task[place] for task in gradients]
