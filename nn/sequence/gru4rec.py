"""GRU4Rec: a gated recurrent unit over the events (Hidasi et al., ICLR 2016; Hidasi and Karatzoglou, CIKM 2018).

Its losses are `bpr_max` and `top1_max` (arXiv 1706.03847). Windows are learned through time, from every position; the
authors go step by step through sessions side by side and cut the gradient after each.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..dropout import FastDropout
from .base import EventInput, SequenceConfig, SequenceEncoder, register_encoder


@register_encoder("gru4rec")
class GRU4RecEncoder(SequenceEncoder):
    """GRU layers; events are dropped out before the first, states after each.

    `r, z = s(W [x_t, h_(t-1)] + b)` each, `n_t = tanh(W x_t + b + r (U h_(t-1) + c))`,
    `h_t = (1 - z) n_t + z h_(t-1)`, s the sigmoid.
    """

    paper = "Hidasi et al. ICLR 2016"

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, self.dropout, config.normalises_events)
        widths = [event_width + property_width] + [config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(nn.GRU(width, config.hidden, batch_first=True) for width in widths)
        for name, weight in self.layers.named_parameters():
            nn.init.zeros_(weight) if "bias" in name else nn.init.xavier_uniform_(weight)
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        states: Tensor = self.input(events, properties)
        for layer in self.layers:
            states = self.dropout(layer(states)[0])
        return states
