"""The process that binds the socket, keeps workers alive, and changes the version of all of them at one moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts.folder import open_run
from ..artifacts.manifest import MANIFEST
from ..base.errors import ConfigError, RecsysError, RunError
from .channel import Channel, GoneError, Message
from .config import ServeConfig
from .keys import read_keys
from .logs import log
from .metrics import Metrics, series_of, shared_block
from .paths import PATHS
from .problems import ProblemError
from .split import MAIN, check_split
from .versions import PASSING, Shelf, Version, beside, forget_dead

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
START_SECONDS = 600.0
"""In which a worker must be ready, and a version prepared."""
STEADY_SECONDS = 30.0
"""A worker that lived so long is started again at once."""
SIGNING_KEY = "signing.key"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `recsys serve` was given.

    Attributes:
        runs: name -> run folder; `main` is among them.
        config: limits and times.
        state: folder of what outlives the service; None keeps nothing.
        rules: TOML file, instead of the runs' own last stage.
        host: address to bind.
        port: to bind; any free one when 0.
        workers: processes.
        keys: file of API keys; None lets anybody ask, on loopback only.
        watch: whether a changed run folder is served by itself.
        metrics_port: on which the supervisor tells metrics on loopback, without a key; None for nowhere.
        tls: certificate and private key, PEM files.
    """

    runs: dict[str, Path]
    config: ServeConfig = field(default_factory=ServeConfig)
    state: Path | None = None
    rules: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    keys: Path | None = None
    watch: bool = False
    metrics_port: int | None = None
    tls: tuple[Path | None, Path | None] = (None, None)

    def check(self) -> None:
        """Refuse what cannot be served, before anything is started.

        Raises:
            ConfigError: no keys beside a public address, or a split of runs that are not served.
        """
        if self.keys is None and self.host not in LOOPBACK:
            raise ConfigError(
                f"--host {self.host} can be reached from outside, and without --api-key-file anybody may ask; make a "
                "key with `recsys serve-key NAME --scope read --file keys.toml`, or bind 127.0.0.1"
            )
        if self.keys is not None:
            read_keys(self.keys)
        if (self.tls[0] is None) != (self.tls[1] is None):
            raise ConfigError("--tls-cert and --tls-key belong together; give both or neither")
        check_split(self.config.split, list(self.runs))


class _Process:
    """A worker as the supervisor sees it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.ready = asyncio.Event()
        self.why = ""
        self.started = 0.0
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
        state = options.state
        main = options.runs[MAIN]
        beside_runs = main.resolve().parent
        if state is None:
            forget_dead(beside_runs)
        place = state / "versions" if state is not None else beside_runs / f"{PASSING}{os.getpid()}"
        self.shelf = Shelf(place, state is not None)
        self.key = _signing_key(state)
        self.versions: dict[str, Version] = {}
        self.before: dict[str, Version | None] = {}
        self.processes = [_Process(index) for index in range(options.workers)]
        self._stop = asyncio.Event()
        self._changing = asyncio.Lock()
        self._publishing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seen: dict[str, tuple[int, int]] = {}
        series = series_of(PATHS, list(options.runs))
        self._block = shared_block(series, options.workers + 1)
        self.metrics = Metrics(series, options.workers + 1, options.workers, self._block)

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
                await self._first(name, source)
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
                if options.metrics_port is not None:
                    self._task(self._tell_metrics(options.metrics_port))
                await self._stop.wait()
                _notify("STOPPING=1")
                log.info("ending", extra={"fields": {"drain_seconds": options.config.drain_seconds}})
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await self._drain()
        return 0

    def _end(self) -> None:
        """The first signal ends in order, the second one at once."""
        if self._stop.is_set():
            for one in self.processes:
                if one.process is not None and one.process.returncode is None:
                    one.process.kill()
            return
        self._stop.set()

    def _task(self, what: Any) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _first(self, name: str, source: Path) -> None:
        """The version that a named run begins with: its folder's, or the last one where that was rolled back."""
        version = await asyncio.to_thread(self.shelf.keep, source, self.options.rules)
        last = self.shelf.last(name)
        if self.shelf.is_rejected(name, version.name) and last is not None:
            log.warning("%s was rolled back, so %s is served", version.name, last.name)
            version = last
        else:
            try:
                await asyncio.to_thread(open_run, version.folder)  # every hash, once
            except RunError as error:
                self.shelf.forget_others()
                raise RunError(str(error).replace(str(version.folder), str(source))) from None
        former = self.shelf.before(name) if last is None or last.name == version.name else last
        self.versions[name], self.before[name] = version, former
        self.shelf.served(name, version, former)
        self._seen[name] = _stamp(source)

    async def _start(self, one: _Process, listener: socket.socket) -> None:
        """Start a worker and wait until it answers.

        Raises:
            RunError: it ends before.
        """
        options = self.options
        ours, theirs = socket.socketpair()
        one.ready.clear()
        one.started, one.why = time.monotonic(), ""
        fds = (listener.fileno(), theirs.fileno(), self._block)
        one.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "recsys.serving.worker",
            *(str(fd) for fd in fds),
            pass_fds=fds,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of the terminal is for the supervisor alone
            env={**os.environ, **ONE_THREAD},
        )
        theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        told = {
            "index": one.index,
            "workers": options.workers,
            "config": options.config.model_dump_json(),
            "rules": str(options.rules) if options.rules else "",
            "keys": str(options.keys) if options.keys else "",
            "key": self.key.hex(),
            "tls": [str(file) if file else "" for file in options.tls],
            "versions": {name: (version.name, str(version.folder)) for name, version in self.versions.items()},
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

    async def _keep_alive(self, one: _Process, listener: socket.socket) -> None:
        """Start a worker again whenever it ends, later and later where it does not live long."""
        pause = 0.1
        while not self._stop.is_set():
            assert one.process is not None
            await one.process.wait()
            one.ready.clear()
            if self._stop.is_set():
                return
            lived = time.monotonic() - one.started
            pause = 0.1 if lived > STEADY_SECONDS else min(2 * pause, 10.0)
            log.warning("worker ended", extra={"fields": {"worker": one.index, "code": one.process.returncode}})
            self.metrics.count("worker_restarts_total")
            await asyncio.sleep(pause)
            async with self._changing:  # it begins with one version, and no other is published meanwhile
                with contextlib.suppress(RecsysError):
                    await self._start(one, listener)

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

    async def _handle(self, one: _Process, message: Message) -> Message:
        """What a worker says or asks for."""
        what = message["what"]
        if what == "ready":
            one.memory = message["memory"]
            one.ready.set()
        elif what == "failed":
            one.why = message["why"]
        elif what == "publish":
            return await self.publish(message["name"], message["folder"])
        elif what == "roll_back":
            return await self.roll_back(message["name"])
        return {}

    async def publish(self, name: str, folder: str | None = None) -> Message:
        """Serve another version of a named run, if it stands its trial.

        Args:
            name: of the served run.
            folder: name of a run beside its own; its own folder when None.

        Raises:
            ProblemError: another version is being published, there is no such run, or the version is refused.
        """
        source = self.options.runs[name]
        source = source if folder is None else beside(source, folder)
        with self._alone():
            async with self._changing:
                started = time.monotonic()
                try:
                    version = await asyncio.to_thread(self.shelf.keep, source, self.options.rules)
                    if version.name != self.versions[name].name:
                        await self._try(name, version)
                        await self._switch(name, version)
                except RecsysError as error:
                    self.shelf.forget_others()  # a whole run may come under the same name
                    self.metrics.count("reloads_total", "refused")
                    log.error("version refused: %s", error, extra={"fields": {"run": name}})
                    raise ProblemError("refused", str(error)) from None
                return self._published(name, started)

    async def roll_back(self, name: str) -> Message:
        """Serve the version before, and never take up the present one by itself again.

        Raises:
            ProblemError: there is none, or another version is being published.
        """
        with self._alone():
            async with self._changing:
                started, former = time.monotonic(), self.before[name]
                if former is None:
                    raise ProblemError("not-found", "no version was served before this one")
                rejected = self.versions[name].name
                await self._switch(name, former)
                self.shelf.reject(name, rejected)
                return self._published(name, started)

    @contextlib.contextmanager
    def _alone(self) -> Any:
        if self._publishing:
            raise ProblemError("publishing", "another version is being published; ask again when it is done")
        self._publishing = True
        try:
            yield
        finally:
            self._publishing = False

    def _published(self, name: str, started: float) -> Message:
        former = self.before[name]
        return {
            "run": {"name": name, "version": self.versions[name].name},
            "previous": former.name if former is not None else "",
            "seconds": round(time.monotonic() - started, 3),
        }

    async def _try(self, name: str, version: Version) -> None:
        """Verify a version in a process of its own.

        Raises:
            RunError: it is not fit to be served.
        """
        gate = self.options.config.gate
        told = {
            "folder": str(version.folder),
            "version": version.name,
            "old": str(self.versions[name].folder),
            "rules": str(self.options.rules) if self.options.rules else "",
            "requests": gate.requests,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "recsys.serving.loading",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
        )
        out, _ = await process.communicate(json.dumps(told).encode())
        if process.returncode or not out:
            raise RunError(f"the trial of version {version.name} ended with code {process.returncode}")
        found = json.loads(out)
        if not found["ok"]:
            raise RunError(found["why"])
        log.info("version tried", extra={"fields": {"run": name, "version": version.name, "overlap": found["overlap"]}})
        if found["overlap"] < gate.min_overlap:
            raise RunError(
                f"the lists of version {version.name} have {found['overlap']:.0%} of their items in common with the "
                f"present ones, expected at least {gate.min_overlap:.0%} (gate.min_overlap)"
            )

    async def _switch(self, name: str, version: Version) -> None:
        """Two phases: every worker prepares the version, then all change to it.

        Raises:
            RunError: a worker cannot prepare it; all go on with the present one.
        """
        workers = [one.channel for one in self.processes if one.ready.is_set() and one.channel is not None]
        told = {"name": name, "version": version.name, "folder": str(version.folder)}
        prepared = await asyncio.gather(*(one.ask("prepare", **told) for one in workers), return_exceptions=True)
        failures = [
            found for found in prepared if isinstance(found, BaseException) and not isinstance(found, GoneError)
        ]
        if failures:
            await asyncio.gather(*(one.ask("drop", name=name) for one in workers), return_exceptions=True)
            raise RunError(str(failures[0]))
        await asyncio.gather(*(one.ask("commit", name=name) for one in workers), return_exceptions=True)
        self.before[name], self.versions[name] = self.versions[name], version
        self.shelf.served(name, version, self.before[name])
        self.metrics.count("reloads_total", "published")
        log.info("version published", extra={"fields": {"run": name, "version": version.name}})

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
                        await self.publish(name)

    async def _hang_up(self) -> None:
        """Read keys and run folders again."""
        workers = [one.channel for one in self.processes if one.ready.is_set() and one.channel is not None]
        await asyncio.gather(*(one.ask("keys") for one in workers), return_exceptions=True)
        for name in self.options.runs:
            with contextlib.suppress(RecsysError, ProblemError):
                await self.publish(name)

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


def _signing_key(state: Path | None) -> bytes:
    """The key of cursors and tokens: kept in the state, else of this service alone."""
    if state is None:
        return secrets.token_bytes(32)
    state.mkdir(parents=True, exist_ok=True)
    file = state / SIGNING_KEY
    with contextlib.suppress(FileExistsError):
        fresh = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(fresh, secrets.token_hex(32).encode())
        os.close(fresh)
    return bytes.fromhex(file.read_text(encoding="ascii"))


def _notify(state: str) -> None:
    """Tell systemd, where it started us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
            system.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
