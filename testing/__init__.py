"""What rankers, encoders, losses, baselines, balances and sources promise, as test classes for whoever adds one.

    from recsys.testing import RankerContract

    class TestMine(RankerContract):
        cases = {"mine": {"plain": {}, "wide": {"hidden": (64,)}}}

pytest collects such a class and asks everything of every case; it needs nothing else of this library's own tests.
"""

from __future__ import annotations

from .balances import BalanceContract
from .baselines import BaselineContract
from .contract import Contract
from .encoders import EncoderContract
from .losses import LossContract
from .rankers import RankerContract
from .sources import SourceContract
from .toy import Toy

__all__ = [
    "BalanceContract",
    "BaselineContract",
    "Contract",
    "EncoderContract",
    "LossContract",
    "RankerContract",
    "SourceContract",
    "Toy",
]
