"""Balances that change the tasks' gradients before they are summed: PCGrad, CAGrad, MetaBalance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...base.arrays import F64
from ...base.errors import ConfigError
from ...data.schema import TaskSpec
from .base import Balance, BalanceConfig, auxiliary, gradients_of, sum_of

if TYPE_CHECKING:
    from ..ranker import Ranker


class Surgery(Balance):
    """Base: one backward pass per task, then `operate` on what the tasks say of each parameter, then the sum.

    `operate` sees the dense parameters that several tasks train in this step; everything else, tables included, gets
    the plain weighted sum.
    """

    def backward(self, losses: Mapping[str, Tensor], ranker: Ranker) -> Tensor:
        """One backward pass per task, surgery, sum."""
        weights = self.weights()
        tasks = self.by_task(losses)
        terms = [weights[name] * loss for name, loss in tasks.items()]
        extra = auxiliary(losses)
        parameters = [parameter for parameter in ranker.parameters() if parameter.requires_grad]
        gradients = [gradients_of(term, parameters) for term in terms]
        shared = [
            place
            for place in range(len(parameters))
            if sum(grad is not None and not grad.is_sparse and bool(grad.any()) for grad in column(gradients, place))
            > 1
        ]
        if len(terms) > 1 and shared:
            self._at(gradients, shared)
        if extra:  # an ordinary pass, because these may reach parameters outside the ranker
            torch.autograd.backward(sum_of(extra))
        for place, parameter in enumerate(parameters):
            for grad in column(gradients, place):
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        return sum_of(terms + extra).detach()

    def operate(self, gradients: Tensor) -> Tensor:
        """Gradients [T, P] of the tasks -> gradients [T, P] to be summed."""
        raise NotImplementedError(f"{type(self).__name__} must define operate")

    def _at(self, gradients: list[list[Tensor | None]], shared: list[int]) -> None:
        """Replace the gradients at `shared` by what `operate` makes of them."""
        like = {place: grad for task in gradients for place in shared if (grad := task[place]) is not None}
        rows = []
        for task in gradients:
            parts = [like[place] * 0 if (grad := task[place]) is None else grad for place in shared]
            rows.append(torch.cat([part.flatten() for part in parts]))
        changed = self.operate(torch.stack(rows))
        start = 0
        for place in shared:
            stop = start + like[place].numel()
            for task, row in zip(gradients, changed, strict=True):
                task[place] = row[start:stop].view_as(like[place])
            start = stop


class PCGrad(Surgery, kind="pcgrad"):
    """PCGrad: where two tasks' gradients point against each other, each gives up its part along the other.

    For each task i, over the other tasks j in random order: if `g_i . g_j < 0`, then
    `g_i := g_i - (g_i . g_j) / |g_j|^2 g_j` with the original g_j; then sum. Done on the dense parameters that several
    tasks train; everything else, tables included, gets the plain weighted sum. One backward pass per task.
    """

    paper = "Yu et al. NeurIPS 2020, arXiv 2001.06782"
    summary = "projects away conflicting parts of the tasks' gradients"

    def operate(self, gradients: Tensor) -> Tensor:
        """See `project_conflicts`."""
        return project_conflicts(gradients)


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


class CAGrad(Surgery, kind="cagrad"):
    """CAGrad: near the mean gradient, the step that helps the worst-off task most.

    With the mean `g_0` of the T tasks' weighted gradients: `max_d min_i g_i . d` with `|d - g_0| <= c |g_0|`. Its dual
    is over the simplex, `w = argmin g_w . g_0 + c |g_0| |g_w|` with `g_w = sum_i w_i g_i` (equation 3), and
    `d = g_0 + c |g_0| g_w / |g_w|`. The step taken is `T d`, so that c = 0 is the plain sum. Done on the dense
    parameters that several tasks train. One backward pass per task.
    """

    paper = "Liu et al. NeurIPS 2021, arXiv 2110.14048"
    summary = "the step near the mean gradient that helps the worst-off task most"

    def operate(self, gradients: Tensor) -> Tensor:
        """Gradients [T, P] -> [T, P] whose sum is `T d`."""
        c = self.config.conflict
        products = (gradients @ gradients.T).double().cpu().numpy()
        weights = worst_case_weights(products, c)
        least = float(np.sqrt(max(weights @ products @ weights, 0.0)))
        mean = float(np.sqrt(max(products.mean(), 0.0)))
        if c == 0 or least < 1e-12:
            return gradients
        share = torch.from_numpy(weights).to(gradients)[:, None]
        return gradients * (1 + len(weights) * c * mean / least * share)


def worst_case_weights(products: F64, c: float) -> F64:
    """`argmin_w g_w . g_0 + c |g_0| |g_w|` over the simplex, [T].

    Args:
        products: `g_i . g_j`, [T, T].
        c: radius of the ball around the mean gradient, as a share of its length.
    """
    from scipy.optimize import minimize  # a tenth of the time in which a worker of a service starts

    count = len(products)
    scale = max(float(np.trace(products)) / count, 1e-30)
    inner = products / scale
    mean = inner.mean(1)  # g_i . g_0
    radius = c * math.sqrt(max(float(inner.mean()), 0.0))

    def value(w: F64) -> float:
        return float(w @ mean + radius * math.sqrt(float(w @ inner @ w) + 1e-12))

    def slope(w: F64) -> F64:
        found: F64 = mean + radius * (inner @ w) / math.sqrt(float(w @ inner @ w) + 1e-12)
        return found

    simplex: Any = {"type": "eq", "fun": lambda w: float(w.sum() - 1), "jac": np.ones_like}
    options: Any = {"jac": slope, "bounds": [(0.0, 1.0)] * count, "constraints": [simplex], "method": "SLSQP"}
    found = minimize(value, np.full(count, 1.0 / count), **options)
    weights: F64 = np.clip(np.asarray(found.x, dtype=np.float64), 0.0, 1.0)
    total = float(weights.sum())
    return np.asarray(weights / total, dtype=np.float64)


class MetaBalance(Balance, kind="metabalance"):
    """MetaBalance: every auxiliary task's gradient is brought to the size that the target task's has.

    For each parameter tensor and each task k but the target: `g_k := r g_k m_target / m_k + (1 - r) g_k`, m the moving
    averages `m := b m + (1 - b) |g|` of the gradients' lengths (algorithm 1); strategy `reduce` does so only where
    `m_k > m_target`, `raise` only where it is less, `both` everywhere. Tables are scaled as well. One backward pass
    per task.
    """

    paper = "He et al. WWW 2022, arXiv 2203.06801"
    summary = "brings every task's gradient to the size of the target task's"

    lengths: Tensor

    def __init__(self, config: BalanceConfig, tasks: Sequence[TaskSpec]) -> None:
        super().__init__(config, tasks)
        self.target = config.target or self.names[0]
        if self.target not in self.names:
            raise ConfigError(f'balance.target = "{self.target}" is no task; tasks: {self.names}')
        self.register_buffer("lengths", torch.zeros(len(self.names), 0))

    def meet(self, ranker: nn.Module) -> None:
        """Keep a moving average for each of the ranker's parameters."""
        parameters = list(ranker.parameters())
        self.register_buffer("lengths", torch.zeros(len(self.names), len(parameters), device=parameters[0].device))

    def backward(self, losses: Mapping[str, Tensor], ranker: Ranker) -> Tensor:
        """One backward pass per task; gradients are scaled, then summed."""
        parameters = list(ranker.parameters())
        if self.lengths.shape[1] != len(parameters):
            self.meet(ranker)
        weights, tasks = self.weights(), self.by_task(losses)
        terms = {name: weights[name] * loss for name, loss in tasks.items()}
        extra = auxiliary(losses)
        learned = [place for place, parameter in enumerate(parameters) if parameter.requires_grad]
        found = {name: gradients_of(term, [parameters[place] for place in learned]) for name, term in terms.items()}
        if extra:
            torch.autograd.backward(sum_of(extra))
        for at, place in enumerate(learned):
            grads = {name: grad for name, each in found.items() if (grad := each[at]) is not None}
            factors = self._factors({name: length(grad) for name, grad in grads.items()}, place)
            for name, grad in grads.items():
                scaled = grad * factors[name]
                parameter = parameters[place]
                parameter.grad = scaled if parameter.grad is None else parameter.grad + scaled
        return sum_of([*terms.values(), *extra]).detach()

    def _factors(self, norms: Mapping[str, Tensor], place: int) -> dict[str, Tensor | float]:
        """What each task's gradient at a parameter is multiplied by, after its average was moved on."""
        b, r, kind = self.config.beta, self.config.relax, self.config.strategy
        for name, norm in norms.items():
            row = self.names.index(name)
            before = self.lengths[row, place]
            # the first length stands for those that were before it
            self.lengths[row, place] = torch.where(before > 0, b * before + (1 - b) * norm, norm)
        factors: dict[str, Tensor | float] = dict.fromkeys(norms, 1.0)
        if self.target not in norms:
            return factors
        target = self.lengths[self.names.index(self.target), place]
        for name in norms:
            own = self.lengths[self.names.index(name), place]
            asked = (own > 0) & (target > 0)
            if kind != "both":
                asked = asked & ((own > target) if kind == "reduce" else (own < target))
            if name != self.target:
                factors[name] = torch.where(asked, r * target / own.clamp(min=1e-30) + (1 - r), torch.ones_like(own))
        return factors


def length(gradient: Tensor) -> Tensor:
    """Euclidean length of a gradient, dense or of single rows."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return values.double().square().sum().sqrt().to(values.dtype)  # the same however a device orders the sum


def column(gradients: list[list[Tensor | None]], place: int) -> list[Tensor | None]:
    """What each task says of one parameter."""
    return [task[place] for task in gradients]
