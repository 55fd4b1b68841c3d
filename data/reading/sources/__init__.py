"""Readers for public data sets in their official layouts: one set a file, each with `load(path, **options)`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ....base.registry import Registry
from ..tables import Tables

SOURCES: Registry[Callable[..., Tables]] = Registry(
    "data source",
    {
        "movielens": "movielens:load",  # 1M, 100K or latest-small
        "census": "census:load",  # Census-Income (KDD): one row a person, no users or items
        "kuairand": "kuairand:load",  # KuaiRand-Pure: exposures of short videos with twelve feedback signals
    },
    __name__,
)
"""The reader of every public data set by name."""


def official(name: str) -> str:
    """What the download of a data set is called where its owners publish it."""
    return str(import_module(f".{name}", __name__).OFFICIAL)


def load(name: str, path: str | Path, **options: Any) -> Tables:
    """Load a public data set by the name of its source; `options` are those of its own `load`.

    Raises:
        ConfigError: there is no such source.
    """
    return SOURCES[name](path, **options)
