"""Things that a configuration names: kept by name, found by name, and an error that lists the names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from . import extensions
from .errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind by name.

    Args:
        kind: what the entries are, in the singular, for messages ("ranker").
        lazy: name -> "module:attribute" of entries that are imported when they are asked for.
        package: absolute name of the package that the modules of `lazy` are in.
    """

    def __init__(self, kind: str, lazy: Mapping[str, str] | None = None, package: str = "") -> None:
        self.kind = kind
        self._lazy = dict(lazy or {})
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Make an entry known; a later one of the same name takes its place."""
        self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted({*self._entries, *self._lazy}))

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._lazy

    def find(self, name: str) -> bool:
        """Whether there is such an entry, those of installed extensions among them (`extensions`)."""
        if name not in self:
            extensions.load_installed()
        return name in self

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        What is not known yet is looked for in the extensions that are installed.

        Raises:
            ConfigError: there is none; the message lists the names and the one that is spelt most alike.
        """
        if not self.find(name):
            alike = difflib.get_close_matches(name, self, n=1)
            hint = f'; did you mean "{alike[0]}"?' if alike else ""
            raise ConfigError(f'no {self.kind} is called "{name}"; there are: {", ".join(self)}{hint}')
        if name in self._entries:
            return self._entries[name]
        module, attribute = self._lazy[name].split(":")
        self._entries[name] = cast("T", getattr(importlib.import_module(f"{self._package}.{module}"), attribute))
        return self._entries[name]

    def entries(self) -> dict[str, T]:
        """Every entry by name, sorted."""
        return {name: self[name] for name in self}
