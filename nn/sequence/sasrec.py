"""SASRec: self-attention over a history with learned positions (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

`transformer` has the same shape with relative positions and times; this is the paper's own. gSASRec (Petrov and
Macdonald, RecSys 2023) is this encoder under the loss `gbce`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..dropout import FastDropout
from .attention import Positions, attend, causal_bias, checked_heads, joined_heads, split_heads
from .base import EventInput, SequenceConfig, SequenceEncoder, fitted, register_encoder


class _Block(nn.Module):
    """`x + Dropout(SA(LN(x)))`, then `x + Dropout(FFN(LN(x)))`; the feed-forward is as wide as the states."""

    def __init__(self, width: int, heads: int, dropout: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), dropout, nn.Linear(width, width))
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` is `[B, L, D]`; `bias` `[L, L]` is -inf above the diagonal."""
        query, key, value = (
            split_heads(part, self.heads) for part in self.project(self.attention_norm(x)).chunk(3, -1)
        )
        x = x + self.dropout(joined_heads(attend(query, key, value, bias, self.dropout)))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


@register_encoder("sasrec")
class SASRecEncoder(SequenceEncoder):
    """Item vectors plus learned positions through causal blocks, each of attention and a feed-forward of two layers.

    `SA(E) = softmax(E W^Q (E W^K)' / sqrt(d)) E W^V` over s <= t, `FFN(S) = ReLU(S W1 + b1) W2 + b2`, each as
    `x + Dropout(g(LN(x)))`, and a layer norm at the end; the attention's weights are dropped out too.
    """

    paper = "Kang and McAuley ICDM 2018"
    block: Callable[[int, int, nn.Module], nn.Module] = _Block
    """Makes a block of a width, a number of heads and a dropout."""

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        heads = checked_heads(config)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, nn.Identity(), config.normalises_events)
        self.project = fitted(event_width + property_width, config.hidden)
        self.positions = Positions(config.max_length, config.hidden)
        self.blocks = nn.ModuleList(type(self).block(config.hidden, heads, self.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        x = self.dropout(self.positions(self.project(self.input(events, properties))))
        bias = causal_bias(x.shape[1], x)
        for block in self.blocks:
            x = block(x, bias)
        states: Tensor = self.norm(x)
        return states
