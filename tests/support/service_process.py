"""`recsys serve` as a process of its own, on a loopback port."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

READY = re.compile(r"ready on (http://\S+)")


class ServiceProcess:
    """A running service and what it wrote."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recsys.cli.main", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[str] = []
        self.address = ""
        self._heard = threading.Condition()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.wait_for(READY)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self.lines.append(line)
                if found := READY.search(line):
                    self.address = found[1]
                self._heard.notify_all()
        with self._heard:
            self.lines.append("")
            self._heard.notify_all()

    def wait_for(self, words: re.Pattern[str] | str, times: int = 1, seconds: float = 120.0) -> None:
        """Wait until so many lines have been written that hold the words."""
        with self._heard:
            there = self._heard.wait_for(
                lambda: sum(bool(re.search(words, line)) for line in self.lines) >= times or "" in self.lines, seconds
            )
        found = sum(bool(re.search(words, line)) for line in self.lines)
        assert there, self.text
        assert found >= times, self.text

    @property
    def text(self) -> str:
        """Everything written so far."""
        return "".join(self.lines)

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The lines that are JSON."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    @property
    def workers(self) -> list[int]:
        """Process numbers of the workers."""
        found: list[int] = []
        for child in _children(self.process.pid):  # one of them is the parent of all others
            for one in _children(child):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{one}/comm").read_text() == "recsys-worker\n":
                        found.append(one)
        return found

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reading.join(10)
        return code


def _children(process: int) -> list[int]:
    """Children of a process, whichever of its threads started them."""
    found: list[int] = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in file.read_text().split()]
    return found


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """A service and a client of it, which end with the block."""
    service = ServiceProcess(list(arguments))
    try:
        with httpx.Client(base_url=service.address, timeout=60) as client:
            yield service, client
    finally:
        if service.process.poll() is None:
            service.end()
