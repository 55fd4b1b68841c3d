"""Readers for public data sets in their official layouts: one set a file, each with `load(path, **options)`.

A reader is called with the keyword `bad`, which collects bad rows, beside the `data.options`. An extension adds one by
`SOURCES.register("name", load)`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....base.errors import ConfigError
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
FILES = "files"
"""`data.source` of tables that the configuration names itself."""


def official(name: str) -> str:
    """What the download of a data set is called where its owners publish it."""
    return str(getattr(sys.modules[SOURCES[name].__module__], "OFFICIAL", f"the data of {name}"))


def load(name: str, path: str | Path, **options: Any) -> Tables:
    """Load a public data set by the name of its source; `options` are those of its own `load`.

    Raises:
        ConfigError: there is no such source, or it knows no such option.
    """
    reader = SOURCES[name]
    try:
        inspect.signature(reader).bind(path, **options)
    except TypeError as error:
        raise ConfigError(
            f'data.options of the source "{name}": {error}; see its reader, {reader.__module__}'
        ) from error
    return reader(path, **options)
