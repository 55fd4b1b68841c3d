"""How far ahead of a state lies what it learns: the next event, or one of all that a later period holds.

A user comes back for a page of events, and the next one is mostly decided by the last. Who is asked for everything that
users take in a week should learn what they take in a week.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.split import Part
from .objective import TowerLossConfig
from .windows import TowerData

MOST = 200
"""Furthest that `auto` looks."""


def horizon_of(config: TowerLossConfig, data: TowerData) -> int:
    """The horizon of a configuration; for `auto` what a user with a history takes on average in the validation part,
    rounded down and `MOST` at most.

    That is 1 where each user's last event is left out, and where nobody with a history takes anything there.

    Args:
        config: what the towers learn.
        data: what they see.
    """
    if isinstance(config.horizon, int):
        return config.horizon
    first, begin, end = data.history.ptr[:-1], data.ends(Part.VALID), data.ends(Part.TEST)
    taken = (end - begin)[(begin > first) & (end > begin)]
    return min(MOST, int(taken.mean())) if len(taken) else 1


def events_ahead(users: int, length: int, horizon: int, generator: torch.Generator) -> Tensor:
    """Which event each state of a window learns to predict, int64 [U, L] columns.

    The state before event t learns one of the events t ... t + horizon - 1, or of as many as the window still holds,
    each as likely.
    """
    columns = torch.arange(length).expand(users, length)
    if horizon == 1:
        return columns
    room = (length - columns).clamp(max=horizon)
    return columns + (torch.rand(users, length, generator=generator) * room).long()
