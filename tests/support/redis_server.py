"""A Redis or Valkey server of a test's own, on a socket in a folder."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """A server that may be killed and started again.

    Args:
        program: of the server.
        folder: of its socket and files.
        kept: whether what it acknowledges outlives it.
    """

    def __init__(self, program: str, folder: Path, kept: bool) -> None:
        self.address = f"unix://{folder / 'socket'}"
        options = ["--port", "0", "--unixsocket", str(folder / "socket"), "--save", "", "--dir", str(folder)]
        self._command = [program, *options, "--appendonly", "yes" if kept else "no", "--appendfsync", "always"]
        self.start()

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        while "ready to accept connections" not in (line := self._process.stdout.readline()).lower():
            assert line, "the server ended"

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder: Path, *, kept: bool) -> Iterator[RedisServer]:
        """A server that ends with the block; skips the test where there is no such program, or no client."""
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None or importlib.util.find_spec("redis") is None:
            pytest.skip("redis-server or the package redis is not installed")
        server = cls(program, folder, kept)
        try:
            yield server
        finally:
            server.kill()
