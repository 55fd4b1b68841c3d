"""What is asked of a vector database, and how one is named.

A store only has to keep vectors by row and to find some rows that are near a query; what an index promises beyond that
is kept by `StoreIndex`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from ....base.arrays import F32, I64
from ....base.errors import ConfigError, RunError

SECRET = "RECSYS_STORE_KEY"
"""Environment variable that holds the key of a store; it is never written anywhere."""
_FORM = re.compile(r"(?P<kind>qdrant|milvus)(?:\+(?P<scheme>http|https|file))?://(?P<place>.+)/(?P<name>[A-Za-z][\w]*)")


class VectorStore(Protocol):
    """A vector database, seen from one collection of it: vectors by row, found by inner product."""

    most: int
    """Rows that one search may be asked for."""
    failures: tuple[type[Exception], ...]
    """What its client raises where nothing answers, or not as it should."""

    def nearest(self, queries: F32, limit: int) -> tuple[I64, F32]:
        """Some of the rows of the highest products, best first: rows int64 [B, limit], -1 pads, and their products.

        It may find fewer than there are, and not the best.
        """

    def fetch(self, rows: I64) -> F32:
        """The vectors of rows that are there, float32 [n, D] in the order of `rows`."""

    def put(self, rows: I64, vectors: F32) -> None:
        """Write vectors, in place of those that the rows had."""

    def remove(self, rows: I64) -> None:
        """Take rows out."""

    def count(self) -> int:
        """Number of rows that are there."""

    def create(self, dim: int, parts: int) -> None:
        """Make the collection anew, for the inner product, in so many shards of the database's own."""

    def exists(self) -> bool:
        """Whether the collection is there."""

    def publish(self, alias: str) -> None:
        """Let a name mean this collection from now on, in one step."""

    def close(self) -> None:
        """Give the connection up."""


@dataclass(frozen=True)
class StoreAddress:
    """Where a collection lies.

    Attributes:
        kind: `qdrant` or `milvus`.
        scheme: `http`, `https`, or `file` for the embedded mode of the client.
        place: host and port, or a path.
        name: of the collection, or of the alias that means it.
    """

    kind: str
    scheme: str
    place: str
    name: str

    @classmethod
    def of(cls, text: str) -> StoreAddress:
        """Read an address such as `qdrant://localhost:6333/items`.

        Raises:
            ConfigError: it is none.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ConfigError(
                f'"{text}" is no address of a vector store; write qdrant://HOST:6333/NAME, milvus://HOST:19530/NAME, '
                "with +https behind the first word for an encrypted one, or +file and a path for the embedded mode"
            )
        return cls(found["kind"], found["scheme"] or "http", found["place"], found["name"])

    def named(self, name: str) -> StoreAddress:
        """The same place, another collection."""
        return StoreAddress(self.kind, self.scheme, self.place, name)

    def unanswered(self, error: Exception) -> RunError:
        """What is said when nothing answers there."""
        mend = "start the store, or correct it"
        if self.scheme == "file":
            mend = "the embedded mode is for one process at a time; for several, start a server"
        return RunError(f"{self} does not answer ({type(error).__name__}); {mend}")

    def __str__(self) -> str:
        """As it is written in a configuration."""
        scheme = "" if self.scheme == "http" else f"+{self.scheme}"
        return f"{self.kind}{scheme}://{self.place}/{self.name}"
