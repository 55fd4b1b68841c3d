"""Several towers side by side that answer as one: an item's score is the mean of the towers' scores.

A mean of inner products is one inner product of vectors put side by side, so an index searches an ensemble as it does
one tower, at as many times the width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...base.arrays import F32
from ...data.batch import Block
from .inputs import Windows
from .train import build_two_tower
from .two_tower import TwoTower, TwoTowerConfig
from .windows import TowerData


class TowerEnsemble(TwoTower):
    """S trained towers of one configuration and one data set; it answers, and is not trained as a whole.

    Args:
        members: the towers, each with one vector a user.
    """

    def __init__(self, members: Sequence[TwoTower]) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        first = members[0]
        self.config, self.layout = first.config, first.layout
        # What is asked of the towers' parts is answered by the first; they are its modules and not the ensemble's.
        self.__dict__.update(
            table=first.table, user_content=first.user_content, bias=first.bias, log_scale=None, linear=None
        )

    def towers(self) -> list[TwoTower]:
        """The members."""
        return [member for member in self.members if isinstance(member, TwoTower)]

    @property
    def width(self) -> int:
        """Sum of the members' widths."""
        return sum(member.width for member in self.towers())

    @property
    def vectors_hold_content(self) -> bool:
        """Never as they are: every member has a part of the vectors, with a bias of its own."""
        return False

    def embed_content(self, items: Block) -> Tensor:
        """Item columns of R items -> the members' content side by side, [R, S * D], or [R, S * (D + rank)]."""
        return torch.cat([member.embed_content(items) for member in self.towers()], dim=1)

    def item_vectors(self, items: Block, content: Tensor) -> Tensor:
        """Content of the same items, see `embed_content` -> vectors [R, width]."""
        parts = content.chunk(len(self.members), dim=1)
        return torch.cat([m.item_vectors(items, part) for m, part in zip(self.towers(), parts, strict=True)], dim=1)

    def without_bias(self, vectors: F32) -> F32:
        """Item vectors [R, width] -> [R, S * D], the members' side by side without their biases."""
        parts = np.split(vectors, len(self.members), axis=1)
        return np.concatenate([m.without_bias(part) for m, part in zip(self.towers(), parts, strict=True)], axis=1)

    def directions(self, vectors: F32) -> F32:
        """Item vectors [R, width] -> [R, S * D], whose products are the mean of the members' cosines."""
        parts = np.split(vectors, len(self.members), axis=1)
        unit = [member.directions(part) for member, part in zip(self.towers(), parts, strict=True)]
        return np.asarray(np.concatenate(unit, axis=1) / len(unit) ** 0.5, dtype=np.float32)

    def user_vectors(self, windows: Windows, history: Tensor) -> Tensor:
        """Windows and the content of their items -> vectors [B, width], whose products are means."""
        parts = history.chunk(len(self.members), dim=2)
        shares = [member.scale / len(self.members) for member in self.towers()]
        vectors = [m.user_vectors(windows, part) for m, part in zip(self.towers(), parts, strict=True)]
        return torch.cat([share * block for share, block in zip(shares, vectors, strict=True)], dim=1)


def as_one(members: Sequence[TwoTower]) -> TwoTower:
    """A tower as it is, several as an ensemble."""
    return members[0] if len(members) == 1 else TowerEnsemble(members)


def build_tower_members(data: TowerData, config: TwoTowerConfig, seed: int, count: int) -> TwoTower:
    """`count` towers with the weights of `seed`, `seed + 1`, ..., as one."""
    return as_one([build_two_tower(data, config, seed + member) for member in range(count)])
