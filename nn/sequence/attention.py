"""What encoders that attend share: products of several heads, causal masks, learned positions, relative biases.

Vaswani et al., NeurIPS 2017; the relative bias by events and by time is that of HSTU (Zhai et al., ICML 2024).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...base.errors import ConfigError
from .base import SequenceConfig


def checked_heads(config: SequenceConfig) -> int:
    """Heads of the configuration.

    Raises:
        ConfigError: they do not divide the width of the states.
    """
    if config.hidden % config.heads:
        raise ConfigError(
            f"hidden={config.hidden} is not divisible by heads={config.heads}; "
            "choose heads that divide the hidden width"
        )
    return config.heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, L, D]` -> `[B, heads, L, D / heads]`."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def joined_heads(x: Tensor) -> Tensor:
    """The reverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: nn.Module | None = None) -> Tensor:
    """`softmax(Q K' / sqrt(d) + bias) V`, the weights dropped out while training.

    Written out: the fused attention of PyTorch leaves its fast path on a CPU as soon as weights are dropped out or the
    bias needs a gradient.

    Args:
        query: `[B, heads, L, d]`.
        key: `[B, heads, L, d]`.
        value: `[B, heads, L, d]`.
        bias: broadcast to `[B, heads, L, L]`; -inf where a query must not look.
        dropout: of the weights.

    Returns:
        `[B, heads, L, d]`.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
    weights = scores.softmax(-1)
    kept: Tensor = weights if dropout is None else dropout(weights)
    return kept @ value


def later(length: int, device: torch.device) -> Tensor:
    """Which events come after each: bool `[L, L]`, entry (t, s) where s > t."""
    index = torch.arange(length, device=device)
    return index[:, None] < index[None, :]


def causal_bias(length: int, like: Tensor) -> Tensor:
    """0 up to the diagonal and -inf above, `[L, L]` of the type and device of `like`."""
    return like.new_zeros(length, length).masked_fill(later(length, like.device), -math.inf)


class Positions(nn.Module):
    """Learned positions, counted from the first event of a window and added to it.

    A training asks what comes after every event of a window but its last one, so the last place of a full window would
    have a row that never learns; it shares that of the place before, as do all behind it.

    Args:
        places: events of the longest window.
        width: D.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max(1, places - 1), width).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` -> the same with positions."""
        places = torch.arange(x.shape[1], device=x.device).clamp(max=len(self.weight) - 1)
        return x + self.weight[places]


class _BucketBias(torch.autograd.Function):
    """`table[h, bucket]` for every head and pair, with a scatter instead of a sort in the backward pass."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.size = table.shape[1]
        bias = table.index_select(1, buckets.reshape(-1)).view(table.shape[0], *buckets.shape)
        return bias.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors
        flat = buckets.reshape(-1)
        heads = [grad.new_zeros(ctx.size).scatter_add_(0, flat, head.reshape(-1)) for head in grad.unbind(1)]
        return torch.stack(heads), None


def time_bucket(times: Tensor, buckets: int) -> Tensor:
    """Class of the time between every two events: `floor(log2(1 + seconds))`, the last class for all above.

    Args:
        times: `[B, L]` seconds, integer or float64 (float32 cannot hold seconds since 1970).
        buckets: number of classes.

    Returns:
        `[B, L, L]` int64, entry (t, s) for the time from event s to event t; negative times count as 0.
    """
    gaps = (times[:, :, None] - times[:, None, :]).float().clamp_(min=0)
    return gaps.log1p_().mul_(1.0 / math.log(2.0)).long().clamp_(max=buckets - 1)


def relative_bias(
    by_position: Tensor, by_time: Tensor, length: int, times: Tensor | None, masked: bool = True
) -> Tensor:
    """`b[t - s] + c[class of the time from s to t]` of every head.

    Args:
        by_position: `[heads, longest distance]`, b; larger distances share its last entry.
        by_time: `[heads, classes]`, c.
        length: L.
        times: `[B, L]` seconds; without them there is no second term.
        masked: -inf where s > t.

    Returns:
        `[B or 1, heads, L, L]`.
    """
    index = torch.arange(length, device=by_position.device)
    distance = (index[:, None] - index[None, :]).clamp_(0, by_position.shape[1] - 1)
    bias: Tensor = _BucketBias.apply(by_position, distance[None])  # type: ignore[no-untyped-call]
    if masked:  # before the times make it as many matrices as there are windows
        bias = bias.masked_fill(index[:, None] < index[None, :], -math.inf)
    if times is None:
        return bias
    of_time: Tensor = _BucketBias.apply(by_time, time_bucket(times, by_time.shape[1]))  # type: ignore[no-untyped-call]
    return bias + of_time
