"""How the tasks' losses become one step: fixed weights, a schedule, or weights that adapt to the training.

A balance is a subclass of `Balance` with `kind="..."`, in a file that is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...data.schema import TaskSpec
from . import adaptive, fixed, surgery  # noqa: F401 - register their classes
from .base import BALANCES, Balance, BalanceConfig

__all__ = ["BALANCES", "Balance", "BalanceConfig", "balance_kinds", "build_balance"]


def balance_kinds() -> dict[str, type[Balance]]:
    """Every balance by name, sorted."""
    return BALANCES.entries()


def build_balance(config: BalanceConfig, tasks: Sequence[TaskSpec]) -> Balance:
    """The balance called `config.kind`.

    Raises:
        ConfigError: there is none; the message lists the available names.
    """
    return BALANCES[config.kind](config, tasks)
