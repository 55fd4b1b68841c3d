"""What Python hands in where ids, records or people are asked for: one or many, lists, columns and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..base.errors import ConfigError
from .subject import Subject


def subjects_of(
    users: Any, history: Any, features: Mapping[str, Any] | None, context: Mapping[str, Any] | None
) -> list[Any]:
    """Raw user ids and subjects; one subject where knowledge is given beside the user.

    Raises:
        ConfigError: nobody is asked about, or knowledge is given beside several users.
    """
    brought = {"history": history, "user_features": features, "context": context}
    given = [name for name, value in brought.items() if value is not None]
    if isinstance(users, Subject) or (isinstance(users, list | tuple) and any(isinstance(u, Subject) for u in users)):
        if given:
            raise ConfigError(f"{given[0]}= is given beside a Subject; say it in the Subject")
        return [users] if isinstance(users, Subject) else list(users)
    ids = [] if users is None else ids_of(users)
    if not given:
        return ids
    if len(ids) > 1:
        raise ConfigError(f"{given[0]}= is of one user and {len(ids)} are named; give a list of recsys.Subject")
    events: Any = history
    if hasattr(history, "columns"):
        events = records_of(history)
    elif history is not None:
        events = list(history) if isinstance(history, list | tuple) else ids_of(history)
    return [Subject(user=ids[0] if ids else None, history=events or (), features=features or {}, context=context or {})]


def records_of(given: Any) -> list[Any]:
    """The rows of a table, or mappings that are given as they are, as mappings."""
    if hasattr(given, "columns"):
        to_list = next(getattr(given, name) for name in ("to_pylist", "to_dicts", "to_dict") if hasattr(given, name))
        return list(to_list("records") if to_list.__name__ == "to_dict" else to_list())
    return [given] if isinstance(given, Mapping) else list(given)


def ids_of(given: Any) -> list[Any]:
    """Raw ids: one, or any sequence or column of them.

    Raises:
        ConfigError: a whole table was given, or an id is missing.
    """
    import pandas as pd

    if hasattr(given, "columns"):
        raise ConfigError(f'a {type(given).__name__} was given as ids; give a column of it, such as table["user_id"]')
    if isinstance(given, str | bytes | np.generic) or not isinstance(given, Iterable):
        given = [given]
    as_list = getattr(given, "to_pylist", None) or getattr(given, "tolist", None)
    ids = list(given if as_list is None else as_list())
    column = np.empty(len(ids), dtype=object)
    column[:] = ids
    if (missing := np.flatnonzero(pd.isna(column))).size:
        raise ConfigError(f"id {missing[0] + 1} of {len(ids)} is missing ({ids[missing[0]]}); leave such rows out")
    return ids
