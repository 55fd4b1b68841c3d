"""Whom an answer is for, in the words of a request: a stored user, a stranger, and what the request knows of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..base.errors import ConfigError
from .ids import id_text

HistoryMode = Literal["append", "replace"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whom an answer is for, and what the request itself knows of them.

    Attributes:
        user: raw id; None for somebody anonymous. An id that the run does not know is no error.
        history: events that the run has not stored, oldest first: item ids, or mappings with `item` and, where they are
            known, `time`, `labels` (label column or task -> value) and columns of the events table that are context
            features. An event without labels counts as one of `retrieval.positive`. When every event has a time, they
            take their places by it; else they follow what is stored.
        history_mode: `append` to what is stored of the user, or `replace` it.
        features: columns of the users table; they override what is stored.
        context: columns of the events table that are context features or inputs of derived ones, as they are at the
            moment of the request; by default those of the latest event that has them. The time column is the moment
            itself, by default the clock's.
    """

    user: Any = None
    history: Sequence[Any] = ()
    history_mode: HistoryMode = "append"
    features: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.history_mode not in ("append", "replace"):
            raise ConfigError(f'history_mode = "{self.history_mode}" is none; expected append or replace')
        if isinstance(self.history, str | bytes):
            raise ConfigError(f"history is the text {self.history!r}; give a list of item ids")

    @property
    def brings_nothing(self) -> bool:
        """Whether the run alone says all there is to say."""
        return not (self.history or self.features or self.context) and self.history_mode == "append"


def raw_text(value: Any, separator: str = "|") -> str | None:
    """A value of a request as the text that a table would hold; None where it is missing, as empty text is.

    Args:
        value: text, a number, True or False, or a list of such.
        separator: between the entries of a list.
    """
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    if isinstance(value, list | tuple) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1):
        return separator.join(text for one in value if (text := raw_text(one)) is not None)
    return (id_text(value).lower() if isinstance(value, bool) else id_text(value)) or None
