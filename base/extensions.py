"""Modules of other packages that add to what a configuration can name: named by `extensions`, or installed.

An extension is a module whose import registers things: a subclass of `Ranker` with `kind="..."`, an encoder under
`register_encoder`, and so on. A package makes its own known by an entry point, so that nobody need name it:

    [project.entry-points."recsys.extensions"]
    my_package = "my_package.rankers"
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ConfigError

GROUP = "recsys.extensions"
"""Group of the entry points."""
KEY = "extensions"
"""Top-level key of a configuration that names modules."""
OURS = "recsys"


def load_named(table: Mapping[str, Any]) -> None:
    """Import what a configuration's table names under `extensions`; a value of another form is left to its validation.

    Raises:
        ConfigError: see `load`.
    """
    named = table.get(KEY, ())
    if isinstance(named, list | tuple):
        load(name for name in named if isinstance(name, str))


def load(modules: Iterable[str]) -> None:
    """Import extensions.

    Raises:
        ConfigError: one is not installed, or needs something that is not; the message names it.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing = error.name or ""
            if isinstance(error, ModuleNotFoundError) and (name == missing or name.startswith(f"{missing}.")):
                reason = "is not installed; install the package that holds it, or put its folder on PYTHONPATH"
            else:
                reason = f"cannot be imported: {error}; mend it, or install what it needs"
            raise ConfigError(f'the extension "{name}" {reason}') from error


def load_installed() -> None:
    """Import the extensions that installed packages declare as entry points.

    Raises:
        ConfigError: one cannot be imported.
    """
    load(sorted({entry.value.partition(":")[0] for entry in importlib.metadata.entry_points(group=GROUP)}))


def origin(entry: object) -> str:
    """Module that a class or function comes from."""
    return str(getattr(entry, "__module__", OURS))


def is_ours(entry: object) -> bool:
    """Whether the library itself has it."""
    return origin(entry).split(".")[0] == OURS


def modules_of(entries: Iterable[object], named: Iterable[str]) -> tuple[str, ...]:
    """The extensions that a run with these entries needs: those named, and the modules of what none of them covers.

    A name covers its module and those of the package it is in. What a program defines in its own `__main__` can be
    named by nobody and is left out.
    """
    found = list(dict.fromkeys(named))
    packages = {name.split(".")[0] for name in found}
    for entry in entries:
        module = origin(entry)
        if not is_ours(entry) and module != "__main__" and module.split(".")[0] not in packages:
            found.append(module)
            packages.add(module.split(".")[0])
    return tuple(found)
