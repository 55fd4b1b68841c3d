"""Another version for all workers at one moment: it is tried, prepared by each, and then served by all, or by none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..artifacts.folder import Run, open_run
from ..artifacts.manifest import read_run_manifest
from ..artifacts.names import LOG
from ..base.errors import RecsysError, RunError
from .channel import Channel, GoneError, Message
from .logs import log
from .metrics import Metrics
from .nursery import Descriptor, Nursery
from .options import Options
from .problems import ProblemError
from .versions import Shelf, Version, beside

PREPARE_SECONDS = 600.0
"""In which a worker must have prepared a version."""


class Publishing:
    """The versions that are served, and how they change.

    Args:
        options: of the service.
        shelf: where files stay.
        metrics: counts what is published and refused.
        workers: gives the channels of the workers that are ready.
        nursery: starts the trial of a version.
    """

    def __init__(
        self,
        options: Options,
        shelf: Shelf,
        metrics: Metrics,
        workers: Callable[[], Sequence[Channel]],
        nursery: Nursery,
    ) -> None:
        self.options, self.shelf, self.metrics, self._workers = options, shelf, metrics, workers
        self._nursery = nursery
        self.versions: dict[str, Version] = {}
        self.before: dict[str, Version | None] = {}
        self.changing = asyncio.Lock()
        self._publishing = False

    async def begin(self, name: str, source: Path) -> None:
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

    def known(self, log_id: str) -> int:
        """Position in a log up to which every version has learned that is served, or that a rollback may bring."""
        kept = [version for version in (*self.versions.values(), *self.before.values()) if version is not None]
        return min((_learned(version, log_id) for version in kept), default=0)

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
            started = time.monotonic()
            try:
                version = await asyncio.to_thread(self.shelf.keep, source, self.options.rules)
                if version.name != self.versions[name].name:
                    await self._try(name, version)  # it takes a while, in which workers may begin again
                    async with self.changing:
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
            async with self.changing:
                started, former = time.monotonic(), self.before[name]
                if former is None:
                    raise ProblemError("not-found", "no version was served before this one")
                rejected = self.versions[name].name
                await self._switch(name, former)
                self.shelf.reject(name, rejected)
                return self._published(name, started)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
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
        ours, theirs = socket.socketpair()
        with contextlib.closing(theirs):
            child = await self._nursery.start("loading", told, Descriptor(theirs.fileno()))
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        out = await reader.read()
        writer.close()
        if await child.wait() or not out:
            raise RunError(f"the trial of version {version.name} ended with code {child.returncode}")
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
        workers = self._workers()
        told = {"name": name, "version": version.name, "folder": str(version.folder)}
        asked = [asyncio.wait_for(one.ask("prepare", **told), PREPARE_SECONDS) for one in workers]
        prepared = await asyncio.gather(*asked, return_exceptions=True)
        failures = [
            found for found in prepared if isinstance(found, BaseException) and not isinstance(found, GoneError)
        ]
        if failures:
            await asyncio.gather(*(one.ask("drop", name=name) for one in workers), return_exceptions=True)
            late = f"a worker did not prepare version {version.name} in {PREPARE_SECONDS:.0f} seconds"
            raise RunError(late if isinstance(failures[0], TimeoutError) else str(failures[0]))
        await asyncio.gather(*(one.ask("commit", name=name) for one in workers), return_exceptions=True)
        self.before[name], self.versions[name] = self.versions[name], version
        self.shelf.served(name, version, self.before[name])
        self.metrics.count("reloads_total", "published")
        log.info("version published", extra={"fields": {"run": name, "version": version.name}})


def _learned(version: Version, log_id: str) -> int:
    """Position of the last row of a log that a version learned from, 0 where it is of no export of it."""
    try:
        run = Run(version.folder, read_run_manifest(version.folder))
        told = run.read_json(LOG) if LOG in run else None
    except RecsysError:
        return 0
    return int(told["last"]) if told is not None and told["log"] == log_id else 0
