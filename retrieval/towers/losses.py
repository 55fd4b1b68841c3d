"""Losses of the two-tower model: from user and item vectors to one number.

All are plain functions. Scores are `scale * <user, item>`, with scale = 1 / temperature. A loss that compares the
positive with a sample of items subtracts the log of how often each item gets into the sample (log-q): without it,
popular items are pushed down merely because they are met as negatives so often. The correction lives here alone;
serving ranks by plain scores. Rows are averaged, so that a loss does not grow with the batch.

User vectors are `[P, D]` in every loss, or `[P, M, D]` of M interests; then a score is the smooth best of M products
(see `full_softmax_loss`).

Sources: BCE and sampled softmax, Huang et al., CIKM 2013 (DSSM); in-batch softmax with log-q, Yi et al., RecSys 2019;
mixed negatives, Yang et al., WWW 2020; positive left uncorrected, Khrylchenko et al., RecSys 2025 (arXiv 2507.09331);
gBCE, Petrov and Macdonald, RecSys 2023; BPR-max and TOP1-max, Hidasi and Karatzoglou, CIKM 2018 (arXiv 1706.03847).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...base.cited import cited
from .full_softmax import estimated_softmax_loss, full_softmax_loss, row_weights
from .negatives import NegativeColumns, NegativeMemory, mine_hard_negatives

__all__ = [
    "NegativeColumns",
    "NegativeMemory",
    "bce_loss",
    "bpr_max_loss",
    "estimated_softmax_loss",
    "full_softmax_loss",
    "gbce_loss",
    "in_batch_softmax_loss",
    "mine_hard_negatives",
    "mixed_negative_softmax_loss",
    "sampled_softmax_loss",
    "top1_max_loss",
]


@cited("Huang et al. CIKM 2013")
def bce_loss(
    user: Tensor,
    item: Tensor,
    labels: Tensor,
    scale: Tensor | float,
    bias: Tensor | float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of `scale * <user, item> + bias` against 0/1 labels.

    `L = -mean(y log p + (1 - y) log(1 - p))`, p = sigmoid(scale <u, v> + bias).

    With unit vectors a learned (or large) scale is a must: the sigmoid of a cosine never leaves [0.27, 0.73].

    Args:
        user: `[P, D]`.
        item: `[P, D]`, the item of each row.
        labels: `[P]` 0 or 1.
        scale: 1 / temperature.
        bias: added to every logit.
        weight: `[P]`, not negative.

    Returns:
        Scalar.
    """
    logits = _pair_scores(user, item, scale) + bias
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return losses @ row_weights(losses, weight)


def _pair_scores(user: Tensor, item: Tensor, scale: Tensor | float) -> Tensor:
    """Score of each row's item `[P, D]` with its user vector `[P, D]`, or the smooth best of several `[P, M, D]`."""
    if user.dim() == 2:
        return scale * (user * item).sum(-1)
    return torch.logsumexp(scale * (user * item[:, None]).sum(-1), 1)


def _scores_among(user: Tensor, items: Tensor, scale: Tensor | float) -> Tensor:
    """Scores `[P, M]` of items that all rows share `[M, D]`, or each row's own `[P, M, D]`; see `_pair_scores`."""
    vectors = user if user.dim() == 3 else user[:, None]
    each = scale * (vectors @ (items.T if items.dim() == 2 else items.transpose(1, 2)))  # [P, interests, M]
    return each[:, 0] if user.dim() == 2 else torch.logsumexp(each, 1)


@cited("Petrov and Macdonald RecSys 2023 (gSASRec)")
def gbce_loss(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    scale: Tensor | float,
    strength: float,
    bias: Tensor | float = 0.0,
    positive_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Generalised binary cross-entropy: the positive's probability to a power below 1, against m sampled negatives.

    `L = -mean_i (log s(r_i)^b + sum_j log(1 - s(r_ij))) / (m + 1)`, r = scale <u, v> + bias, s the sigmoid. With one
    negative and b = 1 it is `bce_loss`.

    Few negatives make every probability too high. `b = 1 - t (1 - a)`, a = m / (V - 1) the share of the other items
    that is drawn, undoes that: wholly for t = 1, not at all for t = 0.

    Args:
        user: `[P, D]`.
        positive: `[P, D]`.
        negatives: `[M, D]` shared by all rows, or `[P, M, D]`, each row its own.
        scale: 1 / temperature.
        strength: b, in (0, 1].
        bias: added to every logit.
        positive_ids: `[P]`; with `negative_ids`, negatives that are the row's positive are left out.
        negative_ids: `[M]` or `[P, M]`.
        weight: `[P]`, not negative.

    Returns:
        Scalar.
    """
    own = _pair_scores(user, positive, scale) + bias
    others = F.softplus(_scores_among(user, negatives, scale) + bias)
    if positive_ids is not None and negative_ids is not None:
        others = others.masked_fill(negative_ids == positive_ids[:, None], 0.0)
    losses = (strength * F.softplus(-own) + others.sum(1)) / (others.shape[1] + 1)
    return losses @ row_weights(losses, weight)


@cited("Hidasi and Karatzoglou CIKM 2018 (GRU4Rec)")
def bpr_max_loss(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    scale: Tensor | float,
    penalty: float = 1.0,
    positive_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The chance that the positive is above a negative drawn from the softmax of the negatives.

    `L = mean_i (-log sum_j q_ij s(r_i - r_ij) + penalty sum_j q_ij r_ij^2)`, q_i the softmax of the row's negatives.

    Args:
        user: `[P, D]`.
        positive: `[P, D]`.
        negatives: `[M, D]` shared by all rows, or `[P, M, D]`, each row its own.
        scale: 1 / temperature.
        penalty: of the negatives' scores.
        positive_ids: `[P]`; with `negative_ids`, negatives that are the row's positive are left out.
        negative_ids: `[M]` or `[P, M]`.
        weight: `[P]`, not negative.

    Returns:
        Scalar.
    """
    own, others, log_shares = _among_negatives(user, positive, negatives, scale, positive_ids, negative_ids)
    above = torch.logsumexp(log_shares + F.logsigmoid(own - others), 1)
    losses = penalty * (log_shares.exp() * others.square()).sum(1) - above
    return losses @ row_weights(losses, weight)


@cited("Hidasi and Karatzoglou CIKM 2018 (GRU4Rec)")
def top1_max_loss(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    scale: Tensor | float,
    positive_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The rank that negatives take from the positive, weighed by their softmax.

    `L = mean_i sum_j q_ij (s(r_ij - r_i) + s(r_ij^2))`, q_i the softmax of the row's negatives.

    Args:
        user: `[P, D]`.
        positive: `[P, D]`.
        negatives: `[M, D]` shared by all rows, or `[P, M, D]`, each row its own.
        scale: 1 / temperature.
        positive_ids: `[P]`; with `negative_ids`, negatives that are the row's positive are left out.
        negative_ids: `[M]` or `[P, M]`.
        weight: `[P]`, not negative.

    Returns:
        Scalar.
    """
    own, others, log_shares = _among_negatives(user, positive, negatives, scale, positive_ids, negative_ids)
    losses = (log_shares.exp() * (torch.sigmoid(others - own) + torch.sigmoid(others.square()))).sum(1)
    return losses @ row_weights(losses, weight)


def _among_negatives(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    scale: Tensor | float,
    positive_ids: Tensor | None,
    negative_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the positive `[P, 1]` and of the negatives `[P, M]`, and the log of these' softmax `[P, M]`, in which
    the row's own positive has no share.
    """
    own, others = _pair_scores(user, positive, scale)[:, None], _scores_among(user, negatives, scale)
    shares = others
    if positive_ids is not None and negative_ids is not None:
        shares = others.masked_fill(negative_ids == positive_ids[:, None], torch.finfo(others.dtype).min)
    return own, others, torch.log_softmax(shares, 1)


@cited("Huang et al. CIKM 2013")
def sampled_softmax_loss(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    scale: Tensor | float,
    positive_log_q: Tensor | None = None,
    negative_log_q: Tensor | None = None,
    positive_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the positive among itself and m sampled negatives.

    `L = -mean_i log softmax(scale <u_i, [v_i, v_i1, ..., v_im]>)[0]`.

    Args:
        user: `[P, D]`.
        positive: `[P, D]`.
        negatives: `[M, D]` shared by all rows, or `[P, M, D]`, each row its own.
        scale: 1 / temperature.
        positive_log_q: `[P]` log probability of drawing each positive; None with uniform sampling.
        negative_log_q: `[M]` or `[P, M]`, the same of the negatives.
        positive_ids: `[P]`; with `negative_ids`, negatives that are the row's positive are left out.
        negative_ids: `[M]` or `[P, M]`.
        weight: `[P]`, not negative.

    Returns:
        Scalar.
    """
    own = _pair_scores(user, positive, scale)[:, None]
    others = _scores_among(user, negatives, scale)
    if positive_log_q is not None:
        own = own - positive_log_q[:, None]
    if negative_log_q is not None:
        others = others - negative_log_q
    if positive_ids is not None and negative_ids is not None:
        others = others.masked_fill(negative_ids == positive_ids[:, None], -math.inf)
    logits = torch.cat([own, others], dim=1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.logsumexp(logits, dim=1) - logits[:, 0]
    return losses @ row_weights(losses, weight)


@cited("Yi et al. RecSys 2019")
def in_batch_softmax_loss(
    user: Tensor,
    item: Tensor,
    item_ids: Tensor,
    log_q: Tensor | None,
    scale: Tensor | float,
    weight: Tensor | None = None,
    *,
    memory: NegativeColumns | None = None,
    rows: Tensor | None = None,
    correct_positive: bool = True,
    reduced: bool | None = None,
) -> Tensor:
    """Softmax over the batch: the positives of the other rows are the negatives of each.

    `L = -mean_i log softmax_j(scale <u_i, v_j> - log q_j)[i]` over the items j of the batch.

    Every column's score is lowered by its log-q; columns that hold the row's own item again are left out.

    Args:
        user: `[P, D]`, or `[P', D]` of some rows of the batch.
        item: `[P, D]`, the positive of each row.
        item_ids: `[P]` int.
        log_q: `[P]` log of the probability that a row's positive is this item (its share of the training rows);
            None for no correction.
        scale: 1 / temperature.
        weight: `[P]`, not negative.
        memory: items of earlier batches as further columns (`NegativeMemory.columns()`).
        rows: int64 `[P']`, which rows of the batch `user` holds; all of them when None.
        correct_positive: True corrects the positive like any other column (Yi et al.). False takes it as given, not
            drawn: its score is left alone and the others are lowered by the log of how often they are expected
            among the P - 1 other rows. That estimates the full softmax without bias.
        reduced: as in `full_softmax_loss`.

    Returns:
        Scalar; 0 when there is a single row and no memory.
    """
    columns, ids = item, item_ids
    dtype = torch.promote_types(item.dtype, torch.float32)
    corrections = item.new_zeros(len(item), dtype=dtype) if log_q is None else log_q.detach().to(dtype)
    if memory is not None and len(memory.ids):
        columns = torch.cat([item, memory.vectors.to(item.dtype)])
        ids = torch.cat([item_ids, memory.ids.to(item_ids.dtype)])
        extra = torch.zeros_like(memory.log_q) if log_q is None else memory.log_q
        corrections = torch.cat([corrections, extra.to(dtype)])
    if not correct_positive:
        corrections = corrections + math.log(max(1, len(columns) - 1))
    return _corrected_softmax(user, columns, ids, corrections, scale, weight, rows, correct_positive, reduced)


@cited("Yang et al. WWW 2020")
def mixed_negative_softmax_loss(
    user: Tensor,
    item: Tensor,
    item_ids: Tensor,
    negatives: Tensor,
    negative_ids: Tensor,
    frequency: Tensor,
    negative_frequency: Tensor,
    num_items: int,
    scale: Tensor | float,
    weight: Tensor | None = None,
    *,
    rows: Tensor | None = None,
    correct_positive: bool = True,
    reduced: bool | None = None,
) -> Tensor:
    """Softmax over the batch's items and B' items drawn evenly from the catalogue.

    `L = -mean_i log softmax_j(scale <u_i, v_j> - log q_j)[i]` over the items j of both.

    The even draws make negatives of items that no row has as its positive. A column is met with the probability of
    the mixture, `q = (B * frequency + B' / V) / (B + B')`, whichever half it came from.

    Args:
        user: `[B, D]`, or of the rows that `rows` names.
        item: `[B, D]`.
        item_ids: `[B]` int.
        negatives: `[B', D]` vectors of items drawn uniformly, with replacement.
        negative_ids: `[B']` int.
        frequency: `[B]` share of the training rows that have this item as their positive.
        negative_frequency: `[B']` the same of the drawn items; 0 is fine.
        num_items: V, items in the catalogue.
        scale: 1 / temperature.
        weight: `[B]`, not negative.
        rows: as in `in_batch_softmax_loss`.
        correct_positive: as in `in_batch_softmax_loss`.
        reduced: as in `full_softmax_loss`.

    Returns:
        Scalar.
    """
    batch, drawn = len(item), len(negatives)
    shares = torch.cat([frequency, negative_frequency]).detach().to(torch.promote_types(item.dtype, torch.float32))
    if correct_positive:
        corrections = torch.log((batch * shares + drawn / num_items) / (batch + drawn))
    else:
        corrections = torch.log((batch - 1) * shares + drawn / num_items)
    columns, ids = torch.cat([item, negatives]), torch.cat([item_ids, negative_ids])
    return _corrected_softmax(user, columns, ids, corrections, scale, weight, rows, correct_positive, reduced)


def _corrected_softmax(
    user: Tensor,
    columns: Tensor,
    ids: Tensor,
    corrections: Tensor,
    scale: Tensor | float,
    weight: Tensor | None,
    rows: Tensor | None,
    correct_positive: bool,
    reduced: bool | None,
) -> Tensor:
    """Row i's positive is column i, or `rows[i]`; `corrections` are subtracted from every column, or from all but the
    own one.
    """
    own = torch.arange(len(user), device=user.device) if rows is None else rows
    return full_softmax_loss(
        user,
        columns,
        own,
        -corrections,
        weight,
        scale=scale,
        target_shift=None if correct_positive else corrections[own],
        column_ids=ids,
        reduced=reduced,
    )
