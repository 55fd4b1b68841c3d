"""Connections taken one at a time, by the worker that has fewest.

A burst of connections on a socket that several processes listen on goes to whoever wakes first: of sixteen that were
kept alive one worker of two held ten to sixteen, and answered most requests alone
([who takes a connection](../docs/experiments.md#who-takes-a-connection)). Here a worker that has more open than another
leaves a new one to it for a moment, and takes it after all where nobody came.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from ssl import SSLContext

LEFT_SECONDS, LEFT_TIMES = 0.01, 5
"""How long a connection is left to a worker that has fewer, and how often in turn: one that does not come begins, or is
dead, and is not waited for until it has another number of connections."""
REST_SECONDS = 0.5
"""Until the next try where the system gives no connection, as when this process has no descriptor left for one."""


class Accepting:
    """One listening socket of this worker's.

    Args:
        listener: that may be other processes' too.
        protocol: makes what speaks on a connection.
        certificate: of TLS; plain when None.
        mine: connections that are open here.
        others: the fewest that another worker has open; infinite where there is none.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        certificate: SSLContext | None,
        mine: Callable[[], int],
        others: Callable[[], float],
    ) -> None:
        self.listener, self.protocol, self.certificate = listener, protocol, certificate
        self.mine, self.others = mine, others
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._rest: asyncio.TimerHandle | None = None
        self._missed, self._times = float("inf"), 0  # what a worker had that did not come, and how often in turn
        listener.setblocking(False)
        self._loop.add_reader(listener, self._called)

    def close(self) -> None:
        """Take no more; the socket stays open."""
        self._loop.remove_reader(self.listener)
        if self._rest is not None:
            self._rest.cancel()

    def _called(self) -> None:
        fewest = self.others()
        if fewest != self._missed:
            self._missed, self._times = fewest, 0
        if self.mine() + len(self._coming) <= fewest or self._times == LEFT_TIMES:
            self._take()
        else:
            self._pause(LEFT_SECONDS, self._take_what_was_left)

    def _take_what_was_left(self) -> None:
        self._times += self._take()

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        def again() -> None:
            self._loop.add_reader(self.listener, self._called)
            then()

        self._loop.remove_reader(self.listener)
        self._rest = self._loop.call_later(seconds, again)

    def _take(self) -> bool:
        """Take a connection; whether one was there."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was here first, or the caller has gone
        except OSError:
            self._pause(REST_SECONDS, lambda: None)
            return False
        task = self._loop.create_task(self._begin(connection))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        return True

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # no TLS, or gone meanwhile: nobody is there to be told
            await self._loop.connect_accepted_socket(self.protocol, connection, ssl=self.certificate)
