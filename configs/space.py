"""What a search may change of a configuration: by dotted key the values that are looked at.

The defaults are declared beside the configuration classes (`Settings.tuned`); a TOML file says others:

    "retrieval.tower.dim" = [32, 64, 128]
    "ranking.optim.lr" = { low = 5e-4, high = 8e-3, log = true }
    "ranking.model.dropout" = { low = 0.0, high = 0.5 }
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.settings import Settings
from ..base.tuned import Choice, Dimension, Range
from .file import flat_until, read_toml

FIXED = ("name", "data", "evaluation", "runtime", "final", "rules", "index", "start")
"""What decides which figures are measured, or nothing of them: no key of it is searched."""


def declared_space(section: Settings, at: str = "") -> dict[str, Dimension]:
    """The dimensions that the classes of a configuration's sections declare, by dotted key.

    Args:
        section: a configuration, or a section of one; sections that are not enabled are left out.
        at: dotted key of the section.
    """
    if getattr(section, "enabled", True) is False:
        return {}
    found: dict[str, Dimension] = {f"{at}{name}": dimension for name, dimension in type(section).tuned.items()}
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Settings):
            found |= declared_space(inner, f"{at}{name}.")
    return found


def read_space(file: Path) -> dict[str, Dimension]:
    """The dimensions in a TOML file, by dotted key.

    Raises:
        ConfigError: the file cannot be read, or an entry is neither a list nor a range.
    """
    table, _ = read_toml(file)
    found = {key: _dimension(file, key, value) for key, value in flat_until(table, _is_range).items()}
    if not found:
        raise ConfigError(f"{file} names nothing to search; expected lines such as {_EXAMPLE}")
    for key in found:
        if key.split(".")[0] in FIXED:
            raise ConfigError(f"{file}: {key} cannot be searched, as trials are compared on one data set; take it out")
    return found


_EXAMPLE = '"ranking.optim.lr" = { low = 5e-4, high = 8e-3, log = true }'
_KEYS = {"low", "high", "log", "step"}


def _is_range(value: Mapping[str, Any]) -> bool:
    return "low" in value or "high" in value


def _dimension(file: Path, key: str, value: Any) -> Dimension:
    if isinstance(value, list) and value:
        return Choice(tuple(value))
    if isinstance(value, Mapping) and {"low", "high"} <= set(value) <= _KEYS:
        low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
        numbers = [low, high] if step is None else [low, high, step]
        if all(type(one) in (int, float) for one in numbers) and type(log) is bool and not (log and step is not None):
            try:
                return Range(low, high, log=log, step=step)
            except ValueError as error:
                raise ConfigError(f"{file}: {key}: {error}") from error
    raise ConfigError(f"{file}: {key} = {json.dumps(value, default=str)} is no list and no range; expected {_EXAMPLE}")
