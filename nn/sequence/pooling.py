"""Order-free and fading averages of a history: the cheapest encoders, and the reference a recurrence must beat.

The mean is what DSSM does with a history (Huang et al., CIKM 2013, has none; mean pooling is YouTube's, Covington et
al., RecSys 2016). The decayed mean keeps several averages that forget at different learned speeds, side by side, so
that the layers above can tell the last hour's taste from the last year's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..dropout import FastDropout
from .base import SequenceConfig, SequenceEncoder, register_encoder

CHUNK = 64
"""Events averaged by one matrix product of the decayed mean; larger is more arithmetic, smaller more passes."""


def _joined(events: Tensor, properties: Tensor | None) -> Tensor:
    return events if properties is None else torch.cat([events, properties], dim=-1)


@register_encoder("mean")
class MeanEncoder(SequenceEncoder):
    """Mean of the last `window` events (all of them by default), by differences of cumulative sums.

    `h_t = sum_s e_s / n` over the last n = min(t, window) events.
    """

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self.dropout = FastDropout(config.dropout)
        self._add_no_history(event_width + property_width)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        joined = _joined(events, properties)
        sums, length = joined.cumsum(1), joined.shape[1]
        count = torch.arange(1, length + 1, device=joined.device)
        window = self.config.window
        if window is not None and window < length:
            sums = sums - nn.functional.pad(sums[:, :-window], (0, 0, window, 0))
            count = count.clamp(max=window)
        means: Tensor = self.dropout(sums / count[:, None].to(joined.dtype))
        return means


@register_encoder("decayed_mean")
class DecayedMeanEncoder(SequenceEncoder):
    """Averages with weight rate^age, one per learned rate, side by side.

    `h_t = sum_s rate^(t-s) e_s / sum_s rate^(t-s)` over events s <= t, rate in (0, 1).

    Linear in the length: chunks of events are averaged by one triangular product each, and what came before a chunk
    reaches it through the last sum of the chunk before. Every weight is a power of a rate below 1, so nothing
    overflows however long the history is.
    """

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self.dropout = FastDropout(config.dropout)
        rates = torch.tensor([0.5 ** (1.0 / half_life) for half_life in config.half_lives])
        self.rate_logits = nn.Parameter(torch.logit(rates))
        self._add_no_history((event_width + property_width) * len(config.half_lives))

    @property
    def rates(self) -> Tensor:
        """`[R]` decay per event of each average, in (0, 1)."""
        return torch.sigmoid(self.rate_logits)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        joined = _joined(events, properties)
        batch, length, width = joined.shape
        log_rates = nn.functional.logsigmoid(self.rate_logits).to(joined.dtype).clamp(max=-1e-7)
        steps = torch.arange(min(CHUNK, length), device=joined.device)
        age = (steps[:, None] - steps[None, :]).to(joined.dtype)
        within = torch.exp(log_rates[:, None] * age.clamp(min=0)[:, None]) * (age >= 0)[:, None]  # [chunk, R, chunk]
        fade = torch.exp(log_rates * (steps[:, None] + 1))[..., None]  # [chunk, R, 1]
        total = self._total_weight(log_rates, length)
        states, carried = [], None
        for start in range(0, length, CHUNK):
            part = joined[:, start : start + CHUNK]
            size = part.shape[1]
            norm = total[start : start + size, :, None]
            # Normalising the small matrix instead of the large result spares most of the backward pass.
            decayed = (within[:size, :, :size] / norm).view(-1, size) @ part  # [B, size * R, width]
            mean = decayed.view(batch, size, -1, width)
            if carried is not None:
                mean = mean + fade[:size] / norm * carried
            if start + size < length:
                carried = mean[:, -1:] * norm[-1:]
            states.append(mean.view(batch, size, -1))
        means: Tensor = self.dropout(states[0] if len(states) == 1 else torch.cat(states, dim=1))
        return means

    @staticmethod
    def _total_weight(log_rates: Tensor, length: int) -> Tensor:
        """`[L, R]`: 1 + rate + ... + rate^t = (1 - rate^(t+1)) / (1 - rate), exact also near rate 1."""
        count = torch.arange(1, length + 1, device=log_rates.device)[:, None]
        return torch.expm1(log_rates * count) / torch.expm1(log_rates)
