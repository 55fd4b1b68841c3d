"""Requests drawn from the document itself: every answer is one that the document has, and none is a failure of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi

from recsys.recommender import Recommender
from recsys.serving.app import create_api
from recsys.serving.openapi import document
from recsys.tests.support.served import serving, telling

SCHEMA = schemathesis.openapi.from_dict(document(create_api()))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
NAMES = [f"{one.method.upper()} {one.path}" for one in OPERATIONS]


@pytest.fixture(scope="module")
def told(shop: Recommender) -> Iterator[httpx.Client]:
    with serving(telling(shop)) as client:
        yield client


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_no_drawn_request_fails_the_service(told: httpx.Client, operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=12,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=str(told.base_url))
        if case.path.startswith("/v1/admin"):
            assert response.status_code in (404, 422, 503)  # nobody publishes here
        else:
            case.validate_response(
                response,
                checks=[
                    checks.not_a_server_error,
                    openapi.status_code_conformance,
                    openapi.content_type_conformance,
                    openapi.response_schema_conformance,
                ],
            )

    one()
