"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152).

Attention whose weights are not brought to the sum 1, so that how often something was done is still in the sum, gated
element by element; one layer in the place of attention and feed-forward.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dropout import FastDropout
from .attention import Positions, checked_heads, joined_heads, later, relative_bias, split_heads
from .base import EventInput, SequenceConfig, SequenceEncoder, fitted, register_encoder

EPS = 1e-6
"""Of the layer norms, as in the authors' code: sums over few events divided by the longest window are small."""


class _Unit(nn.Module):
    """`x + f2(LN(A V) * U)` with `U, V, Q, K = SiLU(f1(LN(x)))` and `A = SiLU(Q K' + bias) / N`, masked."""

    def __init__(self, width: int, heads: int, longest: int, dropout: nn.Module) -> None:
        super().__init__()
        self.heads, self.longest, self.width = heads, longest, width
        self.project_in = nn.Parameter(torch.empty(4 * width, width).normal_(std=0.02))
        self.project_out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.project_out.weight)
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        """`x` is `[B, L, D]`, `bias` `[B or 1, heads, L, L]`, `hidden` bool `[L, L]` where a query must not look."""
        normed = F.layer_norm(x, (self.width,), eps=EPS)
        gate, *parts = F.silu(F.linear(normed, self.project_in)).chunk(4, -1)
        value, query, key = (split_heads(part, self.heads) for part in parts)
        mixed = self.mixed(value, query, key, bias, hidden)
        gated = F.layer_norm(joined_heads(mixed), (self.width,), eps=EPS) * gate
        out: Tensor = x + self.project_out(self.dropout(gated))
        return out

    def mixed(self, value: Tensor, query: Tensor, key: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
        """Pointwise aggregated attention: `[B, heads, L, D / heads]` each -> their sums, likewise."""
        weights = F.silu(query @ key.transpose(-1, -2) + bias).masked_fill(hidden, 0.0)
        return weights @ (value / self.longest)


@register_encoder("hstu")
class HSTUEncoder(SequenceEncoder):
    """Item vectors plus learned positions through HSTU layers, with relative biases of place and time.

    `U, V, Q, K = SiLU(f1(LN(x)))`, `A = SiLU(Q K' + b[t - s] + c[log gap of times]) / N` over s <= t, N the longest
    window, `x + f2(Dropout(LN(A V) * U))`.
    """

    paper = "Zhai et al. ICML 2024"

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        heads = checked_heads(config)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, nn.Identity(), config.normalises_events)
        self.project = fitted(event_width + property_width, config.hidden)
        self.positions = Positions(config.max_length, config.hidden)
        self.position_bias = nn.Parameter(torch.empty(heads, config.max_length).normal_(std=0.02))
        self.time_bias = nn.Parameter(torch.empty(heads, config.time_buckets).normal_(std=0.02))
        self.units = nn.ModuleList(
            _Unit(config.hidden, heads, config.max_length, self.dropout) for _ in range(config.layers)
        )
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        x: Tensor = self.dropout(self.positions(self.project(self.input(events, properties))))
        length = x.shape[1]
        bias = relative_bias(self.position_bias, self.time_bias, length, times, masked=False)
        hidden = later(length, x.device)
        for unit in self.units:
            x = unit(x, bias, hidden)
        return x
