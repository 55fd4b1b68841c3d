"""Services on several machines with one log in Redis: what one is told all know, and a server that goes comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import recsys
from recsys.live.answering import Answering
from recsys.live.log import RedisLog
from recsys.live.overlay import overlay_of
from recsys.live.teller import Teller
from recsys.live.tokens import Tokens
from recsys.recommender import Recommender
from recsys.serving.config import ServeConfig
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.runs import Runs
from recsys.serving.service import Service
from recsys.tests.support.redis_server import RedisServer
from recsys.tests.support.served import serving
from recsys.tests.support.service_process import running
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer.started(tmp_path_factory.mktemp("redis"), kept=True) as found:
        yield found


@contextlib.contextmanager
def machine(shop: Recommender, state: str) -> Iterator[httpx.Client]:
    """A service with a connection of its own to the log."""
    with RedisLog(state) as log:
        overlay = overlay_of(shop.funnel, log)
        runs = Runs({"main": Answering(overlay.funnel, "main", "v", log.key(), overlay)})
        service = Service(runs, ServeConfig(lag_seconds=1e-6), Metrics(series_of(("/v1/events",), ["main"])))
        service.teller = Teller(log, shop.trained.dataset, Tokens(log.key()))
        with serving(service) as client:
            yield client


def event(user: str, **more: object) -> dict[str, object]:
    return {"events": [{"user": user, "item": "5", "labels": {"click": 1}, **more}]}


def rung(client: httpx.Client, user: str) -> str:
    return str(client.post("/v1/recommend", json={"user": user}).json()["rung"])


def test_what_one_machine_is_told_the_other_answers_with(shop: Recommender, server: RedisServer) -> None:
    state = f"{server.address}#two"
    with machine(shop, state) as one, machine(shop, state) as other:
        assert rung(other, "newcomer") == "popular"
        assert one.post("/v1/events", json=event("newcomer")).json()["position"] == 1
        assert rung(other, "newcomer") == "history"
        shown = one.post("/v1/recommend", json={"user": "2", "k": 1}).json()["items"][0]
        joined = event("2", item=shown["item"], token=shown["token"])
        assert other.post("/v1/events", json=joined).status_code == 200  # a token of one is read by the other


def test_an_item_that_one_machine_is_told_of_is_in_the_lists_of_the_other(
    shop: Recommender, server: RedisServer
) -> None:
    def shown(client: httpx.Client) -> list[str]:
        answer = client.post("/v1/recommend", json={"user": "2", "allow": ["brand-new", "5"], "k": 2}).json()
        return sorted(item["item"] for item in answer["items"])

    state = f"{server.address}#items"
    with machine(shop, state) as one:
        assert one.put("/v1/items/brand-new", json={}).status_code == 201
        with machine(shop, state) as other:  # which reads the log from its beginning
            assert shown(one) == shown(other) == ["5", "brand-new"]
            assert other.delete("/v1/items/brand-new").status_code == 204
            assert shown(one) == shown(other) == ["5"]


def test_while_the_server_is_away_reads_go_on_and_writes_do_not(shop: Recommender, server: RedisServer) -> None:
    with machine(shop, f"{server.address}#away") as client:
        client.post("/v1/events", json=event("newcomer"))
        assert rung(client, "newcomer") == "history"
        assert client.get("/readyz").json()["checks"] == {
            "version": True,
            "accepting": True,
            "writable": True,
            "fresh": True,
        }
        server.kill()
        answer = client.post("/v1/recommend", json={"user": "newcomer"}).json()
        assert (answer["rung"], answer["stale"]) == ("history", True)
        refused = client.post("/v1/events", json=event("other"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["fresh"]) == (503, False)
        server.start()
        assert client.post("/v1/events", json=event("other")).status_code == 200
        assert rung(client, "other") == "history"
        assert client.get("/readyz").json()["checks"]["fresh"]


@pytest.mark.slow  # a process and its worker are started
def test_a_service_is_started_with_a_log_on_a_server(tiny_run: TinyRun, server: RedisServer, tmp_path: Path) -> None:
    state = f"{server.address}#served"
    with recsys.load(tiny_run.folder, state=state) as shop:
        shop.add_events([{"user": "early", "item": "5", "labels": {"click": 1}}])
        with running("--run", str(tiny_run.folder), "--state", state, "--workers", "1") as (_, client):
            assert rung(client, "early") == "history"
            told = client.post("/v1/events", json=event("late")).json()
            assert shop.ask({"user": "late"}).rung == "history"
            assert shop.position == told["position"]
            about = client.get("/v1/info").json()["state"]
            assert (about["log"], about["durability"]) == (shop.log.log_id, "in the server's log (appendfsync always)")
