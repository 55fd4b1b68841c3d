"""The log as an SQLite file in WAL mode: order, uniqueness and crash safety between processes of one machine.

One thread a process writes, and commits what is waiting together: it never waits for more. Readers meet no lock.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tokens import KEY, kept_key
from .base import DUPLICATE, Durability, LogRow, LogUnavailableError, StateLog, new_id

FILE = "log.sqlite"
FORMAT = 1
GROUP = 1000
"""Rows after which a commit takes no further appends."""
LARGE_WAL = 64 << 20
"""Bytes of the WAL above which it is emptied."""
BUSY_MS = 2000
"""How long another process may hold the log before an append is refused."""
COLUMNS = "kind, body, user, item, time, received, id, position"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log(
    position INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, time REAL NOT NULL,
    received REAL NOT NULL, user TEXT NOT NULL, item TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS of_user ON log(user) WHERE user != '';
CREATE INDEX IF NOT EXISTS whole_rows ON log(kind, item, user) WHERE kind != 'event';
"""
_STALE = """
DELETE FROM log WHERE position <= ? AND received < ? AND (kind = 'event' OR EXISTS (
    SELECT 1 FROM log AS later WHERE later.position > log.position AND later.kind != 'event' AND later.item = log.item
    AND later.user = log.user AND (later.kind = log.kind OR later.item != '')))
"""


@dataclass(frozen=True)
class _Job:
    """Something the writer does inside a transaction, which may stand for several rows."""

    work: Callable[[sqlite3.Connection], Any]
    rows: int
    done: Future[Any]


class SqliteLog(StateLog):
    """The log of a folder on a local disk: other machines do not see what WAL mode shares through memory.

    Args:
        folder: made where there is none.
        durability: an append is answered when it is synced to disk (`disk`: it survives the loss of power), or when it
            is written to the file (`process`: it survives the end of the process, and the last moments may go with the
            power).

    Raises:
        LogUnavailableError: the file cannot be opened, is no such log, or is of another format.
    """

    def __init__(self, folder: Path, durability: Durability = "disk") -> None:
        self.file = folder / FILE
        self._durability = durability
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writing = self._connect(synchronous="FULL" if durability == "disk" else "NORMAL")
            self.log_id = self._prepare()
            self._reading = self._connect(synchronous="NORMAL")
        except (OSError, sqlite3.Error) as error:
            raise LogUnavailableError(
                f"{self.file} cannot be opened as a log: {error}; name a folder on a local disk that may be written"
            ) from None
        self._writer = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._writer.start()

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        found = sqlite3.connect(self.file, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        found.execute("PRAGMA journal_mode = WAL")
        found.execute(f"PRAGMA synchronous = {synchronous}")
        found.execute("PRAGMA secure_delete = ON")
        return found

    def _prepare(self) -> str:
        """Tables where there are none; the id of the log."""
        written = self._writing
        written.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            written.execute(statement)
        given = [("log_id", new_id().hex()), ("format", str(FORMAT))]
        written.executemany("INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", given)
        found = dict(written.execute("SELECT name, value FROM meta").fetchall())
        written.execute("COMMIT")
        if found["format"] != str(FORMAT):
            raise LogUnavailableError(f"{self.file} has format {found['format']}, expected {FORMAT}; update recsys")
        return str(found["log_id"])

    def append(self, rows: Sequence[LogRow]) -> list[int]:
        """See `StateLog.append`."""
        values = [(row.kind, row.body, row.user, row.item, row.time, row.received, row.id) for row in rows]

        def insert(written: sqlite3.Connection) -> list[int]:
            found = []
            cursor = written.cursor()
            for one in values:
                cursor.execute(  # ON CONFLICT DO NOTHING would use up a position for nothing
                    "INSERT INTO log(kind, body, user, item, time, received, id) "
                    "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM log WHERE id = ?7)",
                    one,
                )
                found.append(DUPLICATE if cursor.rowcount < 1 else int(cursor.lastrowid or 0))
            return found

        positions: list[int] = self._done(insert, len(values))
        return positions

    def _done(self, work: Callable[[sqlite3.Connection], Any], rows: int) -> Any:
        """What the writer found, once it is committed."""
        if not self._writer.is_alive():
            raise LogUnavailableError(f"{self.file} is closed")
        job = _Job(work, rows, Future())
        self._jobs.put(job)
        return job.done.result()

    def _write(self) -> None:
        """The writer thread: takes what is waiting, commits it together, answers."""
        while (job := self._jobs.get()) is not None:
            group, rows = [job], job.rows
            ended = False
            while rows < GROUP and not self._jobs.empty():
                another = self._jobs.get()
                if another is None:
                    ended = True
                    break
                group.append(another)
                rows += another.rows
            self._commit(group)
            if ended:
                return

    def _commit(self, group: Sequence[_Job]) -> None:
        written = self._writing
        try:
            written.execute("BEGIN IMMEDIATE")
            found = [job.work(written) for job in group]
            written.execute("COMMIT")
        except sqlite3.Error as error:
            if written.in_transaction:
                written.execute("ROLLBACK")
            refused = LogUnavailableError(
                f"{self.file} cannot be written now: {error}; nothing was appended, try again"
            )
            for job in group:
                job.done.set_exception(refused)
            return
        for job, value in zip(group, found, strict=True):
            job.done.set_result(value)

    def read_after(self, position: int, limit: int) -> list[LogRow]:
        """See `StateLog.read_after`."""
        asked = f"SELECT {COLUMNS} FROM log WHERE position > ? ORDER BY position LIMIT ?"
        return [LogRow._make(row) for row in self._read(asked, position, limit)]

    def _read(self, asked: str, *values: object) -> list[Any]:
        try:
            with self._lock:
                return self._reading.execute(asked, values).fetchall()
        except sqlite3.Error as error:
            raise LogUnavailableError(f"{self.file} cannot be read now: {error}") from None

    def version(self) -> int:
        """See `StateLog.version`."""
        return int(self._read("PRAGMA data_version")[0][0])

    def key(self) -> bytes:
        """See `StateLog.key`: a file beside the log."""
        return kept_key(self.file.with_name(KEY))

    def tidy(self) -> None:
        """See `StateLog.tidy`."""
        try:
            large = self.file.with_name(f"{FILE}-wal").stat().st_size > LARGE_WAL
        except OSError:
            return
        self.checkpoint(truncate=large)

    def check(self) -> None:
        """See `StateLog.check`."""
        asked = "INSERT INTO meta VALUES ('checked', ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value"
        self._done(lambda written: written.execute(asked, (str(time.time()),)), 1)

    @property
    def last(self) -> int:
        """See `StateLog.last`."""
        found = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'log'")
        return int(found[0][0]) if found else 0

    def trim(self, position: int, received: float) -> int:
        """See `StateLog.trim`."""
        return int(self._done(lambda written: written.execute(_STALE, (position, received)).rowcount, GROUP))

    def erase(self, user: str) -> int:
        """See `StateLog.erase`."""
        newest = "SELECT coalesce(max(position), 0) FROM log WHERE user = ? AND kind = 'forget'"
        asked = f"DELETE FROM log WHERE user = ? AND position != ({newest})"
        gone = int(self._done(lambda written: written.execute(asked, (user, user)).rowcount, GROUP))
        self.checkpoint(truncate=True)  # the WAL held the rows too
        return gone

    def checkpoint(self, truncate: bool = False) -> None:
        """Bring what is committed from the WAL into the file; `truncate` also empties the WAL where no reader needs it.

        SQLite does so by itself after every thousand pages, inside a commit; a caller that does it earlier spares
        commits that.
        """
        self._read(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})")

    def backup(self, folder: Path) -> Path:
        """See `StateLog.backup`."""
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / FILE
        source, target = sqlite3.connect(self.file), sqlite3.connect(copy)
        try:
            source.backup(target, pages=1024)
        except sqlite3.Error as error:
            raise LogUnavailableError(f"{copy} cannot be written: {error}") from None
        finally:
            source.close()
            target.close()
        return copy

    @property
    def durability(self) -> str:
        """See `StateLog.durability`."""
        return "synced to disk" if self._durability == "disk" else "written to the file"

    def close(self) -> None:
        """See `StateLog.close`; appends that are waiting are committed first."""
        if self._writer.is_alive():
            self._jobs.put(None)
            self._writer.join()
            self._writing.close()
            self._reading.close()
