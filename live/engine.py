"""One thread that answers: it takes the requests that wait, at most a block of them, and never waits for more.

An idle engine adds no delay, and a busy one answers blocks: the more wait, the less each costs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..base.errors import RecsysError
from .answers import Answer, Answered, ItemAnswer, ScoreAnswer, SimilarAnswer
from .errors import LateError, UnavailableError
from .lookups import HistoryAnswer, HistoryRequest, UsersAnswer, UsersRequest
from .requests import Asked, ItemRequest, Request, ScoreRequest, SimilarRequest

BLOCK = 32
"""Requests answered at once."""

log = logging.getLogger(__name__)


class Served(Protocol):
    """What an engine asks: a run, or several side by side."""

    def catch_up(self) -> None:
        """Take in what happened since the last block."""

    def answer(self, requests: Sequence[Request]) -> list[Answer | RecsysError]:
        """Answers in the order asked, an error in the place of a request that has none."""

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """Items like other items."""

    def score(self, request: ScoreRequest) -> ScoreAnswer:
        """What the ranker says of given items."""

    def users(self, request: UsersRequest) -> UsersAnswer:
        """Whom it knows."""

    def history(self, request: HistoryRequest) -> HistoryAnswer:
        """What somebody did."""

    def item(self, request: ItemRequest) -> ItemAnswer:
        """What is known of an item."""


@dataclass(frozen=True)
class Block:
    """What an engine did, for those who measure.

    Attributes:
        size: requests answered together.
        waited: seconds that each of them had waited.
        seconds: that the work took.
        waiting: requests that wait now.
    """

    size: int
    waited: tuple[float, ...]
    seconds: float
    waiting: int


@dataclass(frozen=True, eq=False)
class _Job:
    request: Asked
    deadline: float
    future: Future[Any] = field(default_factory=Future)
    entered: float = field(default_factory=time.perf_counter)


class Engine:
    """Answers requests of many threads on one thread of its own. Every request is answered by one version of a run.

    Args:
        served: what is asked.
        block: most requests answered at once.
        queue: most requests that wait; any number when 0. A group that is asked together enters whole where there is
            room for one.
        watch: is told of every block, on the engine's thread.
        idle: seconds without a request after which it catches up, so that none finds much to do; never when None, as
            where other threads read what is served.
    """

    def __init__(
        self,
        served: Served,
        *,
        block: int = BLOCK,
        queue: int = 0,
        watch: Callable[[Block], None] | None = None,
        idle: float | None = None,
    ) -> None:
        self._served, self._block, self._queue, self._watch, self._idle = served, block, queue, watch, idle
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recsys-engine", daemon=True)
        self._thread.start()

    @property
    def served(self) -> Served:
        """What is asked now."""
        return self._served

    def replace(self, served: Served) -> None:
        """Ask another one from the next block on; a block that is being answered ends on the one it began with."""
        self._served = served

    @property
    def waiting(self) -> int:
        """Requests that nobody has begun to answer."""
        return len(self._jobs)

    def ask(self, request: Asked, timeout: float | None = None) -> Future[Any]:
        """The answer, later: an `Answer`, `SimilarAnswer` or `ScoreAnswer`, or the error of this request.

        Cancel the future to take the request out of the queue.

        Args:
            request: what is asked.
            timeout: seconds from now after which nobody waits for it, where it names none itself.

        Raises:
            UnavailableError: too many wait, or the engine is closed.
        """
        return self.ask_many([request], timeout)[0]

    def ask_many(self, requests: Sequence[Asked], timeout: float | None = None) -> list[Future[Any]]:
        """As `ask`, for requests that enter the queue together."""
        now = time.monotonic()
        own = [request.timeout_ms / 1000 if request.timeout_ms else timeout for request in requests]
        jobs = [
            _Job(request, float("inf") if seconds is None else now + seconds)
            for request, seconds in zip(requests, own, strict=True)
        ]
        with self._changed:
            if self._closing:
                raise UnavailableError("the service is closing; ask again in a moment")
            if self._queue and len(self._jobs) >= self._queue:
                raise UnavailableError(f"{len(self._jobs)} requests wait already; ask again in a moment")
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Answer what waits, then end. Requests that come later are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (jobs := self._next()) is not None:
            if jobs:
                self._answer(jobs)
            else:
                self._catch_up()

    def _next(self) -> list[_Job] | None:
        """What waits, at most a block; nothing after a while without any, None once the engine is closed."""
        with self._changed:
            if not self._jobs and not self._closing:
                self._changed.wait(self._idle)
            if not self._jobs and self._closing:
                return None
            return [self._jobs.popleft() for _ in range(min(self._block, len(self._jobs)))]

    def _catch_up(self) -> None:
        try:
            self._served.catch_up()
        except Exception as error:  # the next request meets it, and is told
            log.warning("catching up failed: %s", type(error).__name__)

    def _answer(self, taken: Sequence[_Job]) -> None:
        now = time.monotonic()
        jobs = [job for job in taken if job.future.set_running_or_notify_cancel()]
        for job in (job for job in jobs if job.deadline < now):
            job.future.set_exception(LateError("the deadline passed while the request waited; ask for fewer at a time"))
        jobs = [job for job in jobs if job.deadline >= now]
        if not jobs:
            return
        served, started = self._served, time.perf_counter()
        found = self._found(served, [job.request for job in jobs])
        seconds = time.perf_counter() - started
        if self._watch is not None:
            self._watch(Block(len(jobs), tuple(started - job.entered for job in jobs), seconds, len(self._jobs)))
        for job, answer in zip(jobs, found, strict=True):
            if isinstance(answer, Answered):
                job.future.set_result(answer)
            else:
                job.future.set_exception(answer)

    def _found(self, served: Served, requests: Sequence[Asked]) -> list[Answered | Exception]:
        """Answers and errors in the order asked. A bug that one request meets is met by that request alone."""
        try:
            served.catch_up()
            return self._asked(served, requests)
        except Exception as error:  # the engine outlives whatever a request meets
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._found(served, [request])]

    @staticmethod
    def _asked(served: Served, requests: Sequence[Asked]) -> list[Answered | Exception]:
        found: dict[int, Answered | Exception] = {}
        lists = {place: request for place, request in enumerate(requests) if isinstance(request, Request)}
        if lists:
            found |= zip(lists, served.answer(list(lists.values())), strict=True)
        for place, request in enumerate(requests):
            try:
                if isinstance(request, SimilarRequest):
                    found[place] = served.similar(request)
                elif isinstance(request, ScoreRequest):
                    found[place] = served.score(request)
                elif isinstance(request, UsersRequest):
                    found[place] = served.users(request)
                elif isinstance(request, HistoryRequest):
                    found[place] = served.history(request)
                elif isinstance(request, ItemRequest):
                    found[place] = served.item(request)
            except RecsysError as error:
                found[place] = error
        return [found[place] for place in range(len(requests))]
