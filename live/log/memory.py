"""A log that ends with the process: for notebooks and tests."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from .base import DUPLICATE, LogRow, LogUnavailableError, StateLog, new_id, stale


class MemoryLog(StateLog):
    """Rows in a list."""

    def __init__(self) -> None:
        self.log_id = new_id().hex()
        self._key = secrets.token_bytes(32)
        self._rows: list[LogRow] = []
        self._ids: set[bytes] = set()
        self._last = 0
        self._lock = threading.Lock()

    def append(self, rows: Sequence[LogRow]) -> list[int]:
        """See `StateLog.append`."""
        with self._lock:
            return [self._appended(row) for row in rows]

    def _appended(self, row: LogRow) -> int:
        if row.id in self._ids:
            return DUPLICATE
        self._last += 1
        self._ids.add(row.id)
        self._rows.append(row._replace(position=self._last))
        return self._last

    def read_after(self, position: int, limit: int) -> list[LogRow]:
        """See `StateLog.read_after`."""
        with self._lock:
            first = bisect_right(self._rows, position, key=lambda row: row.position)
            return self._rows[first : first + limit]

    def version(self) -> int:
        """See `StateLog.version`."""
        return self._last

    def key(self) -> bytes:
        """See `StateLog.key`."""
        return self._key

    def tidy(self) -> None:
        """See `StateLog.tidy`: there is nothing to do."""

    def check(self) -> None:
        """See `StateLog.check`."""

    @property
    def last(self) -> int:
        """See `StateLog.last`."""
        return self._last

    def trim(self, position: int, received: float) -> int:
        """See `StateLog.trim`."""
        with self._lock:
            return self._without(stale(self._rows, position, received))

    def erase(self, user: str) -> int:
        """See `StateLog.erase`."""
        with self._lock:
            mine = [row for row in self._rows if row.user == user]
            kept = max((row.position for row in mine if row.kind == "forget"), default=0)
            return self._without({row.position for row in mine} - {kept})

    def _without(self, positions: set[int]) -> int:
        gone = {row.id for row in self._rows if row.position in positions}
        self._rows = [row for row in self._rows if row.position not in positions]
        self._ids -= gone
        return len(positions)

    def backup(self, folder: Path) -> Path:
        """See `StateLog.backup`."""
        raise LogUnavailableError(
            f"a log in memory has no copy; name a folder as the state, not {folder} as its backup"
        )

    def close(self) -> None:
        """See `StateLog.close`: rows in memory stay as long as the object."""

    @property
    def durability(self) -> str:
        """See `StateLog.durability`."""
        return "none: the log ends with the process"
