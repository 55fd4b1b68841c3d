"""Paths by which a service is told what happens: events, items, users. Each is answered when it is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from starlette.responses import Response
from typing_extensions import TypedDict

from ..base.errors import ConfigError, DataError
from ..live.answers import ItemAnswer
from ..live.errors import Flaw, NotFoundError, RequestError
from ..live.requests import ItemRequest, Receipt, Value
from ..live.teller import Teller
from .problems import PlacedError, ProblemError
from .route import Call, json_response

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_ROW = re.compile(r"\brow (\d+)\b")
SKIP, REFUSE = "skip", "refuse"


class Kept(TypedDict):
    """What became of what was told; every later answer of every worker knows it."""

    accepted: int
    duplicates: int
    position: int
    refused: list[PlacedError]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Events:
    """What happened."""

    events: Annotated[list[Any], Field(min_length=1)] = field(default_factory=list)
    """At most 1,000 of `Event`: `user`, `item`, and where known `time`, `labels` and columns of the events table."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Items:
    """Whole rows of the items table."""

    items: Annotated[list[dict[str, Value]], Field(min_length=1)] = field(default_factory=list)
    """At most 1,000, each with its id under `item`."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Columns:
    """A row of a table, by its columns."""

    columns: dict[str, Value] = field(default_factory=dict)
    """Column -> value; they may also stand in the body itself."""

    @model_validator(mode="before")
    @classmethod
    def _keys_are_columns(cls, given: Any) -> Any:
        values = given if isinstance(given, dict) else getattr(given, "kwargs", None)
        if not isinstance(values, dict) or set(values) == {"columns"}:
            return given
        return {"columns": values}


async def events(call: Call, body: Events) -> Kept:
    """Tell what happened; 200 when it is kept. `?on_invalid=skip` keeps the good ones and lists the others."""
    wanted = call.query_params.get("on_invalid", REFUSE)
    if wanted not in (SKIP, REFUSE):
        raise RequestError([Flaw("", f"on_invalid is none; expected {SKIP} or {REFUSE}")])
    _few(call, len(body.events), "/events")
    return await _kept(call, "/events", lambda teller: teller.events(body.events, skip=wanted == SKIP))


async def put_item(call: Call, id: str, body: Columns) -> Response:
    """The whole row of an item, in the next answer: 201 where the catalogue lacks it, 200 otherwise.

    `available: false` hides it; where nothing else is said, what is known of it stays.
    """
    try:
        await call.service.ask(call, ItemRequest(item=id))
        known = True
    except NotFoundError:
        known = False
    told = await _kept(call, "", lambda teller: teller.items([{**body.columns, "item": id}]))
    return json_response(told, 200 if known else 201)


async def put_items(call: Call, body: Items) -> Kept:
    """Whole rows of many items."""
    _few(call, len(body.items), "/items")
    return await _kept(call, "/items", lambda teller: teller.items(body.items))


async def get_item(call: Call, id: str) -> ItemAnswer:
    """What the run knows of an item of its catalogue."""
    found: ItemAnswer = await call.service.ask(call, ItemRequest(item=id))
    return found


async def delete_item(call: Call, id: str) -> Response:
    """Name an item in no list from now on; 204, also the second time."""
    await _kept(call, "", lambda teller: teller.deleted([id]))
    return Response(status_code=204)


async def put_user(call: Call, id: str, body: Columns) -> Kept:
    """The features of a user: columns of the users table, which override what is stored."""
    return await _kept(call, "", lambda teller: teller.user(id, body.columns))


async def delete_user(call: Call, id: str) -> Response:
    """Forget a user: answered as somebody unknown at once, and erased from the log; 204, also the second time."""
    await _kept(call, "", lambda teller: teller.forgotten(id))
    return Response(status_code=204)


async def _kept(call: Call, under: str, tell: Callable[[Teller], Receipt]) -> Kept:
    """Tell it on a thread that may wait for the disk.

    Raises:
        ProblemError: the service keeps nothing.
        RequestError: what is told is not what it should be.
    """
    teller = call.service.teller
    if teller is None:
        raise ProblemError("not-found", "this service keeps nothing it is told; start it with --state DIR")
    try:
        told = await asyncio.to_thread(tell, teller)
    except RequestError as error:
        raise RequestError([Flaw(under + flaw.pointer, flaw.detail) for flaw in error.flaws]) from error
    except (ConfigError, DataError) as error:
        row = _ROW.search(str(error))
        raise RequestError([Flaw(f"{under}/{int(row[1]) - 1}" if row and under else under, str(error))]) from error
    call.service.kept(told)
    refused = [PlacedError(pointer=f"{under}/{place}", detail=detail) for place, detail in told.refused]
    return Kept(accepted=told.accepted, duplicates=told.duplicates, position=told.position, refused=refused)


def _few(call: Call, found: int, where: str) -> None:
    most = call.service.config.limits.bulk
    if found > most:
        raise RequestError([Flaw(where, f"found {found}, expected at most {most}; send them in several calls")])


ON_INVALID: Mapping[str, Any] = {
    "name": "on_invalid",
    "in": "query",
    "required": False,
    "description": "What an invalid row does: `refuse` keeps nothing, `skip` keeps the others and lists it.",
    "schema": {"type": "string", "enum": [REFUSE, SKIP], "default": REFUSE},
}

ROUTES: tuple[tuple[str, str, Callable[..., Any], Any, str, bool, Sequence[Mapping[str, Any]]], ...] = (
    ("POST", "/v1/events", events, Kept, "write", True, (ON_INVALID,)),
    ("POST", "/v1/items", put_items, Kept, "write", True, ()),
    ("PUT", "/v1/items/{id}", put_item, Kept, "write", False, ()),
    ("GET", "/v1/items/{id}", get_item, ItemAnswer, "read", False, ()),
    ("DELETE", "/v1/items/{id}", delete_item, None, "write", False, ()),
    ("PUT", "/v1/users/{id}", put_user, Kept, "write", False, ()),
    ("DELETE", "/v1/users/{id}", delete_user, None, "write", False, ()),
)
"""Method, path, endpoint, what it gives, scope, whether a body may be as large as one of many rows, and the keys of its
query."""
