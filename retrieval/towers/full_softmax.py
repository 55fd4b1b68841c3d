"""Softmax cross-entropy over many columns without ever holding the whole score matrix.

The dense formula keeps several P x N matrices (scores, log-probabilities, their gradient). Here a block of rows is
scored into one reused buffer, turned into unnormalised probabilities in place, multiplied straight into the gradients
and forgotten: memory is one block, and the backward pass has nothing left to do. The softmax and the sums over blocks
are float32. On request the matrix products have bfloat16 operands and results, which takes half their time on a CPU
with bfloat16 arithmetic; asking PyTorch to round the operands of float32 products on the way does not
([bfloat16](../../docs/experiments.md#bfloat16-on-a-cpu-without-amx)).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...base.cited import cited
from ...nn.precision import bf16_is_fast, reduced_matmul

BLOCK_ROWS = 512
"""Rows scored at a time: measured best between 256 and 1,024 for catalogues of a few thousand items."""
BLOCK_ENTRIES = 1 << 25
"""Largest score block, in entries (128 MB of float32), whatever the catalogue size."""
GPU_ENTRIES = 1 << 28
"""The same on a GPU, which has no cache to stay in and is to have few launches (1 GB); not yet measured."""


LINE_BYTES = 64


class _Products:
    """The three matrix products of a block: scores, gradient of the rows, gradient of the columns.

    Args:
        user: `[P, D]`.
        items: `[N, D]`.
        bias: `[N]`, or None.
        rows: most rows of a block.
        halved: bfloat16 operands and results; sums over blocks stay float32.
    """

    def __init__(self, user: Tensor, items: Tensor, bias: Tensor | None, rows: int, halved: bool) -> None:
        self.user, self.items, self.bias = _aligned(user), _aligned(items), bias
        self.buffer = _padded(user, rows, len(items))
        self.halves: tuple[Tensor, Tensor, Tensor] | None = None
        if halved:
            half = user.bfloat16()
            self.halves = _aligned(half), _aligned(items.bfloat16()), _padded(half, rows, len(items))

    def scores(self, block: slice) -> Tensor:
        """`[R, N]` scores of a block, in memory that the next block takes."""
        part = self.user[block]
        out = self.buffer[: len(part)]
        if self.halves is not None:
            user, items, half = self.halves
            out.copy_(torch.mm(user[block], items.t(), out=half[: len(part)]))
            return out if self.bias is None else out.add_(self.bias)
        if self.bias is None:
            return torch.mm(part, self.items.t(), out=out)
        return torch.addmm(self.bias, part, self.items.t(), out=out)

    def gradients(
        self, exponentials: Tensor, rows: Tensor, into_rows: Tensor | None, into_items: Tensor | None
    ) -> None:
        """`into_rows = exponentials @ items`, `[R, D]`; `into_items += exponentials.T @ rows`, `[N, D]`."""
        if self.halves is None:
            if into_rows is not None:
                torch.mm(exponentials, self.items, out=into_rows)
            if into_items is not None:
                into_items.addmm_(exponentials.t(), rows)
            return
        _, items, half = self.halves
        probable = half[: len(exponentials)].copy_(exponentials)
        if into_rows is not None:
            into_rows.copy_(torch.mm(probable, items))
        if into_items is not None:
            into_items.add_(torch.mm(probable.t(), rows.bfloat16()))

    def sums(self) -> Tensor:
        """Zeros `[N, D]` for the gradient of the columns."""
        return _padded(self.items, *self.items.shape).zero_()


def _padded(like: Tensor, rows: int, columns: int) -> Tensor:
    """Uninitialised `[rows, columns]` whose rows begin at multiples of 64 bytes: a product of such matrices takes up to
    half the time, with the same bits (measured).

    What stands between two rows is 0: AMX takes bfloat16 by twos, so with an odd number of columns it reads one behind
    the last and multiplies it by 0, and what nobody wrote there may be no number.
    """
    whole = LINE_BYTES // like.element_size()
    padded = like.new_empty(rows, -(-columns // whole) * whole)
    padded[:, columns:] = 0
    return padded[:, :columns]


def _aligned(matrix: Tensor) -> Tensor:
    return _padded(matrix, *matrix.shape).copy_(matrix)


class _BlockedSoftmax(torch.autograd.Function):
    """Weighted sum over rows of -log softmax(user @ items.T + bias)[target]; gradients are formed on the way.

    With `positive` the target is no column: its score is the product with a vector of its own. The second value, every
    row's own loss, carries no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor,
        items: Tensor,
        bias: Tensor | None,
        positive: Tensor | None,
        targets: Tensor | None,
        weight: Tensor,
        target_shift: Tensor | None,
        row_ids: Tensor | None,
        column_ids: Tensor | None,
        reduced: bool | None,
    ) -> tuple[Tensor, Tensor]:
        need_user, need_items, need_bias = ctx.needs_input_grad[:3]
        grad_user = _padded(user, *user.shape) if need_user else None
        grad_bias = torch.zeros_like(bias) if need_bias and bias is not None else None
        most, entries = (BLOCK_ROWS, BLOCK_ENTRIES) if user.device.type == "cpu" else (len(user), GPU_ENTRIES)
        rows = max(1, min(most, entries // max(1, len(items)), len(user)))
        losses = torch.empty_like(weight)
        pull = torch.empty_like(weight)  # [P] what the gradient of the target's score is, beside -weight
        kind = user.device.type
        # A CPU's rounding is bfloat16; a GPU's is TF32, unless the step runs under autocast.
        halved = (
            _reduced(reduced) and user.dtype == torch.float32 and (kind == "cpu" or torch.is_autocast_enabled(kind))
        )
        with reduced_matmul(_reduced(reduced) and not halved):
            products = _Products(user, items, bias, rows, halved)
            grad_items = products.sums() if need_items else None
            for start in range(0, len(user), rows):
                block = slice(start, min(start + rows, len(user)))
                part = user[block]
                scores = products.scores(block)
                if positive is not None:
                    target_score = (part * positive[block]).sum(1, keepdim=True)
                else:
                    assert targets is not None
                    own = targets[block, None]
                    target_score = scores.gather(1, own)
                if target_shift is not None:
                    target_score = target_score + target_shift[block, None]
                if row_ids is not None and column_ids is not None:  # the own item in another column is no negative
                    scores.masked_fill_(row_ids[block, None] == column_ids, -math.inf)
                if positive is None:
                    scores.scatter_(1, own, target_score)
                top = scores.amax(1, keepdim=True)
                top = top if positive is None else torch.maximum(top, target_score)
                scores.sub_(top).exp_()
                total = scores.sum(1, keepdim=True)
                if positive is not None:
                    alone = (target_score - top).exp_()
                    total += alone
                    pull[block] = (alone / total)[:, 0] * weight[block]
                losses[block] = (total.log() + top - target_score)[:, 0]
                share = weight[block, None] / total
                grad_part = None if grad_user is None else grad_user[block]
                products.gradients(scores, part * share, grad_part, grad_items)
                if grad_part is not None:
                    grad_part.mul_(share)
                if grad_bias is not None:
                    grad_bias.addmv_(scores.t(), share[:, 0])
        # The target's own term stays exact: it does not pass through the rounded products.
        own_vectors = positive
        if own_vectors is None:
            assert targets is not None
            own_vectors, pull = items[targets], torch.zeros_like(weight)
            if grad_items is not None:
                grad_items.index_add_(0, targets, user * weight[:, None], alpha=-1)
            if grad_bias is not None:
                grad_bias.index_add_(0, targets, weight, alpha=-1)
        if grad_user is not None:
            grad_user.addcmul_(own_vectors, (weight - pull)[:, None], value=-1)
        grad_positive = user * (pull - weight)[:, None] if positive is not None and ctx.needs_input_grad[3] else None
        ctx.grads = grad_user, grad_items, grad_bias, grad_positive
        ctx.mark_non_differentiable(losses)
        return losses @ weight, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = tuple(None if part is None else part * grad for part in ctx.grads)
        return (*scaled, None, None, None, None, None, None)


def _reduced(asked: bool | None) -> bool:
    return bf16_is_fast() if asked is None else asked


def row_weights(like: Tensor, weight: Tensor | None) -> Tensor:
    """Weights that sum to 1, so that a loss is a mean whatever the batch size; all zero when `weight` is.

    Args:
        like: `[P, ...]`, gives number, type and device.
        weight: `[P]`, not negative, or None for equal weights.

    Returns:
        `[P]`.
    """
    if weight is None:
        return like.new_full((len(like),), 1.0 / max(1, len(like)))
    weight = weight.detach().to(like)
    total = weight.sum()
    return weight / torch.where(total > 0, total, 1.0)


@cited("softmax regression")
def full_softmax_loss(
    user: Tensor,
    items: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    scale: Tensor | float = 1.0,
    target_shift: Tensor | None = None,
    column_ids: Tensor | None = None,
    reduced: bool | None = None,
) -> Tensor:
    """Mean cross-entropy of a softmax over all items, one positive per row, in bounded memory.

    `L = -log softmax(scale * user @ items.T + bias)[target]`, averaged over rows with `weight`. Differentiable once, in
    user, items, bias and scale. Of several vectors per row, an item's score is the log of the summed exponentials of
    its products with each: the smooth form of the highest one.

    Args:
        user: `[P, D]` user vectors, or `[P, M, D]`.
        items: `[N, D]` item vectors, the whole catalogue.
        targets: `[P]` int64, row of `items` that is each row's positive.
        bias: `[N]` added to every item's logit (popularity).
        weight: `[P]`, not negative; the loss is the weighted mean.
        scale: factor of the scores (1 / temperature), a number or a scalar tensor.
        target_shift: `[P]` constant added to each row's target logit only.
        column_ids: `[N]` int; where the items are a sample with repeats, columns that carry the id of a row's
            target, other than the target itself, are left out of that row.
        reduced: rounded matrix products (gradients within 1 %): bfloat16 on a CPU and under autocast, TF32 on a GPU.
            None: where the CPU multiplies bfloat16 in hardware.

    Returns:
        Scalar.
    """
    dtype = torch.promote_types(user.dtype, torch.float32)
    user, items = (user * scale).to(dtype), items.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    target_shift = None if target_shift is None else target_shift.detach().to(dtype)
    weight = row_weights(user, weight)
    row_ids = None if column_ids is None else column_ids[targets]
    apply: Any = _BlockedSoftmax.apply
    if user.dim() == 2:
        loss: Tensor = apply(user, items, bias, None, targets, weight, target_shift, row_ids, column_ids, reduced)[0]
        return loss
    # log sum_m Z_m moves as sum_m w_m log Z_m with fixed w = softmax(log Z), and so does the target's score. A first
    # pass finds log Z, the second is the plain loss of P * M rows, weighted.
    count = user.shape[1]
    flat, each = user.flatten(0, 1), targets.repeat_interleave(count)
    shift = None if target_shift is None else target_shift.repeat_interleave(count)
    each_id = None if row_ids is None else row_ids.repeat_interleave(count)
    own = (user * items[targets].unsqueeze(1)).sum(2)  # [P, M]
    own = own if bias is None else own + bias[targets].unsqueeze(1)
    own = own if target_shift is None else own + target_shift.unsqueeze(1)
    with torch.no_grad():
        rows = apply(flat, items, bias, None, each, flat.new_zeros(len(flat)), shift, each_id, column_ids, reduced)[1]
        log_total = rows.view_as(own) + own
        share = log_total.softmax(1)
        gap = torch.logsumexp(log_total, 1) - (share * log_total).sum(1)
    spread = (weight.unsqueeze(1) * share).flatten()
    plain: Tensor = apply(flat, items, bias, None, each, spread, shift, each_id, column_ids, reduced)[0]
    joint: Tensor = plain + ((share * own).sum(1) - torch.logsumexp(own, 1) + gap) @ weight
    return joint


@cited("Jean et al. ACL 2015")
def estimated_softmax_loss(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    log_q: Tensor,
    positive_ids: Tensor,
    negative_ids: Tensor,
    weight: Tensor | None = None,
    *,
    scale: Tensor | float = 1.0,
    reduced: bool | None = None,
) -> Tensor:
    """Mean cross-entropy of a softmax over the catalogue whose denominator is estimated from a sample of it.

    `L = -log(exp(s_p) / (exp(s_p) + sum over drawn j other than p of exp(s_j) / q_j))`, s the scaled products: without
    bias in the denominator where q is the probability that an item is among the drawn. Memory is one block of scores.

    Args:
        user: `[P, D]`.
        positive: `[P, D]`, each row's item.
        negatives: `[M, D]`, drawn for all rows.
        log_q: `[M]` log of the probability with which each is drawn.
        positive_ids: `[P]` int.
        negative_ids: `[M]` int; a row's own item among the drawn is left out.
        weight: `[P]`, not negative; the loss is the weighted mean.
        scale: factor of the scores (1 / temperature).
        reduced: as in `full_softmax_loss`.

    Returns:
        Scalar.
    """
    dtype = torch.promote_types(user.dtype, torch.float32)
    user, positive, negatives = (user * scale).to(dtype), positive.to(dtype), negatives.to(dtype)
    apply: Any = _BlockedSoftmax.apply
    found: Tensor = apply(
        user,
        negatives,
        -log_q.detach().to(dtype),
        positive,
        None,
        row_weights(user, weight),
        None,
        positive_ids,
        negative_ids,
        reduced,
    )[0]
    return found
