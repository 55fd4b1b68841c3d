"""Readers for public data sets in their official layouts: one set a file, each with `load(path, **options)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ....base.errors import ConfigError
from ..tables import Tables

SOURCES = {
    "movielens": "MovieLens 1M, 100K or latest-small: ratings of movies with genres and, but for latest, user profiles",
    "census": "Census-Income (KDD): one row a person, two or three yes-or-no tasks, no users or items",
    "kuairand": "KuaiRand-Pure: exposures of short videos with twelve feedback signals",
}


def official(name: str) -> str:
    """What the download of a data set is called where its owners publish it."""
    return str(import_module(f".{name}", __name__).OFFICIAL)


def load(name: str, path: str | Path, **options: Any) -> Tables:
    """Load a public data set by the name of its source; `options` are those of its own `load`."""
    if name not in SOURCES:
        raise ConfigError(f'no data source "{name}"; choose one of {", ".join(SOURCES)}')
    tables: Tables = import_module(f".{name}", __name__).load(path, **options)
    return tables
