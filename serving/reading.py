"""The raw body of a request as a JSON object: bounded, complete in time, and strict."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest

from .problems import ProblemError

DISCARDED = 16 << 20
"""Bytes that are read and thrown away of a body that is too large, before the connection ends."""


async def read_json(call: HttpRequest, most: int, depth: int, seconds: float) -> Any:
    """The JSON value of a body.

    Args:
        call: whose body was not read yet.
        most: bytes.
        depth: lists and objects inside one another.
        seconds: in which it must arrive.

    Raises:
        ProblemError: another type, too large, too slow, or no JSON.
    """
    check_type(call)
    raw = await read_body(call, most, seconds)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        found = "an empty body" if not raw else str(error).partition(": line")[0]
        raise ProblemError("bad-json", f"{found}, at byte {error.pos}; expected one JSON object in UTF-8") from None
    if raw.count(b"[") + raw.count(b"{") > depth and _depth(value, depth) > depth:
        raise ProblemError(
            "bad-json", f"found more than {depth} lists and objects inside one another; flatten the body"
        )
    return value


def check_type(call: HttpRequest) -> None:
    """Refuse a body that is no JSON by its headers.

    Raises:
        ProblemError: another type, or an encoding.
    """
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError("media", "the header Content-Type is not application/json; set it to that")
    if call.headers.get("content-encoding"):
        raise ProblemError("media", "the body has a Content-Encoding; send it as it is")


async def read_body(call: HttpRequest, most: int, seconds: float) -> bytes:
    """The bytes of a body; no more of them are kept than it may have.

    Raises:
        ProblemError: it is too large or too slow.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more and size <= most + DISCARDED:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ProblemError("slow", "the connection ended before the body did")
                part = message.get("body", b"")
                size += len(part)
                # What is too much is read all the same, for a while: who still sends does not hear an answer.
                parts = [] if size > most else [*parts, part]
                more = message.get("more_body", False)
    except TimeoutError:
        if size <= most:
            close = {"Connection": "close"}
            raise ProblemError("slow", f"the body did not arrive in {seconds:g} seconds", headers=close) from None
    if size > most:
        raise _too_large(f"more than {most:,}", most)
    return b"".join(parts)


def _too_large(found: str, most: int) -> ProblemError:
    sentence = f"found a body of {found} bytes, expected at most {most:,}; send less at once"
    return ProblemError("too-large", sentence, headers={"Connection": "close"})


def _depth(value: Any, most: int) -> int:
    """How many lists and objects stand inside one another, at most one more than `most`."""
    level, deep = [value], 0
    while deep <= most:
        level = (
            [
                inner
                for outer in level
                if isinstance(outer, dict | list)
                for inner in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(inner, dict | list)
            ]
            if deep
            else [value] * isinstance(value, dict | list)
        )
        if not level:
            return deep
        deep += 1
    return deep
