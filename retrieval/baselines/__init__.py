"""Baselines by name: what a two-tower model must beat before its numbers mean anything.

`build_baseline("ease", regularisation=300).fit(users, items, times, num_users, num_items)` gives an object that scores
histories; all of them share the protocol of `base.Baseline`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from ...base.arrays import AnyArray
from ...base.errors import ConfigError
from ...base.package import install_hint
from ...base.settings import checked_settings
from .base import BASELINES, Baseline, Histories, describe_state

__all__ = [
    "BASELINES",
    "Baseline",
    "Histories",
    "baseline_class",
    "baseline_from_state",
    "build_baseline",
]


def baseline_class(name: str) -> type[Baseline]:
    """The class of a baseline.

    Raises:
        ConfigError: no baseline has that name.
    """
    return BASELINES[name]


def build_baseline(name: str, **options: Any) -> Baseline:
    """An unfitted baseline.

    Args:
        name: one of `BASELINES`.
        options: fields of its settings.

    Raises:
        ConfigError: unknown name or option, or a package that the baseline is fitted by is not installed.
    """
    kind = baseline_class(name)
    if kind.fitted_by and importlib.util.find_spec(kind.fitted_by) is None:
        raise ConfigError(
            f"the {name} baseline needs the package {kind.fitted_by!r}, which is not installed; "
            f"run {install_hint('bench')} or leave the baseline out"
        )
    return kind(checked_settings(kind.settings_class, f"baseline {name}", options))


def baseline_from_state(state: dict[str, AnyArray]) -> Baseline:
    """The fitted baseline that `Baseline.state` described, whichever it is."""
    return baseline_class(describe_state(state)["name"]).from_state(state)
