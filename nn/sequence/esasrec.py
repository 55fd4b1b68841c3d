"""eSASRec: SASRec with LiGR's gated blocks (Tikhonovich et al., RecSys 2025, arXiv 2508.06450).

The blocks are those of LiGR (Borisyuk et al., arXiv 2502.03417): what a sublayer adds is weighed by a gate that reads
the sublayer's input, and the feed-forward is a SwiGLU. eSASRec's training is SASRec's with a sampled softmax.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import attend, joined_heads, split_heads
from .base import register_encoder
from .sasrec import SASRecEncoder


class _Swiglu(nn.Module):
    """`(SiLU(x W1) * x W3) W2`, four times as wide inside, without biases."""

    def __init__(self, width: int, dropout: nn.Module) -> None:
        super().__init__()
        self.spread = nn.Linear(width, 8 * width, bias=False)
        self.gather = nn.Linear(4 * width, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` -> `[B, L, D]`."""
        gate, content = self.spread(x).chunk(2, -1)
        out: Tensor = self.gather(self.dropout(nn.functional.silu(gate) * content))
        return out


class _Block(nn.Module):
    """`x + sigmoid(x G) * Dropout(g(LN(x)))` for attention, then for the feed-forward."""

    def __init__(self, width: int, heads: int, dropout: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.attention_gate = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = _Swiglu(width, dropout)
        self.feed_gate = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` is `[B, L, D]`; `bias` `[L, L]` is -inf above the diagonal."""
        projected = self.project_in(self.attention_norm(x)).chunk(3, -1)
        query, key, value = (split_heads(part, self.heads) for part in projected)
        mixed = self.project_out(joined_heads(attend(query, key, value, bias, self.dropout)))
        x = x + self.attention_gate(x).sigmoid() * self.dropout(mixed)
        out: Tensor = x + self.feed_gate(x).sigmoid() * self.dropout(self.feed(self.feed_norm(x)))
        return out


@register_encoder("esasrec")
class ESASRecEncoder(SASRecEncoder):
    """SASRec whose sublayers are gated by what they read: `x = x + sigmoid(x G + c) * Dropout(g(LN(x)))`.

    g is causal attention of several heads with an output projection, and then `(SiLU(x W1) * x W3) W2`.
    """

    paper = "Tikhonovich et al. RecSys 2025"
    block = _Block
