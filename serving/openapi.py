"""The OpenAPI document: FastAPI's, of the signatures of the routes, with what only we know put in."""

from __future__ import annotations

import typing
from typing import Any

from fastapi import FastAPI
from pydantic.fields import FieldInfo

from ..live.requests import Request, ScoreRequest, SimilarRequest
from .problems import KINDS, MEDIA_TYPE, Problem

PROBLEMS: dict[str, dict[int | str, dict[str, Any]]] = {
    slug: {
        kind.status: {
            "description": f"{kind.title}. {kind.mend}",
            "model": Problem,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    for slug, kind in KINDS.items()
}
"""Slug -> the response of a route that may meet the problem."""


def document(app: FastAPI) -> dict[str, Any]:
    """The document, as plain values."""
    found: dict[str, Any] = app.openapi()
    schemas = found["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Batch"]["properties"]["requests"] |= {
        "items": {"$ref": "#/components/schemas/Request"},
        "maxItems": 256,
    }
    for kind in (Request, SimilarRequest, ScoreRequest):
        told: dict[str, FieldInfo] = vars(kind)["__pydantic_fields__"]
        for name, field in told.items():
            schemas[kind.__name__]["properties"][name]["description"] = " ".join((field.description or "").split())
    found["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for operations in found["paths"].values():
        for operation in typing.cast(dict[str, Any], operations).values():
            responses = operation["responses"]
            for status, response in responses.items():
                if status.startswith(("4", "5")) and "/Problem" in str(response.get("content", "/Problem")):
                    response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            if "422" in responses and "Validation" in str(responses["422"].get("description")):
                del responses["422"]
            if "x-scope" in operation:
                operation["security"] = [{"bearer": []}, {"header": []}]
    return found
