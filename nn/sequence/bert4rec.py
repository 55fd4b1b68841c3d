"""BERT4Rec: events hidden and filled in by what stands on both sides of them (Sun et al., CIKM 2019, arXiv 1904.06690).

Trained by `filled` (`[retrieval] hidden_share`), asked by a window with a hidden event behind it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..dropout import FastDropout
from .attention import attend, checked_heads, joined_heads, split_heads
from .base import EventInput, SequenceConfig, SequenceEncoder, fitted, register_encoder


class _Block(nn.Module):
    """`LN(x + Dropout(MH(x)))`, then `LN(x + Dropout(PFFN(x)))`, GELU inside, four times as wide."""

    def __init__(self, width: int, heads: int, dropout: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` is `[B, L, D]`; `bias` `[B, 1, 1, L]` is -inf where nothing stands."""
        query, key, value = (split_heads(part, self.heads) for part in self.project_in(x).chunk(3, -1))
        mixed = self.project_out(joined_heads(attend(query, key, value, bias, self.dropout)))
        x = self.attention_norm(x + self.dropout(mixed))
        out: Tensor = self.feed_norm(x + self.dropout(self.feed(x)))
        return out


@register_encoder("bert4rec")
class BERT4RecEncoder(SequenceEncoder):
    """Item vectors plus learned positions through blocks that look both ways; hidden events are one learned vector.

    `A = LN(x + Dropout(MH(x)))`, `x = LN(A + Dropout(GELU(A W1 + b1) W2 + b2))`; what is said of a hidden event is
    `LN(GELU(x W + b))`. The state after t events is what is said of a hidden event behind them, which takes a pass of
    its own for each t: one for a request, and L for `forward`, which no training by hidden events asks for.
    """

    paper = "Sun et al. CIKM 2019"
    fills = True

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        width, heads = config.hidden, checked_heads(config)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, nn.Identity(), config.normalises_events)
        self.project = fitted(event_width + property_width, width)
        self.mask = nn.Parameter(torch.empty(width).normal_(std=0.02 * math.sqrt(width)))
        self.positions = nn.Parameter(torch.empty(config.max_length, width).normal_(std=0.02))
        self.input_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, heads, self.dropout) for _ in range(config.layers))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self._add_no_history(width)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`; a pass for every event, which sees those up to it."""
        x = self.project(self.input(events, properties))
        batch, length, _ = x.shape
        counts = (x.new_full((batch,), count, dtype=torch.int64) for count in range(1, length + 1))
        return torch.stack([self._behind(x[:, : t + 1], count) for t, count in enumerate(counts)], dim=1)

    def last(
        self,
        events: Tensor,
        properties: Tensor | None,
        lengths: Tensor,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """See `SequenceEncoder.last`; one pass."""
        self._check(events, properties, query)
        if events.shape[1] == 0:
            return self._pick(events.new_zeros(events.shape[0], 0, self.output_width), lengths)
        said = self._behind(self.project(self.input(events, properties)), lengths)
        return torch.where((lengths > 0)[:, None], said, self.no_history.to(said.dtype))

    def filled(
        self,
        events: Tensor,
        properties: Tensor | None,
        hidden: Tensor,
        lengths: Tensor,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """See `SequenceEncoder.filled`."""
        self._check(events, properties, query)
        x = torch.where(hidden[..., None], self.mask, self.project(self.input(events, properties)))
        places = torch.arange(x.shape[1], device=x.device)
        said: Tensor = self.head(self._passed(x, places.expand(x.shape[:2]), places < lengths.clamp(min=1)[:, None]))
        front = torch.where(hidden[:, :1, None], said[:, :1], self.no_history.to(said.dtype))
        return torch.cat([front, said[:, 1:]], dim=1)

    def _behind(self, x: Tensor, lengths: Tensor) -> Tensor:
        """What is said of a hidden event behind the first `lengths` of `[B, L, D]`: `[B, D]`.

        It stands at the last place that a training knows at most; the oldest events of a full window then share the
        first one.
        """
        at = torch.arange(x.shape[1] + 1, device=x.device)
        x = torch.where((at == lengths[:, None])[..., None], self.mask, nn.functional.pad(x, (0, 0, 0, 1)))
        shift = (lengths + 1 - len(self.positions)).clamp(min=0)
        passed = self._passed(x, (at - shift[:, None]).clamp(0, len(self.positions) - 1), at <= lengths[:, None])
        said: Tensor = self.head(passed[torch.arange(len(x), device=x.device), lengths.long()])
        return said

    def _passed(self, x: Tensor, places: Tensor, present: Tensor) -> Tensor:
        """`[B, L, D]` at `places` int `[B, L]` through the blocks; nobody looks where `present` `[B, L]` is False."""
        bias = torch.zeros_like(present, dtype=x.dtype).masked_fill(~present, -math.inf)[:, None, None]
        x = self.dropout(self.input_norm(x + self.positions[places]))
        for block in self.blocks:
            x = block(x, bias)
        return x
