"""LSTM history encoders: the plain one and DUPN's property-gated one with attention.

DUPN: Ni et al., "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce
Tasks", KDD 2018 (arXiv 1805.10727). The plain LSTM reads properties as part of its input; in DUPN they steer the
three gates and are kept out of the content that the memory cell stores.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..dropout import FastDropout
from ..precision import recurrent_autocast
from .base import EventInput, SequenceConfig, SequenceEncoder, register_encoder

WIDEST_SPAN = 60.0
"""Largest difference of attention scores that running sums take: exp(-60) = 9e-27 is far from float32's smallest."""


@register_encoder("lstm")
class LSTMEncoder(SequenceEncoder):
    """Layer norm, dropout, LSTM layers, dropout; properties are part of the input. No positions, no attention.

    `c_t = f_t c_(t-1) + i_t tanh(W [x_t, h_(t-1)] + b)`, `h_t = o_t tanh(c_t)`, gates sigmoids of x_t and h_(t-1).
    """

    paper = "Hochreiter and Schmidhuber 1997"

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, self.dropout, config.normalises_events)
        widths = [event_width + property_width] + [config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(nn.LSTM(width, config.hidden, batch_first=True) for width in widths)
        for name, bias in self.layers.named_parameters():
            if "bias" in name:
                nn.init.zeros_(bias)
            if name.endswith("bias_hh_l0"):
                nn.init.ones_(bias[config.hidden : 2 * config.hidden])  # forget gates start open
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        states: Tensor = self.input(events, properties)
        for layer in self.layers:
            with recurrent_autocast(self.training and self.config.fast, states.device):
                states = layer(states)[0]
            states = self.dropout(states.to(events.dtype))
        return states


class PropertyGatedLSTM(nn.Module):
    """One LSTM layer whose input, forget and output gates read the properties while its content does not.

    With s = sigmoid, e the event, p its properties:
    `i, f, o = s(W_e e + W_p p + W_h h + b)` per gate; `c = f * c + i * tanh(W_e e + W_h h + b)`; `h = o * tanh(c)`.

    This is exactly an LSTM over [e, p] whose weights from p to the content are zero, so the fused kernel computes it;
    the zero block is not a parameter. With `peephole`, the gates i and f also read the old cell and o the new one,
    element-wise; no fused kernel has that, so it runs step by step.

    Args:
        event_width: De.
        property_width: Dp, 0 for a standard LSTM.
        hidden: H, width of state and memory cell.
        peephole: add the peephole terms.
    """

    def __init__(self, event_width: int, property_width: int, hidden: int, peephole: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        bound = 1.0 / math.sqrt(hidden)
        self.weight_event = nn.Parameter(torch.empty(4 * hidden, event_width).uniform_(-bound, bound))
        """Gates stacked in PyTorch's order: input, forget, content, output."""
        self.weight_hidden = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.weight_property = nn.Parameter(torch.empty(3 * hidden, property_width).uniform_(-bound, bound))
        """Gates stacked: input, forget, output."""
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        nn.init.ones_(self.bias[hidden : 2 * hidden])  # forget gates start open
        self.peephole = nn.Parameter(torch.zeros(3, hidden)) if peephole else None

    def input_weight(self) -> Tensor:
        """`[4H, De + Dp]`: the weights of [e, p], with the zero block from p to the content in place."""
        hidden, by_property = self.hidden, self.weight_property
        content = by_property.new_zeros(hidden, by_property.shape[1])
        gates = torch.cat([by_property[: 2 * hidden], content, by_property[2 * hidden :]])
        return torch.cat([self.weight_event, gates], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Run over the sequence.

        Args:
            x: `[B, L, De + Dp]`, events beside properties.

        Returns:
            `[B, L, H]`.
        """
        start = x.new_zeros(1, x.shape[0], self.hidden)
        if self.peephole is not None:
            return self._steps(x, self.peephole)
        weights = [self.input_weight(), self.weight_hidden, self.bias, torch.zeros_like(self.bias)]
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]

    def _steps(self, x: Tensor, peephole: Tensor) -> Tensor:
        inputs = nn.functional.linear(x, self.input_weight(), self.bias)
        state = cell = x.new_zeros(x.shape[0], self.hidden)
        states = []
        for step in inputs.unbind(1):
            i, f, content, o = (step + state @ self.weight_hidden.T).chunk(4, dim=-1)
            kept = torch.sigmoid(f + peephole[1] * cell) * cell
            cell = kept + torch.sigmoid(i + peephole[0] * cell) * torch.tanh(content)
            state = torch.sigmoid(o + peephole[2] * cell) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, dim=1)


@register_encoder("dupn")
class DUPNEncoder(SequenceEncoder):
    """Property-gated LSTM, then attention over its states: `rep_t = sum over s <= t of softmax(score)_s h_s`.

    The score of an event is an MLP over its state, the user's query vector and its properties, never over a
    candidate item: one user vector serves every candidate and every task. It does not depend on t either, so a
    training window needs no attention per position, only running sums, and serving one softmax.
    """

    paper = "Ni et al. KDD 2018"

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self.dropout = FastDropout(config.dropout)
        self.input = EventInput(event_width, self.dropout, config.normalises_events)
        widths = [event_width] + [config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(
            PropertyGatedLSTM(width, property_width, config.hidden, config.peephole) for width in widths
        )
        self.score_state = nn.Linear(config.hidden + property_width, config.attention_hidden)
        self.score_query = nn.Linear(query_width, config.attention_hidden, bias=False) if query_width else None
        self.score_out = nn.Linear(config.attention_hidden, 1, bias=False)  # a bias would cancel in the softmax
        self._add_no_history(config.hidden)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        states, scores = self._states_and_scores(events, properties, query)
        summaries: Tensor = self.dropout(running_attention(scores, states))
        return summaries

    def last(
        self,
        events: Tensor,
        properties: Tensor | None,
        lengths: Tensor,
        *,
        times: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """See `SequenceEncoder.last`; one row of attention instead of a matrix."""
        self._check(events, properties, query)
        if events.shape[1] == 0:
            return self._pick(events.new_zeros(events.shape[0], 0, self.output_width), lengths)
        states, scores = self._states_and_scores(events, properties, query)
        summary = (masked_softmax(scores, lengths)[:, None] @ states)[:, 0]
        return torch.where((lengths > 0)[:, None], self.dropout(summary), self.no_history.to(summary.dtype))

    def attention(
        self, events: Tensor, properties: Tensor | None, lengths: Tensor, query: Tensor | None = None
    ) -> Tensor:
        """Weight of every event in the final user vector, to be looked at.

        Args:
            events: as in `forward`.
            properties: as in `forward`.
            lengths: `[B]` int.
            query: as in `forward`.

        Returns:
            `[B, L]`, summing to 1 over valid events and 0 on padding; all 0 without history.
        """
        self._check(events, properties, query)
        return masked_softmax(self._states_and_scores(events, properties, query)[1], lengths)

    def _states_and_scores(
        self, events: Tensor, properties: Tensor | None, query: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """States `[B, L, H]` and attention scores `[B, L]`."""
        states = self.input(events, None)
        for depth, layer in enumerate(self.layers):
            states = self.dropout(states) if depth else states
            joined = states if properties is None else torch.cat([states, properties], dim=-1)
            with recurrent_autocast(self.training and self.config.fast, states.device):
                states = layer(joined)
            states = states.to(events.dtype)
        read = states if properties is None else torch.cat([states, properties], dim=-1)
        hidden = self.score_state(read)
        if self.score_query is not None and query is not None:
            hidden = hidden + self.score_query(query)[:, None]
        return states, self.score_out(torch.tanh(hidden))[..., 0]


def running_attention(scores: Tensor, states: Tensor) -> Tensor:
    """Softmax-weighted mean of the states so far: `sum over s <= t of exp(score_s) state_s / sum of exp(score_s)`.

    Two running sums give it in one pass. Where the scores of a row span more than float32 can hold as exp(score),
    the triangular matrix of softmaxes is formed instead, which is stable for any scores.

    Args:
        scores: `[B, L]` float.
        states: `[B, L, H]`.

    Returns:
        `[B, L, H]`.
    """
    top = scores.detach().amax(1, keepdim=True)
    if float((top - scores.detach().amin(1, keepdim=True)).max()) < WIDEST_SPAN:
        weights = torch.exp(scores - top)
        return (weights[..., None] * states).cumsum(1) / weights.cumsum(1)[..., None]
    length = scores.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    return scores[:, None, :].expand(-1, length, -1).masked_fill(later, -math.inf).softmax(-1) @ states


def masked_softmax(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over the valid leading entries of each row; a row without any is all zero, gradient included.

    Args:
        scores: `[B, L]` float.
        lengths: `[B]` int, valid entries per row.

    Returns:
        `[B, L]`.
    """
    valid = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~valid, lowest).softmax(-1).masked_fill(~valid, 0.0)
