"""What every balance of the tasks promises; those that are registered are tested here without being named."""

from __future__ import annotations

from recsys.ranking.balance import balance_kinds
from recsys.testing import BalanceContract


class TestEveryBalance(BalanceContract):
    cases = {name: {"plain": {}} for name in balance_kinds()}
