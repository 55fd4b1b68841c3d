"""The paths of the service, as metrics and logs name them; `routes` says what each does."""

from __future__ import annotations

PATHS = (
    "/v1/recommend",
    "/v1/recommend/batch",
    "/v1/similar",
    "/v1/score",
    "/v1/events",
    "/v1/items",
    "/v1/items/{id}",
    "/v1/users",
    "/v1/users/{id}",
    "/v1/users/{id}/history",
    "/v1/info",
    "/v1/admin/reload",
    "/v1/admin/rollback",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/problems/{slug}",
    "/",
)
