"""One worker process: a loop thread for HTTP, an engine thread for answers, and an ear for the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch
import uvloop

from ..base.errors import RecsysError
from ..base.memory import keep_memory
from ..live.answering import Answering
from ..live.log import LogUnavailableError, StateLog, open_log
from ..live.teller import Teller
from ..live.tokens import Tokens
from .channel import Channel, Message
from .config import ServeConfig
from .keys import Keys, read_keys
from .listening import Server, server_of
from .loading import load_answering
from .logs import log, log_json_lines
from .metrics import Metrics, private_bytes, series_of
from .paths import PATHS
from .runs import Runs
from .service import Published, Service

LIMIT = 1 << 20
"""Bytes of a line between supervisor and worker."""
KEPT_BYTES = 64 << 20
"""Memory that a worker keeps for its next answers; blocks of 16 requests take some 10 MB."""


class Worker:
    """What a worker does for its supervisor.

    Args:
        told: its part of the service.
        channel: to the supervisor.
    """

    def __init__(self, told: Message, metrics: int) -> None:
        self.told = told
        self.config = ServeConfig.model_validate_json(told["config"])
        self.rules = Path(told["rules"]) if told["rules"] else None
        self.key = bytes.fromhex(told["key"])
        config = self.config
        self.log = open_log(told["state"], config.durability, config.fresh_seconds) if told["state"] else None
        self.channel: Channel | None = None
        self.server: Server | None = None
        self._prepared: dict[str, Answering] = {}
        self._former: dict[str, Answering] = {}
        runs = {name: self._load(name, *version) for name, version in told["versions"].items()}
        series = series_of(PATHS, list(runs))
        self.service = Service(
            Runs(runs, self.config.split),
            self.config,
            Metrics(series, told["workers"] + 1, told["index"], metrics),
            self._keys(),
            publisher=self,
        )
        self._tell()

    def _load(self, name: str, version: str, folder: str) -> Answering:
        return load_answering(name, version, Path(folder), self.rules, self.key, self.log)

    def _tell(self) -> None:
        """What the service is told is checked by the schema of its main run."""
        if self.log is not None:
            dataset = self.service.runs.main.funnel.dataset
            self.service.teller = Teller(self.log, dataset, Tokens(self.key))

    def _keys(self) -> Keys | None:
        file = self.told["keys"]
        return Keys(read_keys(Path(file)), self.told["workers"]) if file else None

    async def publish(self, name: str, folder: str | None) -> Published:
        """See `Publisher`: the supervisor does it."""
        return await self._changed("publish", name=name, folder=folder)

    async def roll_back(self, name: str) -> Published:
        """See `Publisher`: the supervisor does it."""
        return await self._changed("roll_back", name=name)

    async def _changed(self, what: str, **told: Any) -> Published:
        assert self.channel is not None
        found = await self.channel.ask(what, **told)
        return Published(run=found["run"], previous=found["previous"], seconds=found["seconds"])

    async def handle(self, message: Message) -> Message:
        """What the supervisor asks for."""
        what, name = message["what"], message.get("name", "")
        if what == "prepare":
            former = self._former.get(name)
            if former is None or former.run["version"] != message["version"]:
                former = await asyncio.to_thread(self._load, name, message["version"], message["folder"])
            self._prepared[name] = former
        elif what == "commit":
            self._former[name] = self.service.runs.by_name[name]
            self.service.replace(name, self._prepared.pop(name))
            self._tell()
        elif what == "drop":
            self._prepared.pop(name, None)
        elif what == "keys":
            self.service.keys = self._keys()
        elif what == "drain":
            self.drain()
        return {"version": dict(self.service.runs.versions).get(name)}

    def drain(self) -> None:
        """Begin to end."""
        if self.server is not None and not self.service.draining:
            self._ending = asyncio.ensure_future(self.server.drain(self.service))

    def _measure_log(self, log: StateLog) -> None:
        """Tell how far the log is, and how far this worker."""
        overlays = [run.overlay for run in self.service.runs.by_name.values() if run.overlay is not None]
        with contextlib.suppress(LogUnavailableError):
            last = log.last
            self.service.metrics.set("log_position", last)
            self.service.metrics.set("state_lag_rows", max(last - one.position for one in overlays))
            self.service.metrics.set("overlay_bytes", sum(one.nbytes for one in overlays))
            main = self.service.runs.main.overlay
            if main is not None:
                for state, count in main.items.counts.items():
                    self.service.metrics.set("items", count, state)
                self.service.metrics.set("new_run_due", float(main.items.crowded))

    async def measure(self) -> None:
        """Tell how late the loop is, and how much memory is this process's own."""
        metrics, beat = self.service.metrics, 0
        while True:
            due = time.perf_counter() + 1.0
            if beat % 10 == 0:
                metrics.set("private_bytes", private_bytes())
            beat += 1
            if self.log is not None:
                await asyncio.to_thread(self._measure_log, self.log)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            metrics.set("loop_lag_seconds", max(0.0, time.perf_counter() - due))


async def work(listener: int, channel: int, metrics: int) -> int:
    """Serve until the supervisor, or a signal, ends it.

    Returns:
        The exit code.
    """
    ours = socket.socket(fileno=channel)
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LIMIT)
    told: Message = {}

    async def handle(message: Message) -> Message:
        return await worker.handle(message)

    line = await reader.readline()
    if not line:
        return 1
    told = json.loads(line)
    to_supervisor = Channel(reader, writer, handle)
    hearing = asyncio.ensure_future(to_supervisor.listen())
    try:
        worker = Worker(told, metrics)
    except RecsysError as error:
        await to_supervisor.ask("failed", why=str(error))
        return 1
    worker.channel = to_supervisor
    tls = [Path(file) if file else None for file in told["tls"]]
    worker.server = server_of(worker.service, *tls)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.drain)
    hearing.add_done_callback(lambda _: worker.drain())  # nobody is to be served without a supervisor
    measuring = asyncio.ensure_future(worker.measure())
    serving = asyncio.ensure_future(worker.server.serve(sockets=[socket.socket(fileno=listener)]))
    while not worker.server.started and not serving.done():
        await asyncio.sleep(0.01)
    versions = dict(worker.service.runs.versions)
    if not hearing.done():
        await to_supervisor.ask("ready", versions=versions, memory=private_bytes())
    log.info("worker ready", extra={"fields": {"worker": told["index"], "versions": versions}})
    await serving
    measuring.cancel()
    await asyncio.to_thread(worker.service.engine.close)
    if worker.log is not None:
        await asyncio.to_thread(worker.log.close)
    return 0


def main(listener: int, channel: int, metrics: int) -> int:
    """Run a worker.

    Args:
        listener: descriptor of the listening socket that all workers share.
        channel: of the socket to the supervisor.
        metrics: of the block of all workers' numbers.

    Returns:
        The exit code.
    """
    log_json_lines()
    torch.set_num_threads(1)
    keep_memory(KEPT_BYTES)
    return uvloop.run(work(listener, channel, metrics))
