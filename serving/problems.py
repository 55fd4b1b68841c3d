"""Errors over HTTP: problem+json (RFC 9457), one sentence each, never a traceback and never an id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict

from ..base.errors import RecsysError
from ..live.errors import Flaw, LateError, NotFoundError, RequestError, UnavailableError

MEDIA_TYPE = "application/problem+json"


class PlacedError(TypedDict):
    """One mistake: a JSON pointer into the request, and a sentence."""

    pointer: str
    detail: str


class Problem(TypedDict):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[PlacedError]]
    request_id: str


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        status: HTTP's.
        title: short, the same for every problem of the kind.
        mend: what to do about it, for the page `/problems/<slug>`.
    """

    status: int
    title: str
    mend: str


KINDS = {
    "bad-http": Kind(400, "The request is no HTTP", "Send HTTP/1.1 as RFC 9112 has it."),
    "bad-json": Kind(
        400, "The body is no JSON", "Send one JSON object in UTF-8: no NaN, no lone surrogates, at most 32 levels deep."
    ),
    "no-key": Kind(
        401,
        "No valid key",
        "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`; `recsys serve-key NAME` makes a key.",
    ),
    "scope": Kind(403, "The key may not do this", "Use a key with the scope that the detail names."),
    "not-found": Kind(
        404, "There is no such thing", "Ask for a path, item, user or run that exists; see /openapi.json."
    ),
    "method": Kind(405, "The path does not take this method", "The header `Allow` lists the methods it takes."),
    "slow": Kind(408, "The body did not arrive in time", "Send the whole body at once."),
    "publishing": Kind(409, "Another version is being published", "Ask again when it is done; see /v1/info."),
    "changed": Kind(412, "Another version is served", "Look at /v1/info and decide again."),
    "too-large": Kind(413, "The request is too large", "Send less at once; /v1/info lists the limits."),
    "media": Kind(
        415, "The body is of another type", "Send `Content-Type: application/json`, without Content-Encoding."
    ),
    "invalid": Kind(
        422, "The request is not what it should be", "`errors` names each place; /openapi.json describes every key."
    ),
    "refused": Kind(422, "The version is not fit to be served", "The detail says why; the old version goes on."),
    "rate": Kind(429, "Too many requests", "Wait as long as the header `Retry-After` says."),
    "headers": Kind(431, "The headers are too large", "Send fewer or shorter headers; /v1/info lists the limits."),
    "bug": Kind(500, "The service has a bug", "Look for the request id in the log of the service, and report it."),
    "unavailable": Kind(503, "Nobody can answer now", "Ask again after as many seconds as `Retry-After` says."),
    "late": Kind(504, "The deadline passed", "Ask for less, give more time with `timeout_ms`, or add workers."),
}
"""Slug -> kind; `/problems/<slug>` explains each."""


class ProblemError(Exception):
    """A problem to be answered.

    Args:
        slug: of `KINDS`.
        detail: one sentence.
        flaws: each mistake with its place.
        headers: of the response.
    """

    def __init__(
        self, slug: str, detail: str, flaws: Sequence[Flaw] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.slug, self.detail, self.flaws = slug, detail, tuple(flaws)
        self.headers = dict(headers or {})

    def to_json(self, request_id: str) -> Problem:
        """The body of the response."""
        kind = KINDS[self.slug]
        problem = Problem(
            type=f"/problems/{self.slug}",
            title=kind.title,
            status=kind.status,
            detail=self.detail,
            request_id=request_id,
        )
        if self.flaws:
            problem["errors"] = [PlacedError(pointer=flaw.pointer, detail=flaw.detail) for flaw in self.flaws]
        return problem

    def response(self, request_id: str) -> Response:
        """The whole response."""
        status = KINDS[self.slug].status
        return Response(orjson.dumps(self.to_json(request_id)), status, self.headers, MEDIA_TYPE)


BUG = "the service met a failure of its own; its log has the place, under this request id"


def problem_of(error: BaseException) -> ProblemError:
    """An error of the layers below as a problem; what nobody foresaw is a bug, and says nothing of itself."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestError):
        slug = "not-found" if isinstance(error, NotFoundError) else "invalid"
        return ProblemError(slug, str(error) or KINDS[slug].title, error.flaws)
    if isinstance(error, UnavailableError):
        return ProblemError("unavailable", str(error), headers={"Retry-After": "1"})
    if isinstance(error, LateError):
        return ProblemError("late", str(error))
    if isinstance(error, RecsysError) and error.exit_code == 2:
        return ProblemError("invalid", str(error))
    return ProblemError("bug", BUG)


def explained(slug: str) -> dict[str, Any]:
    """What `/problems/<slug>` says.

    Raises:
        ProblemError: there is no such kind.
    """
    if slug not in KINDS:
        raise ProblemError("not-found", f"there is no such problem; there are: {', '.join(KINDS)}")
    kind = KINDS[slug]
    return {"type": f"/problems/{slug}", "title": kind.title, "status": kind.status, "mend": kind.mend}
