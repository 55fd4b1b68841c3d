"""The process that binds the socket, keeps workers alive, and changes the version of all of them at one moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..artifacts.manifest import MANIFEST
from ..base.errors import RecsysError, RunError
from ..live.log import open_log
from .channel import Channel, Message
from .housekeeping import Housekeeping
from .logs import log
from .metrics import Metrics, series_of, shared_block
from .nursery import Child, Descriptor, Nursery
from .options import Options
from .paths import PATHS
from .problems import ProblemError
from .publishing import Publishing
from .split import MAIN
from .versions import PASSING, Shelf, forget_dead

START_SECONDS = 600.0
"""In which a worker must be ready."""
PAUSE_SECONDS, MOST_SECONDS = 0.1, 10.0
"""Before a worker is started again: after one that had been ready, and after many that never were."""


class WorkerProcess:
    """A worker as the supervisor sees it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: Child | None = None
        self.channel: Channel | None = None
        self.ready = asyncio.Event()
        self.why = ""
        self.memory = 0.0


class Supervisor:
    """Runs a service until it is told to end.

    Args:
        options: what is served, and how.
        ready: is called once, when every worker answers, with the address.
    """

    def __init__(self, options: Options, ready: Callable[[str, Supervisor], None] | None = None) -> None:
        options.check()
        self.options, self._tell = options, ready
        config = options.config
        self.log = open_log(options.state, config.durability, config.fresh_seconds) if options.state else None
        self.key = secrets.token_bytes(32) if self.log is None else self.log.key()
        beside_runs = options.runs[MAIN].resolve().parent
        lasting = options.versions
        if lasting is None:
            forget_dead(beside_runs)
        self.shelf = Shelf(lasting or beside_runs / f"{PASSING}{os.getpid()}", lasting is not None)
        self.processes = [WorkerProcess(index) for index in range(options.workers)]
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seen: dict[str, tuple[int, int]] = {}
        series = series_of(PATHS, list(options.runs))
        self._block = shared_block(series, options.workers + 1)
        self.metrics = Metrics(series, options.workers + 1, options.workers, self._block)
        self.nursery = Nursery()
        self.publishing = Publishing(options, self.shelf, self.metrics, self._channels, self.nursery)

    async def run(self) -> int:
        """Serve.

        Returns:
            The exit code.

        Raises:
            RunError: a run cannot be served, or the address is taken.
        """
        options = self.options
        with contextlib.closing(_bound(options.host, options.port)) as listener, contextlib.closing(self.shelf):
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._end)
            loop.add_signal_handler(signal.SIGHUP, lambda: self._task(self._hang_up()))
            for name, source in options.runs.items():
                await self.publishing.begin(name, source)
                self._seen[name] = _stamp(source)
            try:
                await asyncio.gather(*(self._start(one, listener) for one in self.processes))
                scheme = "https" if options.tls[0] else "http"
                host = f"[{options.host}]" if ":" in options.host else options.host
                if self._tell is not None:
                    self._tell(f"{scheme}://{host}:{listener.getsockname()[1]}", self)
                _notify("READY=1")
                for one in self.processes:
                    self._task(self._keep_alive(one, listener))
                if options.watch:
                    self._task(self._watch())
                if self.log is not None:
                    known = partial(self.publishing.known, self.log.log_id)
                    retention = options.config.retention
                    if options.folder is None:  # another machine may serve what knows less
                        retention = retention.model_copy(update={"trim": False})
                    self._task(Housekeeping(self.log, retention, known, self.metrics).run())
                if options.metrics_port is not None:
                    self._task(self._tell_metrics(options.metrics_port))
                await self._stop.wait()
                _notify("STOPPING=1")
                log.info("ending", extra={"fields": {"drain_seconds": options.config.drain_seconds}})
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await self._drain()
                if self.log is not None:
                    await asyncio.to_thread(self.log.close)
        return 0

    def _end(self) -> None:
        """The first signal ends in order, the second one at once."""
        if self._stop.is_set():
            for one in self.processes:
                if one.process is not None and one.process.returncode is None:
                    one.process.kill()
            return
        self._stop.set()

    def _channels(self) -> list[Channel]:
        """To the workers that are ready."""
        return [one.channel for one in self.processes if one.ready.is_set() and one.channel is not None]

    def _task(self, what: Any) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, one: WorkerProcess, listener: socket.socket) -> None:
        """Start a worker and wait until it answers.

        Raises:
            RunError: it ends before.
        """
        options = self.options
        ours, theirs = socket.socketpair()
        one.ready.clear()
        one.why = ""
        handed = (Descriptor(number) for number in (listener.fileno(), theirs.fileno(), self._block))
        with contextlib.closing(theirs):
            one.process = await self.nursery.start("worker", *handed)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        told = {
            "index": one.index,
            "workers": options.workers,
            "config": options.config.model_dump_json(),
            "rules": str(options.rules) if options.rules else "",
            "keys": str(options.keys) if options.keys else "",
            "key": self.key.hex(),
            "state": options.state or "",
            "tls": [str(file) if file else "" for file in options.tls],
            "versions": {
                name: (version.name, str(version.folder)) for name, version in self.publishing.versions.items()
            },
        }
        writer.write(json.dumps(told).encode() + b"\n")
        one.channel = Channel(reader, writer, lambda message: self._handle(one, message))
        self._task(one.channel.listen())
        ended = asyncio.ensure_future(one.process.wait())
        ready = asyncio.ensure_future(one.ready.wait())
        await asyncio.wait([ended, ready], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not one.ready.is_set():
            raise RunError(one.why or f"worker {one.index} ended before it was ready; its log says why")
        self.metrics.set("workers", sum(other.ready.is_set() for other in self.processes))

    async def _keep_alive(self, one: WorkerProcess, listener: socket.socket) -> None:
        """Start a worker again whenever it ends, later and later where it ends before it is ready."""
        pause = PAUSE_SECONDS
        while not self._stop.is_set():
            assert one.process is not None
            await one.process.wait()
            answered = one.ready.is_set()
            one.ready.clear()
            if self._stop.is_set():
                return
            pause = pause_before_start(pause, answered)
            log.warning("worker ended", extra={"fields": {"worker": one.index, "code": one.process.returncode}})
            self.metrics.count("worker_restarts_total")
            await asyncio.sleep(pause)
            async with self.publishing.changing:  # it begins with one version, and no other is published meanwhile
                try:
                    await self._start(one, listener)
                except (RecsysError, OSError) as error:
                    log.error("worker not started: %s", error, extra={"fields": {"worker": one.index}})

    async def _drain(self) -> None:
        config = self.options.config
        alive = [one for one in self.processes if one.process is not None and one.process.returncode is None]
        for one in alive:
            assert one.process is not None
            with contextlib.suppress(ProcessLookupError):
                one.process.terminate()
        most = config.drain_seconds + config.finish_seconds + 5.0
        waiting = [asyncio.ensure_future(one.process.wait()) for one in alive if one.process is not None]
        late = (await asyncio.wait(waiting, timeout=most))[1] if waiting else set()
        if late:
            for one in alive:
                assert one.process is not None
                if one.process.returncode is None:
                    one.process.kill()
            await asyncio.wait(late)

    async def _handle(self, one: WorkerProcess, message: Message) -> Message:
        """What a worker says or asks for."""
        what = message["what"]
        if what == "ready":
            one.memory = message["memory"]
            one.ready.set()
        elif what == "failed":
            one.why = message["why"]
        elif what == "publish":
            return await self.publishing.publish(message["name"], message["folder"])
        elif what == "roll_back":
            return await self.publishing.roll_back(message["name"])
        return {}

    async def _watch(self) -> None:
        """Publish what a training, or `build-index`, puts into the run folders."""
        while True:
            await asyncio.sleep(1.0)
            for name, source in self.options.runs.items():
                stamp = _stamp(source)
                if stamp == self._seen[name]:
                    continue
                self._seen[name] = stamp
                with contextlib.suppress(RecsysError, ProblemError):
                    version = await asyncio.to_thread(self.shelf.keep, source, self.options.rules)
                    if not self.shelf.is_rejected(name, version.name):
                        await self.publishing.publish(name)

    async def _hang_up(self) -> None:
        """Read keys and run folders again."""
        await asyncio.gather(*(one.ask("keys") for one in self._channels()), return_exceptions=True)
        for name in self.options.runs:
            with contextlib.suppress(RecsysError, ProblemError):
                await self.publishing.publish(name)

    async def _tell_metrics(self, port: int) -> None:
        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10.0)
                body = self.metrics.text().encode()
                head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(body)}\r\n"
                writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(tell, "127.0.0.1", port, limit=16 << 10)
        await server.serve_forever()


def pause_before_start(former: float, answered: bool) -> float:
    """Seconds to wait where a worker has ended: a moment where it had been ready, longer each time where it had not.

    Args:
        former: the pause before that worker.
        answered: whether it had been ready.
    """
    return PAUSE_SECONDS if answered else min(2 * former, MOST_SECONDS)


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RunError: the address is taken or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise RunError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host") from error


def _stamp(source: Path) -> tuple[int, int]:
    """Changes whenever the manifest of a run does."""
    try:
        found = (source / MANIFEST).stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _notify(state: str) -> None:
    """Tell systemd, where it started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
            system.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
