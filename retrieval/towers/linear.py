"""A linear model of histories as sets, as further numbers of the vectors of users and items.

Who learns the next event learns what follows what; a linear model of sets says what goes together, whenever. Both are
inner products, so their sum is one, and one index finds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...base.arrays import F32


@dataclass(frozen=True)
class Factors:
    """What items say of a user, and what they are compared by.

    Attributes:
        reads: float32 [V, R], rows of the item ids; zero for padding and for items without a row of their own.
        writes: float32 [V, R].
    """

    reads: F32
    writes: F32


class LinearPart(nn.Module):
    """`score(u, i) = 1 / sqrt(n) * <sum of reads of the n events of u, writes of i>`; it is fitted and not trained.

    Args:
        rows: V, of the item ids.
        rank: R.
    """

    reads: Tensor
    writes: Tensor

    def __init__(self, rows: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("reads", torch.zeros(rows, rank))
        self.register_buffer("writes", torch.zeros(rows, rank))

    @classmethod
    def of(cls, factors: Factors, weight: float) -> LinearPart:
        """The part that adds so many times what the factors say."""
        part = cls(*factors.reads.shape)
        part.reads.copy_(torch.from_numpy(factors.reads) * weight)
        part.writes.copy_(torch.from_numpy(factors.writes))
        return part

    def longer(self, rows: int) -> LinearPart:
        """The same part over so many rows, of which those behind its own are zero."""
        part = LinearPart(rows, self.rank).to(self.reads.device)
        part.reads[: len(self.reads)] = self.reads
        part.writes[: len(self.writes)] = self.writes
        return part

    @property
    def rank(self) -> int:
        """R, by how many numbers the vectors are longer."""
        return self.reads.shape[1]

    @staticmethod
    def of_users(events: Tensor, present: Tensor) -> Tensor:
        """What the events of B windows say together, [B, R]; zero of none. An item of two events is read twice.

        Args:
            events: [B, L, R] rows of `reads`.
            present: bool [B, L].
        """
        summed = (events * present.unsqueeze(-1)).sum(dim=1)
        return summed / present.sum(dim=1, keepdim=True).clamp(min=1).to(events).sqrt()
