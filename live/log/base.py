"""What every log promises, whatever keeps it.

Rows have one order, that of their positions: whole numbers that rise and are never given twice, also after rows were
trimmed. A row whose id the log holds is a duplicate and is not kept again. Rows of one append stand in the log all or
none, and once `append` has returned they are there, for every reader.
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from ..errors import UnavailableError

Kind = Literal["event", "item_put", "item_delete", "user_put", "forget"]
KINDS: tuple[Kind, ...] = ("event", "item_put", "item_delete", "user_put", "forget")
Durability = Literal["disk", "process"]
DUPLICATE = 0
"""Stands for the position of a row whose id was in the log."""
ID_BYTES = 16


class LogUnavailableError(UnavailableError):
    """The log cannot be written or read now; reading from what is known goes on, and a later try may succeed."""


class LogRow(NamedTuple):
    """One thing that happened.

    Attributes:
        kind: an event of a user, the whole row of an item or of a user, an item that goes, a user to be forgotten.
        body: JSON object of what the row says beyond the other attributes.
        user: raw id, empty where the row is of no user.
        item: raw id, empty where the row is of no item.
        time: seconds, when it happened.
        received: seconds, when it was handed in.
        id: 16 bytes, see `row_id`.
        position: place in the log, 0 before it is appended.
    """

    kind: Kind
    body: bytes = b"{}"
    user: str = ""
    item: str = ""
    time: float = 0.0
    received: float = 0.0
    id: bytes = b""
    position: int = 0


def bodies(rows: Sequence[LogRow]) -> list[dict[str, Any]]:
    """What rows say beyond their attributes; read as one text, as a call for each takes three times as long."""
    return list(json.loads(b"[" + b",".join([row.body for row in rows]) + b"]"))


def row_id(*parts: str) -> bytes:
    """The id of a row by what names it, 16 bytes."""
    digest = blake2b(digest_size=ID_BYTES)
    for part in parts:
        told = part.encode("utf-8", "surrogatepass")
        digest.update(len(told).to_bytes(4, "little") + told)
    return digest.digest()


def new_id() -> bytes:
    """An id that no other row has."""
    return uuid.uuid4().bytes


class StateLog(ABC):
    """An ordered log; safe to use from several threads.

    Attributes:
        log_id: names the log for good; positions of another log mean nothing here.
    """

    log_id: str

    @abstractmethod
    def append(self, rows: Sequence[LogRow]) -> list[int]:
        """Append rows, all or none.

        Returns:
            The position of each, `DUPLICATE` of those whose id the log holds, or an earlier row of the same append has.

        Raises:
            LogUnavailableError: nothing was appended.
        """

    @abstractmethod
    def read_after(self, position: int, limit: int) -> list[LogRow]:
        """The first rows behind a position, in order, at most `limit`."""

    @abstractmethod
    def version(self) -> int:
        """A number that is another one when rows have come since it was asked; cheap enough for every request."""

    @abstractmethod
    def key(self) -> bytes:
        """The secret of all who answer from this log, made on first use: it signs cursors and tokens, and seeds draws.

        Raises:
            RunError: others may read it.
        """

    @abstractmethod
    def tidy(self) -> None:
        """Do now what an append would have to do otherwise; called every few seconds by one process."""

    @abstractmethod
    def check(self) -> None:
        """Write something that is no row, so that it is known whether rows could be written.

        Raises:
            LogUnavailableError: they could not.
        """

    @property
    @abstractmethod
    def last(self) -> int:
        """The highest position ever given, 0 of a log without rows; trimming does not change it."""

    @abstractmethod
    def trim(self, position: int, received: float) -> int:
        """Let go of events up to a position that were received before a time, and of what later rows replace.

        The newest row of each item and user stays: the whole row of an item, its deletion, features, a forgetting.

        Returns:
            Rows that went.
        """

    @abstractmethod
    def erase(self, user: str) -> int:
        """Delete every row of a user but the newest forgetting, also what is left of them on disk; rows that went."""

    @abstractmethod
    def backup(self, folder: Path) -> Path:
        """A copy of the log in a folder, consistent while others append; opened as a state, it is this log then.

        Raises:
            LogUnavailableError: the log's own server keeps its copies.
        """

    @property
    @abstractmethod
    def durability(self) -> str:
        """When an append is answered, in words."""

    @abstractmethod
    def close(self) -> None:
        """End threads and connections; what was appended is kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stale(rows: Sequence[LogRow], position: int, received: float) -> set[int]:
    """Positions of the rows, in order, that `StateLog.trim` lets go of."""
    newest: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.kind != "event":
            newest[_of(row)] = row.position
    return {
        row.position
        for row in rows
        if row.position <= position
        and row.received < received
        and (row.kind == "event" or newest[_of(row)] != row.position)
    }


def _of(row: LogRow) -> tuple[str, str]:
    """What a later row replaces: an item, a user's features, a user's forgetting."""
    if row.kind in ("item_put", "item_delete"):
        return "item", row.item
    return row.kind, row.user
