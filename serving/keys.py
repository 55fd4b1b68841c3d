"""API keys: a file of names, scopes, rates and hashes; a key itself is shown once and stored nowhere."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from ..base.errors import ConfigError
from ..base.files import write_synced
from ..base.settings import Settings
from ..configs.file import dump_toml, load_settings
from .problems import ProblemError

Scope = Literal["read", "write", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"\w[\w.-]{0,63}")


class KeyEntry(Settings):
    """One key."""

    name: str
    """What the log calls it."""

    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """What it may do."""

    rate: Annotated[float, Field(ge=0.0)] = 0.0
    """Requests a second, over all workers; any number when 0."""

    sha256: str
    """Of the key."""

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError("sha256 is 64 hexadecimal digits; `recsys serve-key` writes them")
        return value


class KeyFile(Settings):
    """The whole file."""

    key: tuple[KeyEntry, ...] = ()
    """All keys."""


def read_keys(file: Path) -> KeyFile:
    """The keys in a file.

    Raises:
        ConfigError: it is no such file, or others than its owner may read it.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file {file}; `recsys serve-key NAME --scope read --file {file}` makes one")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{file} has mode {mode:o}, so others may read or change it; run `chmod 600 {file}`")
    return load_settings(KeyFile, file)


def add_key(file: Path, name: str, scopes: tuple[Scope, ...], rate: float = 0.0) -> str:
    """Make a key and write its hash into the file; the key itself is returned once.

    Raises:
        ConfigError: the name is none or taken, or the file is not what it should be.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("the name of a key is letters, digits, dots and dashes, at most 64; choose another")
    kept = read_keys(file).key if file.exists() else ()
    if any(entry.name == name for entry in kept):
        raise ConfigError(f'{file} has a key "{name}" already; choose another name, or delete its entry first')
    key = secrets.token_urlsafe(32)
    entry = KeyEntry(name=name, scopes=scopes, rate=rate, sha256=hashlib.sha256(key.encode()).hexdigest())
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    write_synced(fresh, dump_toml(KeyFile(key=(*kept, entry))))
    os.replace(fresh, file)
    return key


class Bucket:
    """Lets so many requests a second pass, and as many at once as come in one second.

    Args:
        rate: a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.most = rate, max(rate, 1.0)
        self.left, self.at = self.most, time.monotonic()

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Seconds until the request may pass; 0 lets it pass and counts it."""
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left >= min(cost, self.most):
            self.left -= cost
            return 0.0
        return (min(cost, self.most) - self.left) / self.rate


class Keys:
    """Who may do what, as one worker sees it.

    Args:
        entries: of the file.
        workers: among whom the rates are shared.
    """

    def __init__(self, entries: KeyFile, workers: int = 1) -> None:
        self.entries = entries.key
        self._hashes = [entry.sha256.encode() for entry in self.entries]
        self._buckets = {entry.name: Bucket(entry.rate / workers) for entry in self.entries if entry.rate}

    def admit(self, given: str | None, scope: Scope, cost: float = 1.0) -> str:
        """The name of the key, if it may do this now.

        Args:
            given: what the request says its key is.
            scope: that is needed.
            cost: requests that this one counts as.

        Raises:
            ProblemError: there is no such key, it lacks the scope, or it has asked too often.
        """
        found = None
        digest = hashlib.sha256((given or "").encode()).hexdigest().encode()
        for entry, known in zip(self.entries, self._hashes, strict=True):  # all of them: time tells nothing
            if hmac.compare_digest(digest, known):
                found = entry
        if found is None:
            said = "the key is not known" if given else "the request has no key"
            sentence = f"{said}; send Authorization: Bearer KEY, or X-API-Key: KEY"
            raise ProblemError("no-key", sentence, headers={"WWW-Authenticate": "Bearer"})
        if scope not in found.scopes:
            raise ProblemError("scope", f"the key has no scope {scope}; ask for one that has")
        bucket = self._buckets.get(found.name)
        if bucket is not None and (seconds := bucket.wait(time.monotonic(), cost)):
            wait = {"Retry-After": str(int(seconds) + 1)}
            raise ProblemError("rate", f"the key may ask {found.rate:g} times a second; wait", headers=wait)
        return found.name


def given_key(headers: Iterator[tuple[bytes, bytes]]) -> str | None:
    """The key in the headers of a request."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.decode("latin-1")
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
    return None
