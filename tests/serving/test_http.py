"""HTTP says what Python says, refuses what is no request by a problem with its place, and survives both."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from recsys.live.requests import ScoreRequest, SimilarRequest
from recsys.recommender import Recommender
from recsys.serving.app import create_app
from recsys.serving.problems import KINDS, MEDIA_TYPE
from recsys.serving.service import Service
from recsys.tests.support.nonempty import nonempty

JSON = {"content-type": "application/json"}


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    same = {name: one for name, one in answer.items() if name not in ("timings_ms", "request_id", "cursor")}
    if "items" in same:
        same["items"] = [{name: one for name, one in item.items() if name != "token"} for item in same["items"]]
    return same


def problem(response: httpx.Response, slug: str) -> dict[str, Any]:
    """The problem that a response is, which must be of this kind."""
    assert response.headers["content-type"] == MEDIA_TYPE
    found: dict[str, Any] = response.json()
    assert found["type"] == f"/problems/{slug}"
    assert response.status_code == found["status"] == KINDS[slug].status
    assert found["request_id"] == response.headers["x-request-id"]
    return found


@pytest.mark.parametrize(
    "asked",
    [
        {"user": "3", "k": 5},
        {"user": 3, "k": 5, "explain": True},
        {"user": "nobody", "where": "price > 3"},
        {"history": ["5", {"item": "9", "labels": {"click": 1}}], "exclude": ["1"], "run": "main"},
    ],
)
def test_http_answers_are_those_of_python(client: httpx.Client, shop: Recommender, asked: dict[str, Any]) -> None:
    response = client.post("/v1/recommend", json=asked)
    assert response.status_code == 200
    asked.pop("run", None)
    expected = bare(shop.ask(asked).to_json())
    assert json.dumps(bare(response.json())) == json.dumps(expected)


def test_similar_and_score_are_those_of_python(client: httpx.Client, shop: Recommender) -> None:
    similar = client.post("/v1/similar", json={"items": ["5", "gone"], "k": 4}).json()
    assert bare(similar) == bare(shop.ask(SimilarRequest(items=("5", "gone"), k=4)).to_json())
    score = client.post("/v1/score", json={"user": "3", "items": ["5", "gone"]}).json()
    assert bare(score) == bare(shop.ask(ScoreRequest(user="3", items=("5", "gone"))).to_json())


def test_a_batch_answers_in_order_with_a_problem_in_the_place_of_a_failure(client: httpx.Client) -> None:
    asked = [{"user": "3", "k": 5}, {"k": 0}, {"where": "price >"}, {"user": "4", "run": "no"}, {"user": "4", "k": 2}]
    answers = client.post("/v1/recommend/batch", json={"requests": asked}).json()["answers"]
    assert [len(answer.get("items", [])) for answer in answers] == [5, 0, 0, 0, 2]
    assert [answer.get("status") for answer in answers] == [None, 422, 422, 404, None]
    assert [answer["errors"][0]["pointer"] for answer in answers[1:4]] == ["/k", "/where", "/run"]


@pytest.mark.parametrize(
    ("body", "headers", "slug"),
    [
        (b'{"user": "3"', JSON, "bad-json"),
        (b"", JSON, "bad-json"),
        (b'{"features": {"age": NaN}}', JSON, "bad-json"),
        (b'{"user": "\\ud800"}', JSON, "bad-json"),
        (b'{"user": "\xff"}', JSON, "bad-json"),
        (b'{"user": ' + b"[" * 40 + b"]" * 40 + b"}", JSON, "bad-json"),
        (b'{"user": ' + b"[" * 3000 + b"]" * 3000 + b"}", JSON, "bad-json"),
        (b"{}", {"content-type": "text/plain"}, "media"),
        (b"{}", {}, "media"),
        (b"{}", {**JSON, "content-encoding": "gzip"}, "media"),
        (b'{"user": "' + b"x" * (1 << 20) + b'"}', JSON, "too-large"),
        (b"[]", JSON, "invalid"),
        (b"null", JSON, "invalid"),
        (b'{"usr": "3"}', JSON, "invalid"),
        (b'{"k": 1001}', JSON, "invalid"),
        (b'{"k": 81}', JSON, "invalid"),
        (b'{"user": "' + b"x" * 257 + b'"}', JSON, "invalid"),
        (b'{"user": "a\\u0000b"}', JSON, "invalid"),
        (b'{"request_id": "' + b"x" * 65 + b'"}', JSON, "invalid"),
        (b'{"timeout_ms": 5001}', JSON, "invalid"),
        (json.dumps({"where": " or ".join(["price > 3"] * 21)}).encode(), JSON, "invalid"),
        (json.dumps({"where": f'price > 3 or title = "{"x" * 4096}"'}).encode(), JSON, "invalid"),
        (json.dumps({"history": ["1"] * 1001}).encode(), JSON, "invalid"),
        (json.dumps({"exclude": ["1"] * 10_001}).encode(), JSON, "invalid"),
        (b'{"cursor": "abc"}', JSON, "invalid"),
    ],
)
def test_what_is_no_request_is_a_problem(client: httpx.Client, body: bytes, headers: dict[str, str], slug: str) -> None:
    response = client.post("/v1/recommend", content=body, headers=headers)
    problem(response, slug)
    assert client.post("/v1/recommend", json={"user": "3"}).status_code == 200


def raw(client: httpx.Client, sent: bytes, wait: float = 5.0) -> bytes:
    """What comes back for raw bytes until the server ends the connection."""
    assert client.base_url.port is not None
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=wait) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def test_a_body_without_a_length_is_bounded(client: httpx.Client) -> None:
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    found = raw(client, head + b"20000\r\n" + b" " * 0x20000 + b"\r\n100000\r\n" + b" " * 0xF0000)
    assert found.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in found


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\x01\x02 nonsense\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 40_000, b"431"),
        (b"GET /" + b"y" * 40_000, b"431"),
        (
            b"POST /v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
            b"408",
        ),
        (b"GET /healthz HT", b""),
    ],
)
def test_bytes_that_are_no_request_end_the_connection_alone(client: httpx.Client, sent: bytes, status: bytes) -> None:
    found = raw(client, sent)
    assert found[9:12] == status
    if status:
        assert b"application/problem+json" in found
    assert client.get("/healthz").json() == {"status": "ok"}


def test_paths_methods_and_problems_explain_themselves(client: httpx.Client) -> None:
    problem(client.get("/v1/nothing"), "not-found")
    response = client.get("/v1/recommend")
    problem(response, "method")
    assert response.headers["allow"] == "POST"
    for slug in nonempty(KINDS):
        assert client.get(f"/problems/{slug}").json()["status"] == KINDS[slug].status
    problem(client.get("/problems/none"), "not-found")
    assert client.get("/").json()["document"] == "/openapi.json"
    problem(client.post("/v1/admin/reload", json={}), "unavailable")
    problem(client.post("/v1/admin/reload", json={}, headers={"if-match": '"000000000000"'}), "changed")


def test_an_unknown_seed_is_not_found_without_being_quoted(client: httpx.Client) -> None:
    response = client.post("/v1/similar", json={"items": ["planted-4711"]})
    assert problem(response, "not-found")["errors"][0]["pointer"] == "/items/0"
    assert "planted" not in response.text


def test_info_tells_what_may_be_asked(client: httpx.Client, shop: Recommender) -> None:
    info = client.get("/v1/info").json()
    assert info["runs"].keys() == {"main", "other"}
    main = info["runs"]["main"]
    assert [task["name"] for task in main["tasks"]] == list(shop.trained.dataset.task_names)
    assert set(main["where"]) == set(shop.trained.dataset.item_columns)
    assert info["limits"]["k"] == 1000


def test_named_runs_answer_by_name(client: httpx.Client) -> None:
    assert client.post("/v1/recommend", json={"user": "3", "run": "other"}).json()["run"]["name"] == "other"
    assert client.post("/v1/recommend", json={"user": "3"}).json()["run"]["name"] == "main"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("user", "k", "history", "features", "context", "where", "allow", "exclude", "explain", "cursor", "run", "rules")


@settings(max_examples=60, deadline=None)
@given(asked=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_json_is_answered_or_refused(client: httpx.Client, asked: dict[str, Any]) -> None:
    response = client.post("/v1/recommend", content=json.dumps(asked).encode("utf-8", "replace"), headers=JSON)
    assert response.status_code in (200, 400, 404, 422), response.text


def test_who_has_an_answer_finds_it_in_the_metrics(service: Service) -> None:
    def answered() -> float:
        return service.metrics.value("requests_total", "/healthz", "200")

    counted: list[float] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            counted.append(answered())

    before = answered()
    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [], "query_string": b""}
    asyncio.run(create_app(service)(scope, receive, send))
    assert counted == [before + 1] == [answered()]


def test_a_request_whose_client_is_gone_leaves_the_queue(client: httpx.Client, service: Service) -> None:
    class Slow:
        def __init__(self) -> None:
            self.asked = 0

        def catch_up(self) -> None:
            time.sleep(0.4)

        def __getattr__(self, name: str) -> Any:
            return getattr(service_runs, name)

        def answer(self, requests: Any) -> Any:
            self.asked += len(requests)
            return service_runs.answer(requests)

    service_runs, slow = service.runs, Slow()
    service.engine.replace(slow)  # type: ignore[arg-type]
    try:
        assert client.base_url.port is not None
        body = b'{"user": "3"}'
        head = (
            f"POST /v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        first, second = (socket.create_connection(("127.0.0.1", client.base_url.port), timeout=5) for _ in range(2))
        with first:
            first.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(0.1)
            with second:
                second.sendall(head.encode() + b"\r\n\r\n" + body)
                time.sleep(0.1)
            assert first.recv(65536).startswith(b"HTTP/1.1 200")
        late = client.post("/v1/recommend", json={"user": "3", "timeout_ms": 60})
        problem(late, "late")
    finally:
        service.engine.replace(service_runs)
    assert client.post("/v1/recommend", json={"user": "3"}).status_code == 200
    assert slow.asked <= 2
    assert service.metrics.value("abandoned_total") == 1
