"""What the routes ask: the engine behind limits and deadlines, the keys, the metrics, and who publishes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from ..base.errors import RecsysError
from ..live.answering import Answering
from ..live.answers import Answer, Answered, RunVersion
from ..live.engine import Block, Engine
from ..live.errors import LateError, UnavailableError
from ..live.log import LogUnavailableError
from ..live.requests import Asked, Receipt, Request, parsed
from ..live.teller import Teller, check_recorded
from .config import ServeConfig
from .keys import Keys, given_key
from .limits import check
from .logs import log, where
from .metrics import Metrics
from .problems import BUG, ProblemError, problem_of
from .runs import Runs

IDLE = 1.0
"""Seconds without a request after which a worker takes in what happened all the same."""
CHECKED = 1.0
"""Seconds for which it is known whether the log can be written."""
PATIENCE = 0.05
"""Seconds of waiting after which a worker looks whether the client is still there."""


class Published(TypedDict):
    """What is served now, and which version was before."""

    run: RunVersion
    previous: str
    seconds: float


class Publisher(Protocol):
    """Who changes the version that all workers serve."""

    async def publish(self, name: str, folder: str | None) -> Published:
        """Serve another version of a named run: that of a folder, or what is in its own now."""

    async def roll_back(self, name: str) -> Published:
        """Serve the version before."""


class Service:
    """One worker's half of a service.

    Args:
        runs: what is served.
        config: limits and times.
        metrics: this worker's row.
        keys: who may ask; anybody when None.
        publisher: who changes versions; nobody does when None.
    """

    def __init__(
        self,
        runs: Runs,
        config: ServeConfig,
        metrics: Metrics,
        keys: Keys | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self.config, self.metrics, self.keys, self.publisher = config, metrics, keys, publisher
        self.teller: Teller | None = None  # nothing can be told without a state
        self.draining = False
        self._checked = -CHECKED, False
        self.connections: Callable[[], int] = lambda: 0
        self.engine = Engine(runs, queue=config.limits.queue, watch=self._watch, idle=IDLE)

    @property
    def runs(self) -> Runs:
        """What is served now."""
        served = self.engine.served
        assert isinstance(served, Runs)
        return served

    def replace(self, name: str, answering: Answering) -> None:
        """Serve another version of a named run, from the next block on."""
        self.engine.replace(self.runs.with_run(name, answering))

    async def checks(self) -> dict[str, bool]:
        """What must hold for a service to be ready: with a state, a log that can be written, and no lag behind it."""
        found = {"version": True, "accepting": not self.draining}
        if self.teller is None:
            return found
        overlays = [run.overlay for run in self.runs.by_name.values() if run.overlay is not None]
        lag = max((one.lag for one in overlays), default=0.0)
        return found | {"writable": await self._writable(self.teller), "fresh": lag < self.config.lag_seconds}

    async def _writable(self, teller: Teller) -> bool:
        """Whether the log can be written; asked of it at most once a second, whoever asks us."""
        at, found = self._checked
        if time.monotonic() - at > CHECKED:
            try:
                await asyncio.to_thread(teller.log.check)
                found = True
            except LogUnavailableError:
                found = False
            self._checked = time.monotonic(), found
        return found

    async def ask(self, call: HttpRequest, request: Asked) -> Any:
        """The answer to one request.

        Raises:
            RequestError: it is not what it should be.
            UnavailableError: too many wait.
            LateError: the deadline passed, or nobody waits for the answer.
        """
        self._check_recorded(call, request)
        answer = (await self._asked(call, [request]))[0].result()
        if isinstance(request, Request):
            await self._recorded([(request, answer)])
        return answer

    def _check_recorded(self, call: HttpRequest, request: Asked) -> None:
        """Refuse to write down what is shown where that cannot be, or the key may not write."""
        check_recorded(request, self.teller)
        if self.keys is not None and isinstance(request, Request) and request.record is not None:
            self.keys.admit(given_key(iter(call.scope["headers"])), "write", 0.0)

    async def _recorded(self, answers: Sequence[tuple[Request, Answer]]) -> None:
        """Write down the answers of requests that ask for it, before they are given."""
        told = [pair for pair in answers if pair[0].record is not None]
        if told and self.teller is not None:
            self.kept(await asyncio.to_thread(self.teller.shown, told))

    def kept(self, told: Receipt) -> None:
        """Count what the service was told."""
        for result, count in (
            ("accepted", told.accepted),
            ("duplicate", told.duplicates),
            ("refused", len(told.refused)),
        ):
            self.metrics.count("events_total", result, by=count)

    async def ask_many(self, call: HttpRequest, given: Sequence[Any], problem_id: str) -> list[Mapping[str, Any]]:
        """Answers of a batch as JSON, a problem in the place of each request that has none."""
        found: list[Mapping[str, Any] | None] = []
        requests: list[Request] = []
        for one in given:
            try:
                request = parsed(Request, one)
                check(request, self.config.limits)
                self._check_recorded(call, request)
            except RecsysError as error:
                found.append(problem_of(error).to_json(problem_id))
            else:
                found.append(None)
                requests.append(request)
        answers = await self._asked(call, requests) if requests else []
        done = [pair for pair in zip(requests, answers, strict=True) if pair[1].exception() is None]
        await self._recorded([(request, future.result()) for request, future in done])
        each = iter(answers)
        return [self._json(next(each), problem_id) if one is None else one for one in found]

    @staticmethod
    def _json(future: asyncio.Future[Any], problem_id: str) -> Mapping[str, Any]:
        error = future.exception()
        if error is None:
            answer: Answered = future.result()
            return answer.to_json()
        problem = problem_of(error)
        if problem.slug == "bug":
            log.error("%s", BUG, extra={"fields": {"request": problem_id, **where(error)}})
        return problem.to_json(problem_id)

    async def _asked(self, call: HttpRequest, requests: Sequence[Asked]) -> list[asyncio.Future[Any]]:
        for request in requests:
            check(request, self.config.limits)
        seconds = max(request.timeout_ms or self.config.limits.timeout_ms for request in requests) / 1000
        try:
            futures: list[Future[Any]] = self.engine.ask_many(requests, self.config.limits.timeout_ms / 1000)
        except UnavailableError:
            self.metrics.count("queue_rejected_total", by=len(requests))
            raise
        waiting = [asyncio.wrap_future(future) for future in futures]
        pending = (await asyncio.wait(waiting, timeout=min(PATIENCE, seconds)))[1]
        if pending:
            await self._look_after(call, pending, seconds - PATIENCE)
        return waiting

    async def _look_after(self, call: HttpRequest, pending: set[asyncio.Future[Any]], seconds: float) -> None:
        """Wait on, as long as the client does; who is not answered then leaves the queue."""
        gone = asyncio.ensure_future(_disconnected(call))
        everything: asyncio.Future[Any] = asyncio.ensure_future(asyncio.wait(pending))
        try:
            await asyncio.wait([everything, gone], timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                return
            if gone.done():
                self.metrics.count("abandoned_total")
            for future in pending:
                future.cancel()
            raise LateError("the deadline passed before the answer was there; give more time, or ask for less")
        finally:
            gone.cancel()
            everything.cancel()

    def _watch(self, block: Block) -> None:
        metrics = self.metrics
        metrics.observe("batch_size", block.size)
        metrics.set("queue_depth", block.waiting)
        metrics.observe("stage_seconds", block.seconds, "block")
        for seconds in block.waited:
            metrics.observe("stage_seconds", seconds, "wait")

    def counted(self, answer: Answer) -> None:
        """Count what an answer rests on."""
        metrics = self.metrics
        metrics.count("answers_total", answer.rung, answer.run["name"])
        metrics.observe("stage_seconds", answer.timings_ms["retrieve"] / 1000, "retrieve")
        metrics.observe("stage_seconds", answer.timings_ms["rank"] / 1000, "rank")
        if answer.short:
            metrics.count("short_total")
        for rule in answer.relaxed:
            metrics.count("relaxed_total", rule)
        if explored := sum(item["explored"] for item in answer.items):
            metrics.count("explored_total", by=explored)

    def text(self) -> str:
        """All metrics, for Prometheus."""
        more = ["# HELP recsys_model_info The versions served.", "# TYPE recsys_model_info gauge"]
        more += [f'recsys_model_info{{run="{name}",version="{version}"}} 1' for name, version in self.runs.versions]
        more += [
            "# HELP recsys_model_age_seconds Since the version was put to work.",
            "# TYPE recsys_model_age_seconds gauge",
        ]
        now = time.time()
        more += [f'recsys_model_age_seconds{{run="{name}"}} {now - at:.0f}' for name, at in self.runs.since.items()]
        return self.metrics.text(more)

    async def published(self, change: Callable[[Publisher], Awaitable[Published]]) -> Published:
        """Ask whoever publishes.

        Raises:
            ProblemError: nobody does, or the version is refused.
        """
        if self.publisher is None:
            raise ProblemError("unavailable", "nobody publishes versions in this process; start it by `recsys serve`")
        return await change(self.publisher)


async def _disconnected(call: HttpRequest) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass
