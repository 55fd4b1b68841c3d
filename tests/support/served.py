"""A service on a loopback socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx

from recsys.serving.listening import Server, server_of
from recsys.serving.service import Service


@contextlib.contextmanager
def serving(service: Service) -> Iterator[httpx.Client]:
    """A client of the service, which ends with the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    server: Server = server_of(service)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        service.engine.close()
