"""uvicorn as a worker runs it: our application, our protocol, no signals, nothing logged but by us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from .accepting import Accepting
from .app import create_app
from .protocol import BoundedProtocol
from .service import Service


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals of its process to whoever runs it, and connections to whoever has few.

    Args:
        config: of uvicorn.
        service: that is served.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._accepting: list[Accepting] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup([])
        config, state, metrics = self.config, self.server_state, self.service.metrics
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            made = config.http_protocol_class
            return made(config=config, server_state=state, app_state=self.lifespan.state, _loop=loop)  # type: ignore[call-arg]

        for one in sockets or ():
            mine, others = self.service.connections, lambda: metrics.least_of_others("connections")
            self._accepting.append(Accepting(one, protocol, config.ssl, mine, others))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        for one in self._accepting:
            one.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`: nothing is captured."""
        yield

    async def drain(self, service: Service) -> None:
        """Be not ready; then take no new connection, finish what runs, and end.

        Args:
            service: whose kept-alive connections are closed by their next response.
        """
        service.draining = True
        await asyncio.sleep(service.config.drain_seconds)
        self.should_exit = True


def server_of(service: Service, certificate: Path | None = None, private_key: Path | None = None) -> Server:
    """A server of a service, which still needs a socket: `await server.serve(sockets=[socket])`.

    Args:
        service: what answers.
        certificate: PEM file; plain HTTP when None.
        private_key: PEM file of its key.
    """
    config = service.config

    class Protocol(BoundedProtocol):
        header_bytes = config.limits.header_bytes
        read_seconds = config.read_seconds

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """See `asyncio.Protocol`."""
            super().connection_made(transport)
            service.metrics.set("connections", service.connections())

        def connection_lost(self, exc: Exception | None) -> None:
            """See `asyncio.Protocol`."""
            super().connection_lost(exc)
            service.metrics.set("connections", service.connections())

    server = Server(
        uvicorn.Config(
            create_app(service),
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=config.finish_seconds,
            proxy_headers=bool(config.proxies),
            forwarded_allow_ips=list(config.proxies),
            ssl_certfile=certificate,
            ssl_keyfile=private_key,
        ),
        service,
    )
    service.connections = lambda: len(server.server_state.connections)
    service.metrics.set("connections", 0)  # the worker before this one had some
    return server
