"""What supervisor and workers say to one another, and that nobody waits for one who has ended."""

from __future__ import annotations

import asyncio
import socket

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


async def talked() -> list[Message | BaseException]:
    """What both ends are answered."""
    one, other = await pair()
    listening = [asyncio.ensure_future(end.listen()) for end in (one, other)]
    asked = [one.ask("first"), one.ask("no"), one.ask("third"), other.ask("back")]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for task in listening:
        task.cancel()
    return answers


async def left() -> list[Message | BaseException]:
    """What becomes of a question that waits while the other side ends, and of one that is asked after that was seen."""
    one, other = await pair()
    hearing, answering = (asyncio.ensure_future(end.listen()) for end in (one, other))
    waiting = asyncio.ensure_future(one.ask("never"))
    await other.ask("a turn, so that the question is there")
    answering.cancel()
    found = await asyncio.gather(waiting, return_exceptions=True)
    await hearing
    return [*found, *await asyncio.gather(one.ask("anything"), return_exceptions=True)]


def test_a_question_has_its_own_answer() -> None:
    first, refused, third, back = asyncio.run(asyncio.wait_for(talked(), 30))
    assert isinstance(refused, ProblemError)
    assert [told["heard"] for told in (first, third, back) if isinstance(told, dict)] == ["first", "third", "back"]


def test_who_has_ended_keeps_nobody_waiting() -> None:
    waiting, later = asyncio.run(asyncio.wait_for(left(), 30))
    assert isinstance(waiting, GoneError)
    assert isinstance(later, GoneError)
