"""Every path of the service, its scope, and what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from starlette.responses import JSONResponse, PlainTextResponse, Response
from typing_extensions import TypedDict

from ..base.package import package_version
from ..live.answers import Answer, ScoreAnswer, SimilarAnswer
from ..live.errors import Flaw, RequestError
from ..live.requests import Request, ScoreRequest, SimilarRequest, Text
from . import lookups
from .description import describe
from .keys import given_key
from .openapi import PROBLEMS, document
from .problems import Problem, ProblemError, explained
from .route import Call, json_response
from .service import Published
from .split import MAIN
from .telling import ROUTES, put_item

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Batch:
    """Many requests at once; each is answered as if it were alone."""

    requests: Annotated[list[Any], Field(min_length=1)] = field(default_factory=list)
    """At most 256 of `Request`."""


class BatchAnswer(TypedDict):
    """Answers in the order asked; a problem in the place of a request that has none."""

    answers: list[Answer | Problem]


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Reload:
    """Which version is to be served."""

    run: Text | None = None
    """Name of a folder beside that of the run; its own folder, as it is now, when absent."""

    name: Text = MAIN
    """Which of the served runs changes."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RollBack:
    """Which run goes back to the version before."""

    name: Text = MAIN
    """Of the served run."""


class Health(TypedDict):
    """Whether the process answers."""

    status: str


class Readiness(TypedDict):
    """Whether requests should be sent here, and why not."""

    ready: bool
    checks: dict[str, bool]


async def recommend(call: Call, body: Request) -> Answer:
    """Recommend items to somebody."""
    answer: Answer = await call.service.ask(call, body)
    call.service.counted(answer)
    return answer


async def recommend_batch(call: Call, body: Batch) -> BatchAnswer:
    """Recommend items to many."""
    most = call.service.config.limits.batch
    if len(body.requests) > most:
        raise RequestError([Flaw("/requests", f"found {len(body.requests)} requests, expected at most {most}")])
    if call.service.keys is not None and len(body.requests) > 1:
        call.service.keys.admit(given_key(iter(call.scope["headers"])), "read", len(body.requests) - 1)
    return BatchAnswer(answers=await call.service.ask_many(call, body.requests, call.id))  # type: ignore[typeddict-item]


async def similar(call: Call, body: SimilarRequest) -> SimilarAnswer:
    """Items like other items."""
    found: SimilarAnswer = await call.service.ask(call, body)
    return found


async def score(call: Call, body: ScoreRequest) -> ScoreAnswer:
    """Every task's value and the blended score of given items, in the order asked."""
    found: ScoreAnswer = await call.service.ask(call, body)
    return found


async def info(call: Call) -> dict[str, Any]:
    """Runs and versions, tasks, features and their kinds, columns of conditions, limits."""
    return await describe(call.service)


async def reload(call: Call, body: Reload) -> Published:
    """Serve another version: verified first, then by all workers at one moment."""
    _if_match(call, body.name)
    done: Published = await call.service.published(lambda publisher: publisher.publish(body.name, body.run))
    return done


async def rollback(call: Call, body: RollBack) -> Published:
    """Serve the version before; `--watch` leaves the rejected one alone from then on."""
    _if_match(call, body.name)
    done: Published = await call.service.published(lambda publisher: publisher.roll_back(body.name))
    return done


def _if_match(call: Call, name: str) -> None:
    """Refuse to change a version that is no longer the one the client knows."""
    known = call.headers.get("if-match", "*").strip('" ')
    now = dict(call.service.runs.versions).get(name)
    if now is None:
        raise ProblemError("not-found", "no run of this name is served; /v1/info lists those that are")
    if known not in ("*", now):
        raise ProblemError("changed", f"If-Match names another version than the one that is served, {now}")


async def healthz(call: Call) -> Health:
    """Whether the event loop answers."""
    return Health(status="ok")


async def readyz(call: Call) -> Response | Readiness:
    """Whether requests should be sent here."""
    checks = await call.service.checks()
    ready = all(checks.values())
    return json_response(Readiness(ready=ready, checks=checks), 200 if ready else 503)


async def metrics(call: Call) -> Response:
    """Counters of all workers, in the text format of Prometheus."""
    return Response(call.service.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(call: Call) -> dict[str, Any]:
    """This document."""
    return document(call.app)


async def problem(call: Call, slug: str) -> dict[str, Any]:
    """What a problem means and what to do about it."""
    return explained(slug)


async def index(call: Call) -> dict[str, Any]:
    """Where to go from here."""
    return {
        "service": "recsys",
        "version": package_version(),
        "runs": dict(call.service.runs.versions),
        "document": "/openapi.json",
        "recommend": "POST /v1/recommend",
    }


CREATED: Mapping[int, str] = {201: "The catalogue lacked it."}


def add_routes(app: FastAPI) -> None:
    """Every path; the scope that a key needs stands beside it."""

    def add(
        method: str,
        path: str,
        endpoint: Callable[..., Any],
        gives: Any,
        scope: str | None,
        problems: str = "",
        *,
        bulk: bool = False,
        query: Sequence[Mapping[str, Any]] = (),
        also: Mapping[int, str] | None = None,
    ) -> None:
        more: dict[str, Any] = ({"x-scope": scope} if scope else {}) | ({"x-bulk": True} if bulk else {})
        more |= {"parameters": list(query)} if query else {}
        slugs = [*(["no-key", "scope", "rate", "unavailable"] if scope else []), *problems.split()]
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=gives,
            openapi_extra=more,
            response_class=PlainTextResponse if path == "/metrics" else JSONResponse,
            status_code=204 if method == "DELETE" else None,
            responses={
                **{status: told for slug in slugs for status, told in PROBLEMS[slug].items()},
                **{status: {"model": gives, "description": told} for status, told in (also or {}).items()},
            },
            operation_id=endpoint.__name__,
        )

    body = "bad-json media too-large slow invalid"
    asking = f"{body} not-found late"
    add("POST", "/v1/recommend", recommend, Answer, "read", asking)
    add("POST", "/v1/recommend/batch", recommend_batch, BatchAnswer, "read", asking)
    add("POST", "/v1/similar", similar, SimilarAnswer, "read", asking)
    add("POST", "/v1/score", score, ScoreAnswer, "read", asking)
    for telling, path, endpoint, gives, scope, bulk, query in ROUTES:
        slugs = "not-found" + ("" if telling in ("GET", "DELETE") else f" {body}")
        add(
            telling,
            path,
            endpoint,
            gives,
            scope,
            slugs,
            bulk=bulk,
            query=query,
            also=CREATED if endpoint is put_item else None,
        )
    for path, look, gives, query in lookups.ROUTES:
        add("GET", path, look, gives, "admin", "invalid not-found late", query=query)
    add("GET", "/v1/info", info, dict[str, Any], "read")
    add("POST", "/v1/admin/reload", reload, Published, "admin", f"{body} not-found publishing changed")
    add("POST", "/v1/admin/rollback", rollback, Published, "admin", f"{body} not-found publishing changed")
    add("GET", "/healthz", healthz, Health, None)
    add("GET", "/readyz", readyz, Readiness, None, also={503: "A check fails; the body says which."})
    add("GET", "/metrics", metrics, None, "metrics")
    add("GET", "/openapi.json", openapi, dict[str, Any], None)
    add("GET", "/problems/{slug}", problem, dict[str, Any], None, "not-found")
    add("GET", "/", index, dict[str, Any], None)
