"""The log in Redis or Valkey, for services on several machines: a stream whose entries have dense positions.

One script on the server checks the id, takes the next position and appends, so that an append is whole and in order
whoever else appends. How durable an acknowledged append is says the server (`appendonly`, `appendfsync`).
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError
from ...base.package import install_hint
from .base import LogRow, LogUnavailableError, StateLog, new_id, stale

READ = 10_000
_FIELDS = ("kind", "body", "user", "item", "time", "received", "id")
_APPEND = """
if redis.call('HGET', KEYS[4], 'log_id') ~= ARGV[#ARGV] then return redis.error_reply('the log was replaced') end
local found = {}
for i = 1, #ARGV - 1, 7 do
  local id = ARGV[i + 6]
  if redis.call('HEXISTS', KEYS[1], id) == 1 then
    found[#found + 1] = 0
  else
    local position = redis.call('INCR', KEYS[3])
    redis.call('HSET', KEYS[1], id, position)
    redis.call('XADD', KEYS[2], string.format('%d-0', position), 'kind', ARGV[i], 'body', ARGV[i + 1],
      'user', ARGV[i + 2], 'item', ARGV[i + 3], 'time', ARGV[i + 4], 'received', ARGV[i + 5], 'id', id)
    found[#found + 1] = position
  end
end
return found
"""


class RedisLog(StateLog):
    """The log of a server.

    Args:
        url: `redis://host:port/db`, `rediss://...` or `unix://path`; what follows a `#` names the log among others.
        fresh: seconds for which an answer to `version` may be old; every request asks the server when 0.

    Raises:
        ConfigError: the client is not installed, or the address is none.
        LogUnavailableError: the server does not answer.
    """

    def __init__(self, url: str, fresh: float = 0.0) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError(f"a log in Redis needs the package redis; {install_hint('redis')}") from None
        address, _, name = url.partition("#")
        self._failures, self._fresh = redis.RedisError, fresh
        self._shown = address.rpartition("@")[2]
        try:
            client: Any = redis.Redis.from_url(address, socket_timeout=5.0, socket_connect_timeout=2.0)
        except ValueError as error:
            raise ConfigError(f"the state's address is none: {error}") from None
        self._client: Any = client
        prefix = f"recsys:{{{name or 'log'}}}:"  # braces: all keys on one node of a cluster
        self._ids, self._stream, self._counter, self._meta = (prefix + key for key in ("ids", "rows", "last", "meta"))
        self._known, self._asked, self._lock = -1, -1.0, threading.Lock()
        with self._answering():
            self._client.hsetnx(self._meta, "log_id", new_id().hex())
            self.log_id = self._client.hget(self._meta, "log_id").decode()
            self._append = self._client.register_script(_APPEND)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise LogUnavailableError(f"the log at {self._shown} cannot be reached now: {error}; try again") from None

    def append(self, rows: Sequence[LogRow]) -> list[int]:
        """See `StateLog.append`."""
        if not rows:
            return []
        told: list[Any] = []
        for row in rows:
            texts = (text.encode("utf-8", "surrogatepass") for text in (row.user, row.item))
            told += [row.kind, row.body, *texts, repr(row.time), repr(row.received), row.id]
        with self._answering():
            keys = [self._ids, self._stream, self._counter, self._meta]
            return [int(position) for position in self._append(keys, [*told, self.log_id])]

    def read_after(self, position: int, limit: int) -> list[LogRow]:
        """See `StateLog.read_after`."""
        if not limit:
            return []
        with self._answering():
            entries = self._client.xrange(self._stream, min=f"({position}-0", max="+", count=limit)
        return [_row(name, values) for name, values in entries]

    def version(self) -> int:
        """See `StateLog.version`."""
        with self._lock:
            now = time.monotonic()
            if self._known < 0 or now - self._asked >= self._fresh:
                self._known, self._asked = self.last, now
            return self._known

    def key(self) -> bytes:
        """See `StateLog.key`: it stands beside the rows, whose readers it keeps nothing from."""
        with self._answering():
            self._client.hsetnx(self._meta, "key", secrets.token_hex(32))
            return bytes.fromhex(self._client.hget(self._meta, "key").decode())

    def tidy(self) -> None:
        """See `StateLog.tidy`: there is nothing to do."""

    def check(self) -> None:
        """See `StateLog.check`."""
        with self._answering():
            self._client.hset(self._meta, "checked", repr(time.time()))

    @property
    def last(self) -> int:
        """See `StateLog.last`."""
        with self._answering():
            asked = self._client.pipeline(transaction=False)
            last, log_id = asked.get(self._counter).hget(self._meta, "log_id").execute()
        if (log_id or b"").decode() != self.log_id:
            raise LogUnavailableError(f"the server at {self._shown} lost the log and began another; restart with it")
        return int(last or 0)

    def trim(self, position: int, received: float) -> int:
        """See `StateLog.trim`."""
        rows = self._all()
        gone = stale(rows, position, received)
        return self._without([row for row in rows if row.position in gone])

    def erase(self, user: str) -> int:
        """See `StateLog.erase`; the server's own files lose it when it rewrites them."""
        mine = [row for row in self._all() if row.user == user]
        kept = max((row.position for row in mine if row.kind == "forget"), default=0)
        return self._without([row for row in mine if row.position != kept])

    def _all(self) -> list[LogRow]:
        rows: list[LogRow] = []
        while some := self.read_after(rows[-1].position if rows else 0, READ):
            rows += some
        return rows

    def _without(self, rows: Sequence[LogRow]) -> int:
        with self._answering():
            for start in range(0, len(rows), READ):
                some = rows[start : start + READ]
                self._client.xdel(self._stream, *(f"{row.position}-0" for row in some))
                self._client.hdel(self._ids, *(row.id for row in some))
        return len(rows)

    def backup(self, folder: Path) -> Path:
        """See `StateLog.backup`."""
        raise LogUnavailableError(f"the server at {self._shown} keeps its own copies; nothing is written to {folder}")

    @property
    def durability(self) -> str:
        """See `StateLog.durability`."""
        try:
            found = self._client.config_get("append*")
        except self._failures:
            return "as the server is set up"
        if found.get("appendonly") != "yes":
            return "in the server's memory (appendonly no)"
        return f"in the server's log (appendfsync {found.get('appendfsync')})"

    def close(self) -> None:
        """See `StateLog.close`."""
        self._client.close()


def _row(name: bytes, values: dict[bytes, bytes]) -> LogRow:
    kind, body, user, item, moment, received, identity = (values[field.encode()] for field in _FIELDS)
    told = {n: v.decode("utf-8", "surrogatepass") for n, v in (("kind", kind), ("user", user), ("item", item))}
    return LogRow(
        body=body,
        time=float(moment),
        received=float(received),
        id=identity,
        position=int(name.partition(b"-")[0]),
        **told,  # type: ignore[arg-type]
    )
