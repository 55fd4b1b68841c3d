"""Losses of the rankers: masked per task, with sample weights; the symmetric KL bound; inverse-propensity and doubly
robust conversion losses; the listwise softmax.

All take logits. Labels outside a task's sample space may be anything, NaN included, and never reach a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..base import ranks
from ..base.cited import cited
from ..base.errors import ConfigError, DataError
from ..base.settings import Settings
from ..data.batch import Batch
from ..data.schema import TaskSpec


class LossConfig(Settings):
    """How the losses of the rows become one number per task."""

    reduction: Literal["weighted_mean", "mean"] = "weighted_mean"
    """`weighted_mean`: sum(w l) / sum(w), indifferent to the scale of the weights; `mean`: sum(w l) / rows, where
    larger weights also mean larger steps."""
    positive_weight: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Binary task -> weight of its positive rows in its own loss, e.g. `{ like = 10.0 }`; negatives weigh 1. It
    multiplies the row's weight (`data.weight`, `data.weights`), and `[ranking.calibration] kind = "reweighting"` takes
    it out of the probabilities again."""
    huber: float = Field(default=0.0, ge=0)
    """Regression: errors above this count linearly (Huber loss); 0 takes the squared error."""
    focal: float = Field(default=0.0, ge=0)
    """Binary tasks: gamma of the focal loss (2 in its paper): rows that are right already count by `(1 - p_t)^gamma`.
    Probabilities are then nearer to 1/2 than they should be, which a fitted calibration mends."""
    difficulty: float = Field(default=0.0, ge=0)
    """Lambda of SuperLoss: every row's loss has the weight that is best for it at this lambda, above 1 for easier rows
    than the mean and below 1 for harder ones, which in logs are often noise; the less lambda, the more. 0: all rows
    alike. Taken where a ranker has the plain loss of a task."""
    kl_bound: tuple[str, str, str] | None = None
    """Binary tasks (click, conversion given click, order) for which p(click) p(conversion) should equal p(order): adds
    the symmetric KL divergence between the two, beside any ranker and any balance."""
    kl_weight: float = Field(default=0.1, ge=0)
    """Weight of that term; not published."""


def row_losses(prediction: Tensor, label: Tensor, kind: str, huber: float = 0.0, focal: float = 0.0) -> Tensor:
    """Loss of every row.

    Args:
        prediction: [R] logits (`binary`) or values (`regression`).
        label: [R].
        kind: `binary` (cross-entropy) or `regression` (squared error, or Huber).
        huber: threshold of the Huber loss; 0 for the squared error.
        focal: gamma of the focal loss; 0 for the plain cross-entropy.

    Returns:
        [R].
    """
    if kind == "binary" and focal > 0:
        return label * positive_loss(prediction, focal) + (1 - label) * positive_loss(-prediction, focal)
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(prediction, label, reduction="none")
    if huber > 0:
        return F.huber_loss(prediction, label, reduction="none", delta=huber)
    return F.mse_loss(prediction, label, reduction="none")


@cited("Lin et al. ICCV 2017 (focal loss), arXiv 1708.02002")
def positive_loss(logit: Tensor, focal: float = 0.0) -> Tensor:
    """Loss of a row with label 1, `-(1 - p)^gamma log p`, [R]; that of a row with label 0 is the one of `-logit`."""
    plain = F.softplus(-logit)
    # 1 - p = e^-softplus(z): a power of the sigmoid has no finite gradient where it rounds to 0
    return plain if focal == 0 else plain * torch.exp(-focal * F.softplus(logit))


@cited("Castells et al. NeurIPS 2020 (SuperLoss)")
def confidences(losses: Tensor, mask: Tensor, strength: float) -> Tensor:
    """The weight of each row that minimises `(l - tau) s + lambda (log s)^2`, tau the mean loss: in closed form.

    `s = exp(-W(max(-2/e, (l - tau) / lambda) / 2))`, W Lambert's function (equation 3).

    Args:
        losses: [R] without gradient.
        mask: bool [R]; the other rows have no part in tau.
        strength: lambda, above 0.

    Returns:
        [R], from 0 to e; 1 where the loss is the mean.
    """
    counted = mask.to(losses.dtype)
    mean = torch.dot(losses, counted) / counted.sum().clamp(min=1)
    return torch.exp(-lambert(0.5 * ((losses - mean) / strength).clamp(min=-2 / math.e)))


def lambert(x: Tensor) -> Tensor:
    """Lambert's W, the w >= -1 with `w e^w = x`, of numbers from -1/e on."""
    root = torch.sqrt((2 * (math.e * x + 1)).clamp(min=0))
    w = torch.where(x < -0.25, -1 + root - root**2 / 3 + 11 / 72 * root**3, torch.log1p(x.clamp(min=-0.9)))
    for _ in range(8):  # Halley's steps; near -1/e the series above is the answer already
        off = w * torch.exp(w) - x
        slope = torch.exp(w) * (w + 1) - (w + 2) * off / (2 * w + 2).clamp(min=1e-6)
        w = torch.where(root < 1e-2, w, w - off / torch.where(slope.abs() < 1e-12, torch.ones_like(slope), slope))
    return w


def masked_mean(losses: Tensor, mask: Tensor, weight: Tensor | None, reduction: str = "weighted_mean") -> Tensor:
    """Mean over the rows of the sample space; exactly 0, with zero gradient, where there are none or all weigh 0.

    Processes that train together have rows of the same step each, and all get the mean over every row.

    Args:
        losses: [R] finite.
        mask: bool [R].
        weight: [R] or None for ones.
        reduction: see `LossConfig`.

    Returns:
        Scalar.
    """
    counted = mask.to(losses.dtype)
    weights = counted if weight is None else counted * weight
    total = weights.sum() if reduction == "weighted_mean" else counted.sum()
    if ranks.world() > 1:
        return ranks.whole_mean(torch.dot(losses, weights), total)
    # dividing the weights and not the sum: 0 / 1 rather than 0 / 0 in an empty sample space
    return torch.dot(losses, weights / torch.where(total > 0, total, torch.ones_like(total)))


@cited("Tang et al. RecSys 2020, eq. 9")
def task_loss(
    prediction: Tensor, label: Tensor, mask: Tensor, weight: Tensor | None, task: TaskSpec, config: LossConfig
) -> Tensor:
    """Masked, weighted loss of one task.

    `L = sum_i m_i w_i l(y_i, logit_i) / sum_i m_i w_i`, m the sample space and w the row's weight; the divisor is
    `sum_i m_i` for `reduction = "mean"`.

    Args:
        prediction: [R] logits or values.
        label: [R]; anything where masked.
        mask: bool [R], the task's sample space.
        weight: [R] or None.
        task: gives the kind, whether the target is log(1 + label), and which weight positives have.
        config: see `LossConfig`.

    Returns:
        Scalar.
    """
    label = torch.where(mask, label, 0.0)
    if task.kind == "regression" and task.log1p:
        label = torch.log1p(label)
    losses = row_losses(prediction, label, task.kind, config.huber, config.focal)
    if config.difficulty > 0:
        easy = confidences(losses.detach(), mask, config.difficulty)
        losses = losses * easy
    positive = config.positive_weight.get(task.name, 1.0)
    if positive != 1.0:
        # both halves of the cross-entropy apart: a label between 0 and 1 (a teacher's) is partly of either class
        raised = 1.0 + (positive - 1.0) * label
        extra = positive_loss(prediction, config.focal) * (easy if config.difficulty > 0 else 1.0)
        losses = (losses + (positive - 1.0) * label * extra) / raised
        weight = raised if weight is None else weight * raised
    return masked_mean(losses, mask, weight, config.reduction)


def sample_spaces(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Labels [R, T], mask [R, T] and weights of a training batch, with absent parts filled in.

    Weights are [R], or [R, T] where tasks have weights of their own (see `weight_of`), or None.

    Raises:
        DataError: a weight is negative.
    """
    mask = batch.mask if batch.mask.numel() else torch.ones_like(batch.labels, dtype=torch.bool)
    if not batch.weight.numel():
        return batch.labels, mask, None
    if batch.weight.device.type == "cpu" and float(batch.weight.min()) < 0:
        raise DataError(f"a row has weight {float(batch.weight.min())}; weights must be 0 or more")
    return batch.labels, mask, batch.weight


def weight_of(weight: Tensor | None, task: int) -> Tensor | None:
    """Weight of each row in the loss of one task, [R]: that of all tasks, or the task's column of [R, T]."""
    return weight if weight is None or weight.dim() == 1 else weight[:, task]


def multi_task_loss(
    logits: Mapping[str, Tensor], batch: Batch, tasks: Sequence[TaskSpec], config: LossConfig
) -> dict[str, Tensor]:
    """One loss per task (PLE, equation 9), not yet weighted against each other: that is `balance`'s work.

    Args:
        logits: task -> [R].
        batch: labels in the order of `tasks`.
        tasks: objectives.
        config: see `LossConfig`.

    Returns:
        `loss/<task>` -> scalar, and `aux/kl` where `config.kl_bound` asks for it.

    Raises:
        ConfigError: `config.kl_bound` or `config.positive_weight` names what is no binary task.
    """
    labels, masks, weight = sample_spaces(batch)
    losses = {
        f"loss/{task.name}": task_loss(
            logits[task.name], labels[:, column], masks[:, column], weight_of(weight, column), task, config
        )
        for column, task in enumerate(tasks)
    }
    if config.kl_bound is not None and config.kl_weight > 0:
        check_task_names(tasks, config)
        click, conversion, order = config.kl_bound
        names = [task.name for task in tasks]
        everywhere = masks[:, names.index(click)] & masks[:, names.index(order)]
        apart = symmetric_kl(product_logit(logits[click], logits[conversion]), logits[order])
        losses["aux/kl"] = config.kl_weight * masked_mean(
            apart, everywhere, weight_of(weight, names.index(order)), config.reduction
        )
    return losses


def check_task_names(tasks: Sequence[TaskSpec], config: LossConfig) -> None:
    """Refuse a bound on tasks, or weights of tasks, that are not there.

    Raises:
        ConfigError: the message names them.
    """
    binary = [task.name for task in tasks if task.kind == "binary"]
    if missing := [name for name in config.positive_weight if name not in binary]:
        raise ConfigError(f"positive_weight names {missing}, which are no binary tasks; binary tasks: {binary}")
    if missing := [name for name in config.kl_bound or () if name not in binary]:
        raise ConfigError(f"kl_bound names {missing}, which are no binary tasks; binary tasks: {binary}")


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit c with sigmoid(c) = sigmoid(a) sigmoid(b), exact at any size: `-log(e^-a + e^-b + e^(-a-b))`."""
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)


@cited("Meituan technology blog 2018")
def symmetric_kl(p_logit: Tensor, q_logit: Tensor) -> Tensor:
    """`KL(p||q) + KL(q||p) = (p - q)(logit p - logit q)` of two Bernoulli variables, [R]; finite for finite logits."""
    return (torch.sigmoid(p_logit) - torch.sigmoid(q_logit)) * (p_logit - q_logit)


def inverse_propensity(error: Tensor, observed: Tensor, propensity: Tensor) -> Tensor:
    """Each row's unbiased estimate of a conversion loss that is known on clicked rows only (ESCM2-IPS, 2204.05125).

    Args:
        error: [R] conversion loss of each row; anything finite where it was not observed.
        observed: [R] 1 where clicked.
        propensity: [R] probability of the click, away from 0; its gradient is stopped.

    Returns:
        `o e / p`, [R].
    """
    return observed * error / propensity.detach()


def doubly_robust(error: Tensor, imputed: Tensor, observed: Tensor, propensity: Tensor) -> tuple[Tensor, Tensor]:
    """The estimate corrected by an imputed error (ESCM2-DR): unbiased if propensity or imputation is right.

    Args:
        error: [R] as in `inverse_propensity`.
        imputed: [R] the imputation tower's guess of the error.
        observed: [R] 1 where clicked.
        propensity: [R] as in `inverse_propensity`.

    Returns:
        The estimate `d + o (e - d) / p` and the imputation's own loss `o (e - d)^2 / p`, each [R]. The latter teaches
        the imputation only: the error enters it without gradient.
    """
    estimate = imputed + inverse_propensity(error - imputed, observed, propensity)
    return estimate, inverse_propensity((error.detach() - imputed).square(), observed, propensity)


@cited("Cao et al. ICML 2007 (ListNet)")
def listwise_loss(scores: Tensor, owner: Tensor, taken: Tensor, queries: int) -> Tensor:
    """Softmax cross-entropy of each query's positives, each among those of its candidates that are none.

    `L = mean_q mean_p -log(exp(s_p) / (exp(s_p) + sum over the negatives n of q of exp(s_n)))`, p the positives of q.

    Args:
        scores: [R] one per candidate row.
        owner: int64 [R] query of each row.
        taken: bool [R] whether the row is a positive of its query.
        queries: Q.

    Returns:
        Mean over the queries that have both, those of processes that train together included; 0 if none has.
    """
    losses, present = query_losses(scores, owner, taken, queries)
    if ranks.world() > 1:
        return ranks.whole_mean(losses.sum(), present.sum())
    return losses.sum() / present.sum().clamp(min=1)


def query_losses(scores: Tensor, owner: Tensor, taken: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """The term of each query in `listwise_loss`, [Q], and bool [Q], which have positives and negatives; 0 of others."""
    lowest = torch.finfo(scores.dtype).min
    highest = scores.new_full((queries,), lowest)  # of the negatives
    highest = highest.scatter_reduce(0, owner, scores.detach().masked_fill(taken, lowest), "amax")
    others = torch.exp((scores - highest.index_select(0, owner)).masked_fill(taken, -torch.inf))
    mass = scores.new_zeros(queries).index_add(0, owner, others)
    alone = mass == 0  # nothing to be told from: no loss
    against = highest.masked_fill(alone, 0.0) + torch.log(mass.masked_fill(alone, 1.0))
    behind = (against.index_select(0, owner) - scores).masked_fill(alone.index_select(0, owner), -torch.inf)
    losses = F.softplus(behind).masked_fill(~taken, 0.0)
    counts = scores.new_zeros(queries).index_add(0, owner, taken.to(scores))
    return scores.new_zeros(queries).index_add(0, owner, losses) / counts.clamp(min=1), (counts > 0) & ~alone
