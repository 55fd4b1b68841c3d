"""What supervisor and workers say to one another: JSON lines over a pair of sockets, each question with an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from ..base.errors import RecsysError
from .problems import ProblemError

Message = dict[str, Any]
Handler = Callable[[Message], Awaitable[Message]]


class GoneError(RecsysError):
    """The other side has ended."""


class Channel:
    """One end.

    Args:
        reader: of the socket.
        writer: of the socket.
        handle: answers what the other side asks.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
        self._reader, self._writer, self._handle = reader, writer, handle
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._next = 0
        self._gone = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, what: str, **told: Any) -> Message:
        """Ask the other side.

        Raises:
            GoneError: it has ended.
            ProblemError: it refuses.
        """
        self._next += 1
        number = self._next
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"ask": number, "what": what, **told})
            found: Message = await future
            return found
        finally:
            del self._waiting[number]

    async def listen(self) -> None:
        """Hear the other side until it ends."""
        try:
            while line := await self._reader.readline():
                message: Message = json.loads(line)
                if "ask" in message:
                    task = asyncio.ensure_future(self._answer(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (future := self._waiting.get(message["to"])) is not None and not future.done():
                    if "slug" in message:
                        future.set_exception(ProblemError(message["slug"], message["detail"]))
                    else:
                        future.set_result(message)
        except (ConnectionError, ValueError):
            pass
        finally:
            # Its end is seen here first; what is asked from now on would wait for ever.
            self._gone = True
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(GoneError("the process has ended"))

    async def _answer(self, message: Message) -> None:
        try:
            found = await self._handle(message)
        except ProblemError as error:
            found = {"slug": error.slug, "detail": error.detail}
        except RecsysError as error:
            found = {"slug": "refused", "detail": str(error)}
        with contextlib.suppress(GoneError):  # nobody waits for it
            self._send({"to": message["ask"], **found})

    def _send(self, message: Message) -> None:
        if self._gone or self._writer.is_closing():
            raise GoneError("the process has ended")
        self._writer.write(json.dumps(message).encode() + b"\n")
