"""Who takes a connection where several could."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from recsys.serving.accepting import LEFT_SECONDS, LEFT_TIMES, Accepting


class Greeter(asyncio.Protocol):
    """Says its worker's name, and counts."""

    def __init__(self, name: str, count: dict[str, int]) -> None:
        self.name, self.count = name, count

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self.count[self.name] += 1
        transport.write(self.name.encode())


def greeters(count: dict[str, int], other: Callable[[str], float]) -> list[Accepting]:
    """Workers `a`, `b`, ... on one socket, in one loop; `other` tells each how many another one has."""
    listener = socket.create_server(("127.0.0.1", 0))

    def worker(name: str) -> Accepting:
        return Accepting(listener.dup(), lambda: Greeter(name, count), None, lambda: count[name], lambda: other(name))

    return [worker(name) for name in count]


async def call(address: tuple[str, int]) -> tuple[str, asyncio.StreamWriter]:
    """Connect and hear who answers."""
    reader, writer = await asyncio.open_connection(*address)
    return (await asyncio.wait_for(reader.read(1), 10)).decode(), writer


async def called(workers: list[Accepting], times: int) -> tuple[list[str], float]:
    """Who answered so many calls made at once, and how long the slowest took."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(call(workers[0].listener.getsockname()) for _ in range(times)))
    seconds = time.perf_counter() - started
    for _, writer in answers:
        writer.close()
    for worker in workers:
        worker.close()
        worker.listener.close()
    return [name for name, _ in answers], seconds


def test_a_burst_of_connections_is_shared() -> None:
    async def burst() -> list[str]:
        count = {"a": 0, "b": 0}
        names, _ = await called(greeters(count, lambda name: count["ba"["ab".index(name)]]), 16)
        return names

    assert asyncio.run(burst()).count("a") == 8


def test_whoever_has_more_leaves_a_connection_but_not_for_ever() -> None:
    """The other one may be dead, or stand still; then it is waited for a few times, not with every connection."""

    async def alone() -> tuple[list[str], float]:
        return await called(greeters({"a": 5}, lambda _: 0.0), 100)

    names, seconds = asyncio.run(alone())
    assert names == ["a"] * 100
    assert LEFT_TIMES * LEFT_SECONDS <= seconds < 50 * LEFT_SECONDS


def test_without_another_worker_nothing_is_left() -> None:
    async def alone() -> list[str]:
        names, _ = await called(greeters({"a": 5}, lambda _: float("inf")), 20)
        return names

    assert asyncio.run(alone()) == ["a"] * 20
