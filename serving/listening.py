"""uvicorn as a worker runs it: our application, our protocol, no signals, nothing logged but by us."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from .app import create_app
from .protocol import BoundedProtocol
from .service import Service


class Server(uvicorn.Server):
    """uvicorn's server, which leaves the signals of its process to whoever runs it."""

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
            backlog=2048,
            ssl_certfile=certificate,
            ssl_keyfile=private_key,
        )
    )
    service.connections = lambda: len(server.server_state.connections)
    return server
