"""A route of the service: who may ask, how a body is read, and what a failure becomes."""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ..live.answers import Answered
from ..live.requests import parsed
from .keys import given_key
from .logs import log, where
from .problems import BUG, ProblemError, problem_of
from .reading import read_json
from .service import Service


class Call(HttpRequest):
    """A request as a route gets it."""

    @property
    def service(self) -> Service:
        """What answers."""
        found: Service = self.app.state.service
        return found

    @property
    def id(self) -> str:
        """Names this call in the log, in a header and in problems."""
        return str(self.scope["recsys.id"])


class StrictRoute(APIRoute):
    """A route whose body is read by `reading` and validated by `live.requests`; FastAPI documents its signature."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        endpoint, more = self.endpoint, self.openapi_extra or {}
        body = typing.get_type_hints(endpoint).get("body")
        scope, bulk = more.get("x-scope"), bool(more.get("x-bulk"))
        status = self.status_code or 200

        async def handle(call: HttpRequest) -> Response:
            call = Call(call.scope, call.receive)
            service = call.service
            try:
                if scope is not None:
                    admit(call, service, scope)
                given = dict(call.path_params)
                if body is not None:
                    limits = service.config.limits
                    most = limits.bulk_bytes if bulk else limits.body_bytes
                    value = await read_json(call, most, limits.depth, service.config.read_seconds)
                    given["body"] = parsed(body, value)
                found = await endpoint(call, **given)
            except Exception as error:  # a client meets a problem and never a traceback
                return failed(error, call.id)
            return found if isinstance(found, Response) else json_response(found, status)

        return handle


def admit(call: Call, service: Service, scope: Any) -> None:
    """Let a request pass that may do what it asks for.

    Raises:
        ProblemError: it may not.
    """
    if service.connections() > service.config.limits.connections:
        close = {"Retry-After": "1", "Connection": "close"}
        raise ProblemError("unavailable", "too many connections are open; ask again in a moment", headers=close)
    if service.keys is not None:
        call.scope["recsys.key"] = service.keys.admit(given_key(iter(call.scope["headers"])), scope)


def failed(error: Exception, request_id: str) -> Response:
    """The response to a request that failed; of a bug the log has the place."""
    problem = problem_of(error)
    if problem.slug == "bug":
        log.error("%s", BUG, extra={"fields": {"request": request_id, **where(error)}})
    return problem.response(request_id)


def json_response(found: Any, status: int = 200) -> Response:
    """JSON of an answer, or of plain values; nothing where nothing is to be said."""
    if found is None:
        return Response(status_code=204)
    content = found.to_json() if isinstance(found, Answered) else found
    return Response(orjson.dumps(content), status, media_type="application/json")
