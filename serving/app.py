"""The ASGI application: routes with their scopes, strict reading, problems for every failure, one line of log each."""

from __future__ import annotations

import time
import typing
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..base.package import package_version
from ..live.answers import Answered
from ..live.requests import parsed
from .keys import given_key
from .logs import log, where
from .metrics import OTHER
from .problems import BUG, ProblemError, problem_of
from .reading import read_json
from .service import Service

DESCRIPTION = """Recommendations of a trained run. Errors are problem+json (RFC 9457). Numbers as ids are taken as their
decimal text. `/v1` only grows: new keys may appear in answers."""


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


class Front:
    """What every response has in common: an id, a place in the log and in the metrics.

    Args:
        app: what answers.
        service: counts and logs.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["recsys.id"] = uuid.uuid4().hex
        started = time.perf_counter()
        status, size = 0, 0

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(b"x-request-id", scope["recsys.id"].encode()), *HEADERS]
                if self.service.draining:
                    message["headers"].append((b"connection", b"close"))
            else:
                size += len(message.get("body", b""))
            await send(message)

        await self.app(scope, receive, sending)
        self._noted(scope, status, size, time.perf_counter() - started)

    def _noted(self, scope: Mapping[str, Any], status: int, size: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", OTHER)
        self.service.metrics.count("requests_total", path, str(status))
        self.service.metrics.observe("request_seconds", seconds, path)
        wanted = self.service.config.log_requests
        if wanted == "all" or (wanted == "failures" and status >= 400):
            told = {
                "request": scope["recsys.id"],
                "method": scope["method"] if len(scope["method"]) < 8 else "other",
                "path": path,
                "status": status,
                "bytes": size,
                "ms": round(1000 * seconds, 3),
            }
            log.info(
                "request", extra={"fields": told | ({"key": scope["recsys.key"]} if "recsys.key" in scope else {})}
            )


HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def create_app(service: Service) -> ASGIApp:
    """The whole application."""
    from .routes import add_routes

    app = FastAPI(
        title="recsys",
        version=package_version(),
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _http_problem},
    )
    app.state.service = service
    app.router.route_class = StrictRoute
    add_routes(app)
    front: ASGIApp = Front(app, service)
    if service.config.origins:
        front = CORSMiddleware(
            front,
            allow_origins=service.config.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "if-match"],
        )
    return front


async def _http_problem(call: HttpRequest, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        problem = ProblemError("method", "the path does not take this method; `Allow` lists those it does")
    else:
        problem = ProblemError("not-found", "there is no such path; /openapi.json lists those that there are")
    problem.headers.update(error.headers or {})
    return problem.response(str(call.scope["recsys.id"]))
