"""The running maximum of a user's events, and how sharply it is taken."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recsys.base.settings import Settings
from recsys.nn.sequence import SequenceConfig, SequenceEncoder, register_encoder


class MaxOptions(Settings):
    """Keys of `history.options`."""

    sharpness: float = Field(default=4.0, gt=0)
    """`log(sum exp(s x)) / s`: the larger, the nearer to the maximum."""


@register_encoder("smooth_max")
class SmoothMax(SequenceEncoder):
    """State t is the smooth maximum of the events up to t, coordinate by coordinate."""

    Options = MaxOptions

    def __init__(self, config: SequenceConfig, event_width: int, property_width: int = 0, query_width: int = 0) -> None:
        super().__init__(config, event_width, property_width, query_width)
        self._add_no_history(event_width + property_width)

    def encode(self, events: Tensor, properties: Tensor | None, times: Tensor | None, query: Tensor | None) -> Tensor:
        """See `SequenceEncoder.forward`."""
        joined = events if properties is None else torch.cat([events, properties], dim=-1)
        sharpness: float = self.options.sharpness
        states: Tensor = torch.logcumsumexp(sharpness * joined, dim=1) / sharpness
        return states
