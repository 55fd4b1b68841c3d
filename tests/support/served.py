"""A service on a loopback socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx

from recsys.live.answering import Answering
from recsys.live.log import MemoryLog
from recsys.live.overlay import overlay_of
from recsys.live.teller import Teller
from recsys.recommender import Recommender
from recsys.serving.config import ServeConfig
from recsys.serving.listening import Server, server_of
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.runs import Runs
from recsys.serving.service import Service


def telling(recommender: Recommender) -> Service:
    """A service of one run to which something can be told; its log is in memory."""
    log = MemoryLog()
    overlay = overlay_of(recommender.funnel, log)
    runs = Runs({"main": Answering(overlay.funnel, "main", "v", overlay=overlay)})
    service = Service(runs, ServeConfig(), Metrics(series_of((), ["main"])))
    service.teller = Teller(log, recommender.trained.dataset)
    return service


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
