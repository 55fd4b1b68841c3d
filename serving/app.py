"""The ASGI application: all routes behind what every response has in common, one line of log each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import log
from .metrics import OTHER
from .page import add_page
from .problems import ProblemError
from .route import StrictRoute
from .routes import add_routes
from .service import Service

DESCRIPTION = """Recommendations of a trained run. Errors are problem+json (RFC 9457). Numbers as ids are taken as their
decimal text. `/v1` only grows: new keys may appear in answers."""


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
                if not message.get("more_body", False):  # before it leaves: who has an answer finds it in the metrics
                    self._noted(scope, status, size, time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, sending)

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


def create_api(*, page: bool = False) -> FastAPI:
    """The routes, and the document of them; they answer once `state.service` is set.

    Args:
        page: show people a page at `/`, where programs otherwise read what is served.
    """
    app = FastAPI(
        title="recsys",
        version="1",
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _http_problem},
    )
    app.router.route_class = StrictRoute
    if page:
        add_page(app)  # the first route of a path answers
    add_routes(app)
    return app


def create_app(service: Service) -> ASGIApp:
    """The whole application."""
    app = create_api(page=service.config.page)
    app.state.service = service
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
