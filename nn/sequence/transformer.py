"""Causal transformer over a history, with attention that knows how far apart two events are.

SASRec's shape (Kang and McAuley, ICDM 2018) with pre-normalised blocks; instead of absolute positions, each head adds
a learned bias for the number of events between two events and, when their times are given, for the time between them
(the relative attention bias of HSTU, Zhai et al., ICML 2024, arXiv 2402.17152).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...base.errors import ConfigError
from ..dropout import FastDropout
from .base import EventInput, SequenceConfig, SequenceEncoder, register_encoder


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


class _Block(nn.Module):
    """Attention and feed-forward, each normalised before, dropped out after, and added."""

    def __init__(self, width: int, heads: int, dropout: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` is `[B, L, D]`; `bias` `[B or 1, heads, L, L]` is -inf above the diagonal."""
        batch, length, width = x.shape
        qkv = self.project_in(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        # Written out: the fused attention of PyTorch leaves its fast path as soon as the bias needs a gradient.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.dropout(self.project_out(mixed))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


@register_encoder("transformer")
class TransformerEncoder(SequenceEncoder):
    """Pre-norm causal transformer with relative position bias and, given times, relative time bias.

    `softmax_s(<q_t, k_s> / sqrt(width) + b[t - s] + c[log gap of times])` over s <= t, b and c learned per head.
    """

    paper = "Kang and McAuley ICDM 2018 (SASRec)"

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        if config.hidden % config.heads:
            raise ConfigError(
                f"hidden={config.hidden} is not divisible by heads={config.heads}; "
                "choose heads that divide the hidden width"
            )
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, self.dropout, config.normalises_events)
        self.project = nn.Linear(event_width + property_width, config.hidden)
        self.position_bias = nn.Parameter(torch.zeros(config.heads, config.max_length))
        self.time_bias = nn.Parameter(torch.zeros(config.heads, config.time_buckets))
        self.blocks = nn.ModuleList(_Block(config.hidden, config.heads, self.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        x = self.project(self.input(events, properties))
        bias = self._bias(events.shape[1], times)
        for block in self.blocks:
            x = block(x, bias)
        states: Tensor = self.norm(x)
        return states

    def _bias(self, length: int, times: Tensor | None) -> Tensor:
        """`[B or 1, heads, L, L]`, -inf where s > t."""
        index = torch.arange(length, device=self.position_bias.device)
        distance = (index[:, None] - index[None, :]).clamp_(0, self.config.max_length - 1)
        bias: Tensor = _BucketBias.apply(self.position_bias, distance[None])  # type: ignore[no-untyped-call]
        bias = bias.masked_fill(index[:, None] < index[None, :], -math.inf)
        if times is None:
            return bias
        buckets = time_bucket(times, self.config.time_buckets)
        by_time: Tensor = _BucketBias.apply(self.time_bias, buckets)  # type: ignore[no-untyped-call]
        return bias + by_time
