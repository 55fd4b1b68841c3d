"""HTTP/1.1 as uvicorn reads it, with bounds on the headers and on the time they may take."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .problems import KINDS, MEDIA_TYPE, ProblemError


class BoundedProtocol(HttpToolsProtocol):
    """Refuses headers that are too large, too slow, or none, with a problem.

    Attributes:
        header_bytes: of the request line and all headers.
        read_seconds: in which they must have arrived, from the first byte on.
    """

    header_bytes = 16 << 10
    read_seconds = 10.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._size = 0
        self._reading = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`: whoever connects and says nothing is sent away too."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.read_seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._reading:
            self._size += len(data)
            if self._timer is None:
                self._timer = self.loop.call_later(self.read_seconds, self._too_slow)
        super().data_received(data)
        # What came with the headers may be body: only headers without an end are too large here.
        if self._reading and self._size > self.header_bytes and self.parser is not None:
            self._refuse("headers", f"found headers of more than {self.header_bytes:,} bytes, without an end")

    def on_message_begin(self) -> None:
        """See `httptools`."""
        super().on_message_begin()
        self._reading = True

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._reading, self._size = False, 0
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.header_bytes:
            self._refuse("headers", f"found headers of {size:,} bytes, expected at most {self.header_bytes:,}")
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See `httptools`."""
        if self.cycle is not None:
            super().on_message_complete()
        self._reading, self._size = True, 0

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem too."""
        self._refuse("bad-http", "the bytes are no HTTP/1.1 request; send one")

    def _too_slow(self) -> None:
        self._timer = None
        if self._reading and not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, slug: str, sentence: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        problem = ProblemError(slug, sentence).to_json(uuid.uuid4().hex)
        body, kind = orjson.dumps(problem), KINDS[slug]
        head = [
            f"HTTP/1.1 {kind.status} {kind.title}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
