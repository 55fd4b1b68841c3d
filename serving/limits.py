"""Whether a request stays within what one may ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..live.errors import Flaw, RequestError
from ..live.lookups import HistoryRequest, UsersRequest
from ..live.requests import Asked, AskedOf, Request, ScoreRequest, SimilarRequest
from .config import Limits

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`")
_JOINED = re.compile(r"\b(?:and|or)\b", re.IGNORECASE)


def check(request: Asked, limits: Limits) -> None:
    """Refuse a request that asks for too much.

    Raises:
        RequestError: every place at fault.
    """
    flaws = [*_flaws(request, limits)]
    if flaws:
        raise RequestError(flaws)


def check_id(text: str, pointer: str, limits: Limits) -> Iterator[Flaw]:
    """What is wrong with an id: too many bytes, or a control character."""
    if len(text) > limits.id_bytes or len(text.encode()) > limits.id_bytes:
        yield Flaw(pointer, f"found an id of {len(text.encode())} bytes, expected at most {limits.id_bytes}")
    if _CONTROL.search(text):
        yield Flaw(pointer, "found an id with a control character, expected plain text")


def _flaws(request: Asked, limits: Limits) -> Iterator[Flaw]:
    if request.request_id is not None:
        size = len(request.request_id)
        if size > limits.request_id or _CONTROL.search(request.request_id):
            yield Flaw("/request_id", f"found {size} characters, expected at most {limits.request_id}, all printable")
    if request.timeout_ms is not None:
        yield from _most("/timeout_ms", request.timeout_ms, limits.timeout_ms)
    if isinstance(request, AskedOf):
        yield from _count("/history", request.history, limits.history)
        for place, event in enumerate(request.history):
            text = event if isinstance(event, str) else event.get("item", "")
            yield from check_id(str(text), f"/history/{place}", limits)
    if isinstance(request, AskedOf | SimilarRequest) and request.user is not None:
        yield from check_id(request.user, "/user", limits)
    if isinstance(request, UsersRequest | HistoryRequest):
        yield from _most("/limit", request.limit, limits.lookup)
    if isinstance(request, UsersRequest):
        yield from check_id(request.prefix, "/prefix", limits)
        yield from check_id(request.after, "/after", limits)
    if isinstance(request, HistoryRequest):
        yield from check_id(request.user, "/user", limits)
    if isinstance(request, Request | SimilarRequest):
        yield from _most("/k", request.k, limits.k)
        yield from _listed("/exclude", request.exclude, limits)
        yield from _condition(request.where, limits)
    if isinstance(request, Request) and request.allow is not None:
        yield from _listed("/allow", request.allow, limits)
    if isinstance(request, SimilarRequest | ScoreRequest):
        yield from _count(
            "/items", request.items, limits.seeds if isinstance(request, SimilarRequest) else limits.scored
        )
        yield from _ids("/items", request.items, limits)


def _most(pointer: str, found: int, most: int) -> Iterator[Flaw]:
    if found > most:
        yield Flaw(pointer, f"found {found}, expected at most {most}")


def _count(pointer: str, found: tuple[Any, ...], most: int) -> Iterator[Flaw]:
    if len(found) > most:
        yield Flaw(pointer, f"found {len(found)} entries, expected at most {most}")


def _listed(pointer: str, ids: tuple[str, ...], limits: Limits) -> Iterator[Flaw]:
    yield from _count(pointer, ids, limits.listed)
    yield from _ids(pointer, ids, limits)


def _ids(pointer: str, ids: Iterable[str], limits: Limits) -> Iterator[Flaw]:
    for place, text in enumerate(ids):
        yield from check_id(text, f"{pointer}/{place}", limits)


def _condition(where: str, limits: Limits) -> Iterator[Flaw]:
    size = len(where.encode())
    if size > limits.condition_bytes:
        yield Flaw("/where", f"found a condition of {size} bytes, expected at most {limits.condition_bytes}")
    elif where:
        tests = len(_JOINED.findall(_QUOTED.sub("", where))) + 1
        if tests > limits.condition_tests:
            yield Flaw("/where", f"found {tests} tests, expected at most {limits.condition_tests}")
