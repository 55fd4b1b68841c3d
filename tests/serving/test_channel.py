"""What supervisor and workers say to one another, and that nobody waits for one who has ended."""

from __future__ import annotations

import asyncio
import socket

import pytest

from recsys.serving.channel import Channel, GoneError, Message
from recsys.serving.problems import ProblemError


async def pair() -> tuple[Channel, Channel]:
    """Two ends; each answers with what it was told, and refuses what is `no`."""

    async def handle(message: Message) -> Message:
        if message["what"] == "no":
            raise ProblemError("refused", "not this")
        if message["what"] == "never":
            await asyncio.Event().wait()
        return {"heard": message["what"]}

    ends = [await asyncio.open_unix_connection(sock=one) for one in socket.socketpair()]
    return Channel(*ends[0], handle), Channel(*ends[1], handle)


def test_a_question_has_its_own_answer() -> None:
    async def talk() -> None:
        one, other = await pair()
        listening = [asyncio.ensure_future(end.listen()) for end in (one, other)]
        answers = await asyncio.gather(*(one.ask(f"q{number}") for number in range(5)), other.ask("back"))
        assert [answer["heard"] for answer in answers] == [*(f"q{number}" for number in range(5)), "back"]
        with pytest.raises(ProblemError, match="not this"):
            await one.ask("no")
        for task in listening:
            task.cancel()

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_who_has_ended_keeps_nobody_waiting() -> None:
    async def talk() -> None:
        one, other = await pair()
        hearing, answering = (asyncio.ensure_future(end.listen()) for end in (one, other))
        waiting = asyncio.ensure_future(one.ask("never"))
        await other.ask("a turn, so that the question is there")
        answering.cancel()
        with pytest.raises(GoneError):
            await waiting
        await hearing
        with pytest.raises(GoneError):  # asked after the end was seen
            await one.ask("anything")

    asyncio.run(asyncio.wait_for(talk(), 30))
