"""The page of a service: one HTML, one script, one style sheet, no cookie, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from ..route import Call

FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file of this folder, and its type."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`; added before the other routes, it takes the place of what stands there."""
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _serving(name, kind), methods=["GET"], include_in_schema=False, response_model=None)


def _serving(name: str, kind: str) -> Callable[[Call], Coroutine[Any, Any, Response]]:
    content = files(__name__).joinpath(name).read_bytes()

    async def part(call: Call) -> Response:
        """A file of the page."""
        return Response(content, media_type=kind, headers=HEADERS)

    return part
