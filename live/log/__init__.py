"""The ordered log of everything that reaches a running service, behind one interface."""

from __future__ import annotations

from pathlib import Path

from .base import Durability, LogRow, LogUnavailableError, StateLog
from .memory import MemoryLog
from .redis import RedisLog
from .sqlite import SqliteLog

__all__ = ["Durability", "LogRow", "LogUnavailableError", "MemoryLog", "RedisLog", "SqliteLog", "StateLog", "open_log"]

MEMORY = "memory"
SERVERS = ("redis://", "rediss://", "unix://")


def open_log(state: str | Path, durability: Durability = "disk") -> StateLog:
    """The log of a state.

    Args:
        state: a folder, which is made where there is none; `redis://...`, `rediss://...` or `unix://...`, see
            `RedisLog`; `memory` for a log that ends with the process.
        durability: when an append is answered, see `SqliteLog`.

    Raises:
        LogUnavailableError: the log cannot be opened.
    """
    if str(state) == MEMORY:
        return MemoryLog()
    if str(state).startswith(SERVERS):
        return RedisLog(str(state))
    return SqliteLog(Path(state), durability)
