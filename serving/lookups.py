"""Paths on which those who run a service look up whom it knows and what somebody did; ids are personal data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..live.lookups import HistoryAnswer, HistoryRequest, UsersAnswer, UsersRequest
from ..live.requests import adapter, parsed
from .route import Call


async def list_users(call: Call) -> UsersAnswer:
    """Ids of users by their beginning, in order, with those of whom something was told since."""
    found: UsersAnswer = await call.service.ask(call, parsed(UsersRequest, _query(call)))
    return found


async def user_history(call: Call, id: str) -> HistoryAnswer:
    """What a user did, the newest first: what the run stores, and what was told since."""
    found: HistoryAnswer = await call.service.ask(call, parsed(HistoryRequest, {**_query(call), "user": id}))
    return found


def _query(call: Call) -> dict[str, Any]:
    """The query of a call; what counts is a number."""
    return {
        name: int(text) if name in ("limit", "timeout_ms") and text.isdecimal() and len(text) < 10 else text
        for name, text in call.query_params.items()
    }


def _parameters(kind: Any, but: tuple[str, ...] = ()) -> list[Mapping[str, Any]]:
    """The keys of a request as parameters of a query, for the document."""
    keys: dict[str, Any] = adapter(kind).json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": told.get("description", ""),
            "schema": {key: value for key, value in told.items() if key not in ("description", "title")},
        }
        for name, told in keys.items()
        if name not in but
    ]


ROUTES: tuple[tuple[str, Callable[..., Any], Any, list[Mapping[str, Any]]], ...] = (
    ("/v1/users", list_users, UsersAnswer, _parameters(UsersRequest)),
    ("/v1/users/{id}/history", user_history, HistoryAnswer, _parameters(HistoryRequest, ("user",))),
)
"""Path, endpoint, what it gives, and the keys of its query."""
