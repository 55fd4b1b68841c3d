"""A headless Chromium, driven over its own protocol: a client of the few messages that the tests need."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60.0


class Socket:
    """A WebSocket to a server on this machine: one text frame a message (RFC 6455)."""

    def __init__(self, url: str) -> None:
        where = urlparse(url)
        assert where.hostname is not None
        self._socket = socket.create_connection((where.hostname, where.port or 80), SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        assert b" 101 " in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass

    def send(self, text: str) -> None:
        """One message; clients mask what they send."""
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0xFE, size)
        head = head if size < 65536 else struct.pack("!BBQ", 0x81, 0xFF, size)
        self._socket.sendall(head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data)))

    def receive(self) -> str:
        """The next message, put together of its frames."""
        whole = b""
        while True:
            first, size = self._file.read(2)
            if size in (126, 127):
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            content = self._file.read(size)
            if first & 0x0F in (0, 1):
                whole += content
                if first & 0x80:
                    return whole.decode()

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()


class Tab:
    """One tab of the browser, and what it complained about.

    Args:
        url: of its protocol.
    """

    def __init__(self, url: str) -> None:
        self._socket, self._numbers = Socket(url), itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """What a method of the protocol answers."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.receive())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression as soon as it is true; the page itself waits, frame by frame."""
        return self.run(
            f"new Promise((found, never) => {{ const end = performance.now() + {SECONDS * 1e3}; const look = () => {{"
            f"const value = {script}; if (value) found(value);"
            "else if (performance.now() > end) never(new Error('waited in vain'));"
            "else requestAnimationFrame(look); }; look(); })"
        )

    def open(self, url: str, width: int, height: int = 900) -> None:
        """Show a page in a window of so many pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def picture(self, file: Path) -> None:
        """Keep a picture of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, which ends with the block.

    Args:
        folder: empty; everything that the browser keeps.
    """
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command += [
        "--disable-background-networking",
        "--disable-extensions",
        "--no-first-run",
        f"--user-data-dir={folder}",
    ]
    with subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            said = next(line.decode() for line in lines if b"DevTools listening on" in line)
            port = urlparse(said.rpartition(" ")[2].strip()).port
            began = time.monotonic()
            while not (pages := [p for p in httpx.get(f"http://127.0.0.1:{port}/json").json() if p["type"] == "page"]):
                assert time.monotonic() - began < SECONDS
            yield Tab(pages[0]["webSocketDebuggerUrl"])
        finally:
            process.terminate()
            process.communicate()
