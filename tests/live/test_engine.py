"""The engine answers what waits as one block, never waits for more, and outlives whatever a request meets."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from recsys.base.errors import RecsysError
from recsys.live.answers import Answer, RunVersion, ScoreAnswer, SimilarAnswer
from recsys.live.engine import Block, Engine
from recsys.live.errors import LateError, RequestError, UnavailableError
from recsys.live.lookups import HistoryAnswer, HistoryRequest, UsersAnswer, UsersRequest
from recsys.live.requests import Request, ScoreRequest, SimilarRequest


class Counter:
    """Answers k with k; `k = 13` is a bug, and a condition an error. Waits where `gate` is closed."""

    def __init__(self, version: str = "a") -> None:
        self.version = version
        self.blocks: list[int] = []
        self.caught_up = 0
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def catch_up(self) -> None:
        self.caught_up += 1

    def answer(self, requests: Sequence[Request]) -> list[Answer | RecsysError]:
        self.blocks.append(len(requests))
        self.entered.set()
        assert self.gate.wait(30)
        if any(request.k == 13 for request in requests):
            raise ZeroDivisionError("a bug")
        return [RequestError([]) if request.where else self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        return Answer(
            request_id="",
            run=RunVersion(name="main", version=self.version),
            user=None,
            known=False,
            rung="popular",
            items=[],
            candidates=request.k,
            eligible=0,
            short=0,
            relaxed=[],
            timings_ms={"retrieve": 0.0, "rank": 0.0, "total": 0.0},
        )

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        return SimilarAnswer(request_id="", run=RunVersion(name="main", version=self.version), seeds=[])

    def score(self, request: ScoreRequest) -> ScoreAnswer:
        raise RequestError([])

    def users(self, request: UsersRequest) -> UsersAnswer:
        raise RequestError([])

    def history(self, request: HistoryRequest) -> HistoryAnswer:
        raise RequestError([])


def held(engine: Engine, counter: Counter) -> Future[Any]:
    """Keep the engine busy: it waits in its first block until the gate opens."""
    counter.gate.clear()
    counter.entered.clear()
    first = engine.ask(Request(k=1))
    assert counter.entered.wait(30)
    return first


def test_an_idle_engine_catches_up_where_it_is_told_to() -> None:
    caught = threading.Event()

    class Awaited(Counter):
        def catch_up(self) -> None:
            if self.caught_up:
                caught.set()
            super().catch_up()
            raise ZeroDivisionError("a bug, which the engine outlives")

    engine = Engine(Awaited(), idle=0.001)
    assert caught.wait(30)
    engine.close()


def test_what_waits_is_one_block() -> None:
    counter, blocks = Counter(), list[Block]()
    engine = Engine(counter, block=4, watch=blocks.append)
    first = held(engine, counter)
    later = [engine.ask(Request(k=k)) for k in range(2, 8)]
    assert engine.waiting == 6
    counter.gate.set()
    assert [future.result(30).candidates for future in (first, *later)] == list(range(1, 8))
    engine.close()
    assert counter.blocks == [1, 4, 2]
    assert [block.size for block in blocks] == [1, 4, 2]
    assert counter.caught_up == 3


def test_a_bug_is_met_by_one_request() -> None:
    counter = Counter()
    engine = Engine(counter)
    first = held(engine, counter)
    futures = [engine.ask(Request(k=k, where="x" if k == 14 else "")) for k in (12, 13, 14)]
    futures += [engine.ask(SimilarRequest(items=("1",))), engine.ask(ScoreRequest(items=("1",)))]
    counter.gate.set()
    assert first.result(30).candidates == 1
    assert futures[0].result(30).candidates == 12
    errors = [type(future.exception(30)) for future in futures[1:]]
    assert errors == [ZeroDivisionError, RequestError, type(None), RequestError]
    assert engine.ask(Request(k=5)).result(30).candidates == 5
    engine.close()


def test_late_and_abandoned_requests_are_not_answered() -> None:
    counter = Counter()
    engine = Engine(counter)
    held(engine, counter)
    late, abandoned, patient = (engine.ask(Request(k=k, timeout_ms=t)) for k, t in ((2, 1), (3, None), (4, 60_000)))
    assert abandoned.cancel()
    threading.Event().wait(0.005)  # until the deadline has passed
    counter.gate.set()
    assert patient.result(30).candidates == 4
    assert isinstance(late.exception(30), LateError)
    engine.close()
    assert counter.blocks == [1, 1]


def test_a_full_queue_refuses_and_a_group_enters_whole() -> None:
    counter = Counter()
    engine = Engine(counter, queue=2)
    held(engine, counter)
    group = engine.ask_many([Request(k=2)] * 5)
    with pytest.raises(UnavailableError, match="5 requests wait"):
        engine.ask(Request())
    counter.gate.set()
    assert len([future.result(30) for future in group]) == 5
    engine.close()


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    counter = Counter()
    engine = Engine(counter)
    held(engine, counter)
    waiting = engine.ask(Request(k=2))
    closing = threading.Thread(target=engine.close)
    closing.start()
    counter.gate.set()
    closing.join(30)
    assert waiting.result(0).candidates == 2
    with pytest.raises(UnavailableError):
        engine.ask(Request())


def test_a_block_ends_on_the_version_it_began_with() -> None:
    counter = Counter("a")
    engine = Engine(counter)
    first = held(engine, counter)
    engine.replace(Counter("b"))
    second = engine.ask(Request(k=2))
    counter.gate.set()
    assert (first.result(30).run["version"], second.result(30).run["version"]) == ("a", "b")
    engine.close()
