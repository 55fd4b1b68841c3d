"""The ordered log of everything that reaches a running service, behind one interface."""

from __future__ import annotations

from pathlib import Path

from .base import Durability, LogRow, LogUnavailableError, StateLog
from .memory import MemoryLog
from .redis import RedisLog
from .sqlite import SqliteLog

__all__ = [
    "Durability",
    "LogRow",
    "LogUnavailableError",
    "MemoryLog",
    "RedisLog",
    "SqliteLog",
    "StateLog",
    "on_a_server",
    "open_log",
]

MEMORY = "memory"
SERVERS = ("redis://", "rediss://", "unix://")


def on_a_server(state: str | Path) -> bool:
    """Whether a state is the address of a server, and no folder."""
    return str(state).startswith(SERVERS)


def open_log(state: str | Path, durability: Durability = "disk", fresh: float = 0.0) -> StateLog:
    """The log of a state.

    Args:
        state: a folder, which is made where there is none; `redis://...`, `rediss://...` or `unix://...`, see
            `RedisLog`; `memory` for a log that ends with the process.
        durability: when an append is answered, see `SqliteLog`.
        fresh: of a server, see `RedisLog`.

    Raises:
        LogUnavailableError: the log cannot be opened.
    """
    if str(state) == MEMORY:
        return MemoryLog()
    if on_a_server(state):
        return RedisLog(str(state), fresh)
    return SqliteLog(Path(state), durability)
