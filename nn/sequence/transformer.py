"""Causal transformer over a history, with attention that knows how far apart two events are.

SASRec's shape (Kang and McAuley, ICDM 2018) with pre-normalised blocks; instead of absolute positions, each head adds
a learned bias for the number of events between two events and, when their times are given, for the time between them
(the relative attention bias of HSTU, Zhai et al., ICML 2024, arXiv 2402.17152).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..dropout import FastDropout
from .attention import attend, checked_heads, joined_heads, relative_bias
from .base import EventInput, SequenceConfig, SequenceEncoder, register_encoder


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
        batch, length, _ = x.shape
        qkv = self.project_in(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = attend(query, key, value, bias)
        x = x + self.dropout(self.project_out(joined_heads(mixed)))
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
        heads = checked_heads(config)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, self.dropout, config.normalises_events)
        self.project = nn.Linear(event_width + property_width, config.hidden)
        self.position_bias = nn.Parameter(torch.zeros(heads, config.max_length))
        self.time_bias = nn.Parameter(torch.zeros(heads, config.time_buckets))
        self.blocks = nn.ModuleList(_Block(config.hidden, heads, self.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        x = self.project(self.input(events, properties))
        bias = relative_bias(self.position_bias, self.time_bias, events.shape[1], times)
        for block in self.blocks:
            x = block(x, bias)
        states: Tensor = self.norm(x)
        return states
