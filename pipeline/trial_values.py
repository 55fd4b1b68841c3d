"""Values of a search as Optuna keeps and suggests them."""

from __future__ import annotations

import json
from typing import Any

from ..base.tuned import Choice, Dimension


def is_within(dimension: Dimension, value: Any) -> bool:
    """Whether a value is one of the dimension's."""
    if isinstance(dimension, Choice):
        return value in dimension.values or (isinstance(value, list) and tuple(value) in dimension.values)
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def as_kept(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna keeps it: lists as JSON."""
    return json.dumps(value) if isinstance(dimension, Choice) and isinstance(value, list | tuple) else value


def from_kept(dimension: Dimension, kept: Any) -> Any:
    """The reverse of `as_kept`."""
    if not isinstance(dimension, Choice):
        return kept
    return next(one for one in dimension.values if as_kept(dimension, one) == kept)


def suggested(trial: Any, key: str, dimension: Dimension) -> Any:
    """A value of the dimension for this trial."""
    if isinstance(dimension, Choice):
        return from_kept(
            dimension, trial.suggest_categorical(key, [as_kept(dimension, one) for one in dimension.values])
        )
    if dimension.whole:
        low, high = int(dimension.low), int(dimension.high)
        return trial.suggest_int(key, low, high, log=dimension.log, step=int(dimension.step or 1))
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log, step=dimension.step)
