"""Starts the processes of a service as forks of one that has imported everything and computed nothing.

Importing takes seconds and 150 MB; a fork takes neither, as it shares what it does not write. That process has one
thread, so nothing is lost by forking it: it is `multiprocessing`'s forkserver, which is started anew should it end.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import sys
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

IMPORTED = ("worker", "loading")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment of a process that computes on one thread. Libraries read it when they are imported."""


class Descriptor:
    """A file descriptor of this process as an argument of a child, which gets its own number of it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (DupFd(self.number),)


def _detached(handed: Any) -> int:
    return int(handed.detach())


class Child:
    """A process that was started.

    Args:
        process: it.
    """

    def __init__(self, process: Any) -> None:
        self._process = process
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.sentinel, self._end)

    @property
    def pid(self) -> int:
        """Its number."""
        return int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative signal that ended it, or None while it runs."""
        return self._process.exitcode if self._ended.is_set() else None

    async def wait(self) -> int | None:
        """Until it has ended."""
        await self._ended.wait()
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def _end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()


class Nursery:
    """Starts children, one after the other."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([f"{__package__}.{name}" for name in IMPORTED])
        self._starting = asyncio.Lock()

    async def start(self, module: str, *arguments: Any) -> Child:
        """Let a child do what a module's `main` does, and end with the code that this returns.

        Args:
            module: one of those that are imported; `ps -o comm` and `top` show it as `recsys-MODULE`.
            arguments: of `main`; a `Descriptor` arrives as a number.
        """
        process = self._context.Process(target=_begin, args=(module, *arguments), daemon=True)
        async with self._starting:
            os.environ.update(ONE_THREAD)  # for the process of the imports; this one computes nothing
            await asyncio.to_thread(process.start)  # the first one waits for the imports
        return Child(process)


def _begin(module: str, *arguments: Any) -> None:
    os.setsid()  # an interrupt of the terminal is for the supervisor alone
    with suppress(OSError):  # Linux alone
        Path("/proc/self/comm").write_text(f"recsys-{module}", encoding="ascii")
    sys.exit(importlib.import_module(f"{__package__}.{module}").main(*arguments))
