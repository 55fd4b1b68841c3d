"""What a service is told over HTTP is kept when it is answered, and is in the next answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import recsys
from recsys.live.answering import Answering
from recsys.live.log import LogUnavailableError, SqliteLog
from recsys.live.overlay import overlay_of
from recsys.live.teller import Teller
from recsys.serving.config import ServeConfig
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.runs import Runs
from recsys.serving.service import Service
from recsys.tests.support.served import serving
from recsys.tests.support.tiny import TinyRun


@pytest.fixture
def told(tiny_run: TinyRun, tmp_path: Path) -> Iterator[httpx.Client]:
    """The tiny run as a service with a state."""
    shop = recsys.load(tiny_run.folder)
    log = SqliteLog(tmp_path / "state", "process")
    overlay = overlay_of(shop.funnel, log)
    runs = Runs({"main": Answering(overlay.funnel, "main", "v", overlay=overlay)})
    service = Service(runs, ServeConfig(), Metrics(series_of(("/v1/events",), ["main"])))
    service.teller = Teller(log, shop.trained.dataset)
    with serving(service) as client:
        yield client
    log.close()


def test_an_event_is_in_the_next_answer(told: httpx.Client) -> None:
    before = told.post("/v1/recommend", json={"user": "newcomer", "k": 5}).json()
    event = {"id": "e1", "user": "newcomer", "item": before["items"][0]["item"], "labels": {"click": 1}}
    response = told.post("/v1/events", json={"events": [event, event]})
    assert response.status_code == 200
    assert response.json() == {"accepted": 1, "duplicates": 1, "position": 1, "refused": []}
    after = told.post("/v1/recommend", json={"user": "newcomer", "k": 5}).json()
    assert (before["rung"], after["rung"], after["position"]) == ("popular", "history", 1)
    assert event["item"] not in [item["item"] for item in after["items"]]
    assert 'recsys_events_total{result="accepted"} 1' in told.get("/metrics").text


def test_a_mistake_has_its_place_and_nothing_is_kept_unless_it_is_asked_for(told: httpx.Client) -> None:
    good = {"user": "1", "item": "5", "labels": {"click": 1}}
    batch = {
        "events": [good, {**good, "labels": {"click": 7}}, {"user": "1"}, {**good, "wether": 1}, {**good, "id": 1}]
    }
    for events, pointer in ((batch["events"][:2], "/events/1"), ([good, {"user": "1"}], "/events/1/item")):
        response = told.post("/v1/events", json={"events": events})
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert told.post("/v1/recommend", json={"user": "1"}).json()["position"] == 0
    kept = told.post("/v1/events?on_invalid=skip", json=batch).json()
    assert (kept["accepted"], kept["position"]) == (2, 2)
    assert [error["pointer"] for error in kept["refused"]] == ["/events/1", "/events/2", "/events/3"]
    assert told.post("/v1/events?on_invalid=maybe", json=batch).status_code == 422
    assert told.post("/v1/events", json={"events": [good] * 1001}).status_code == 422


def test_items_go_and_come_back(told: httpx.Client) -> None:
    item = told.post("/v1/recommend", json={"user": "1", "k": 1}).json()["items"][0]["item"]
    known = told.get(f"/v1/items/{item}").json()
    assert known["available"]
    assert known["columns"]
    for _ in (1, 2):
        assert told.delete(f"/v1/items/{item}").status_code == 204
    lists = told.post("/v1/recommend", json={"user": "1", "k": 50}).json()["items"]
    assert item not in [one["item"] for one in lists]
    assert not told.get(f"/v1/items/{item}").json()["available"]
    assert told.put(f"/v1/items/{item}", json={}).status_code == 200
    assert told.put("/v1/items/brand-new", json={"columns": {}}).status_code == 201
    assert told.get("/v1/items/brand-new").json()["available"]
    assert told.put("/v1/items/brand-new", json={"columns": {}}).status_code == 200
    assert told.get("/v1/items/never-told").status_code == 404
    state = told.get("/v1/info").json()["runs"]["main"]
    assert (state["live_items"]["new"], state["live_items"]["hidden"], state["live_items"]["due"]) == (1, 0, None)
    lists = told.post("/v1/recommend", json={"k": state["items"]}).json()["items"]
    assert "brand-new" in [one["item"] for one in lists]
    assert told.post("/v1/recommend", json={"user": "1", "k": 1}).json()["items"][0]["item"] == item
    assert told.post("/v1/items", json={"items": [{"item": item, "available": False}]}).json()["accepted"] == 1
    assert told.put(f"/v1/items/{item}", json={"colour": "red"}).status_code == 422


def test_users_are_told_and_forgotten(told: httpx.Client) -> None:
    assert told.put("/v1/users/1", json={"age": 70}).json()["accepted"] == 1
    assert told.put("/v1/users/1", json={"age": "old"}).status_code == 422
    assert told.post("/v1/recommend", json={"user": "1"}).json()["known"]
    for _ in (1, 2):
        assert told.delete("/v1/users/1").status_code == 204
    assert not told.post("/v1/recommend", json={"user": "1"}).json()["known"]


def test_what_is_shown_is_written_down_before_it_is_given(told: httpx.Client) -> None:
    asked = {"user": "1", "k": 4, "record": "shown", "request_id": "r"}
    first = told.post("/v1/recommend", json=asked).json()
    batch = told.post("/v1/recommend/batch", json={"requests": [asked, {**asked, "user": "2"}, {"k": 0}]}).json()
    assert [answer.get("status") for answer in batch["answers"]] == [None, None, 422]
    given = [(answer["user"], item["item"]) for answer in [first, *batch["answers"][:2]] for item in answer["items"]]
    kept = len(set(given))
    text = told.get("/metrics").text
    assert f'recsys_events_total{{result="accepted"}} {kept}' in text
    assert f'recsys_events_total{{result="duplicate"}} {len(given) - kept}' in text
    shown = [item["item"] for item in first["items"]]
    later = told.post("/v1/recommend", json={"user": "1", "k": 70, "seen": "shown"}).json()["items"]
    assert not set(shown) & {item["item"] for item in later}
    for wrong, pointer in (({"record": "shown"}, "/record"), ({"user": "1", "seen": {"tasks": ["x"]}}, "/seen")):
        response = told.post("/v1/recommend", json=wrong)
        assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_log_that_cannot_be_written_makes_a_service_not_ready(
    told: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.serving.service.CHECKED", 0.0)
    assert told.get("/readyz").json() == {
        "ready": True,
        "checks": {"version": True, "accepting": True, "writable": True, "fresh": True},
    }
    assert told.get("/v1/info").json()["state"]["durability"] == "written to the file"

    def full(self: SqliteLog) -> None:
        raise LogUnavailableError("the disk is full")

    monkeypatch.setattr(SqliteLog, "check", full)
    found = told.get("/readyz")
    assert (found.status_code, found.json()["checks"]["writable"]) == (503, False)


def test_without_a_state_nothing_can_be_told(client: httpx.Client) -> None:
    response = client.post("/v1/events", json={"events": [{"user": "1", "item": "5"}]})
    assert response.status_code == 404
    assert "start it with --state" in response.json()["detail"]
    assert client.post("/v1/recommend", json={"user": "1", "record": "shown"}).status_code == 422
