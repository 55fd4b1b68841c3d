"""Dropout that costs one multiplication: a slice, at a random offset, of one prepared random mask.

`torch.nn.Dropout` draws a fresh Bernoulli variable per element, which on a CPU takes some thirty times as long as the
multiplication it feeds. Here the draws are made once per rate and device; every call takes consecutive entries
from a place chosen by PyTorch's random generator, so that seeding and resuming work as with any other random number.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from ..base.errors import ConfigError

POOL_SIZE = 1 << 23
"""Entries of a prepared mask: several times the largest activation of a usual batch; 32 MB per rate."""


@lru_cache(maxsize=8)
def mask_pool(rate: float, size: int = POOL_SIZE) -> Tensor:
    """The prepared mask of one dropout rate: zeros, and 1 / (share kept), in a fixed random order.

    Args:
        rate: share of zeros, in (0, 1); met to within half an entry.
        size: number of entries.

    Returns:
        `[size]` float32 with mean 1.
    """
    generator = torch.Generator().manual_seed(0x5EED)
    noise = torch.rand(size, generator=generator, dtype=torch.float64)
    dropped = max(1, round(rate * size))
    kept = noise > noise.kthvalue(dropped).values
    return kept.float().mul_(size / (size - dropped))


class FastDropout(nn.Module):
    """Zeroes a share `rate` of the entries while training and scales the others by 1 / (1 - rate).

    Two calls may draw overlapping stretches of the mask; over a training run every offset is equally likely.

    Args:
        rate: probability that an entry is zeroed, in [0, 1).
        generator: source of the offsets; None is PyTorch's default generator.
    """

    def __init__(self, rate: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"dropout={rate} is outside [0, 1); give a share below 1")
        self.rate = rate
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mask.

        Args:
            x: any shape.

        Returns:
            The shape and type of `x`; `x` itself in eval mode or with rate 0.
        """
        if not self.training or self.rate == 0.0 or x.numel() == 0:
            return x
        if x.device.type != "cpu":  # a GPU draws as fast as it multiplies
            return nn.functional.dropout(x, self.rate, training=True)
        return x * self._mask(x.numel()).view(x.shape).to(x.dtype)

    def _mask(self, size: int) -> Tensor:
        pool = mask_pool(self.rate)
        stretch = min(size, pool.numel() // 2)  # so that a call always has offsets to choose from
        starts = torch.randint(pool.numel() - stretch + 1, (-(-size // stretch),), generator=self.generator)
        parts = [pool[start : start + stretch] for start in starts.tolist()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[:size]

    def extra_repr(self) -> str:
        """The rate, for `print(model)`."""
        return f"rate={self.rate}"
