"""Two workers on one socket: keys, privacy, versions, rollback, a killed worker, an end without a failed request."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

import recsys
from recsys.artifacts.folder import open_run
from recsys.cli.main import main
from recsys.pipeline.index import build_run_index
from recsys.pipeline.publish import train_run
from recsys.serving.keys import SCOPES, add_key
from recsys.serving.supervisor import MOST_SECONDS, PAUSE_SECONDS, pause_before_start
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.service_process import ServiceProcess, running
from recsys.tests.support.tiny import TinyRun

PLANTED = "planted-4711"
pytestmark = pytest.mark.slow  # a supervisor, two workers, and a process for every trial of a version


@pytest.fixture(scope="module")
def place(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `a`, another training `b`, and keys."""
    place = tmp_path_factory.mktemp("service")
    shutil.copytree(tiny_run.folder, place / "runs" / "a")
    train_run(tiny_run.config("seed=5", "retrieval.fit.epochs=1"), place / "runs" / "b", base=tiny_run.world)
    build_run_index(place / "runs" / "b")
    (place / "serve.toml").write_text("drain_seconds = 0.3\n")
    return place


@pytest.fixture(scope="module")
def keys(place: Path) -> dict[str, str]:
    """A key for every scope alone."""
    return {scope: add_key(place / "keys.toml", f"only-{scope}", (scope,)) for scope in SCOPES}


@pytest.fixture(scope="module")
def both(place: Path, keys: dict[str, str]) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """The service and a client that has no key."""
    told = ["--run", str(place / "runs" / "a"), "--state", str(place / "state"), "--workers", "2"]
    told += ["--config", str(place / "serve.toml"), "--api-key-file", str(place / "keys.toml"), "--watch", "--page"]
    with running(*told) as (service, client):
        yield service, client


def having(keys: dict[str, str], scope: str) -> dict[str, str]:
    """Headers with the key of a scope."""
    return {"x-api-key": keys[scope]}


def test_the_page_is_there_where_it_was_asked_for(both: tuple[ServiceProcess, httpx.Client]) -> None:
    found = both[1].get("/")
    assert found.headers["content-type"].startswith("text/html")
    assert "page.js" in found.text


ROUTES = [
    ("POST", "/v1/recommend", {"user": "3"}, "read"),
    ("POST", "/v1/recommend/batch", {"requests": [{"user": "3"}]}, "read"),
    ("POST", "/v1/similar", {"items": ["5"]}, "read"),
    ("POST", "/v1/score", {"user": "3", "items": ["5"]}, "read"),
    ("GET", "/v1/info", None, "read"),
    ("GET", "/v1/items/5", None, "read"),
    ("PUT", "/v1/users/nobody", {}, "write"),
    ("GET", "/v1/users", None, "admin"),
    ("GET", "/v1/users/3/history", None, "admin"),
    ("GET", "/metrics", None, "metrics"),
    ("POST", "/v1/admin/reload", {}, "admin"),
    ("GET", "/healthz", None, None),
    ("GET", "/readyz", None, None),
    ("GET", "/openapi.json", None, None),
    ("GET", "/problems/rate", None, None),
    ("GET", "/", None, None),
]


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES)
def test_a_route_asks_for_its_scope(
    both: tuple[ServiceProcess, httpx.Client],
    keys: dict[str, str],
    method: str,
    path: str,
    body: Any,
    scope: str | None,
) -> None:
    _, client = both

    def status(headers: dict[str, str]) -> int:
        return client.request(method, path, json=body, headers=headers).status_code

    assert status({}) == (200 if scope is None else 401)
    assert status({"x-api-key": "x" * 43}) == (200 if scope is None else 401)
    for other in nonempty(SCOPES):
        assert status(having(keys, other)) == (200 if scope in (None, other) else 403)
    if scope is not None:
        assert status({"authorization": f"Bearer {keys[scope]}"}) == 200


def test_who_may_only_read_cannot_have_written_down_what_is_shown(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str]
) -> None:
    told = {"user": "nobody", "k": 2, "record": "shown"}
    response = both[1].post("/v1/recommend", json=told, headers=having(keys, "read"))
    assert (response.status_code, response.json()["type"]) == (403, "/problems/scope")


OWN = ("timings_ms", "request_id", "cursor", "position")
"""What differs from call to call, and from one state to another."""


def bare(answer: dict[str, Any]) -> str:
    """An answer without what differs from call to call, as bytes."""
    kept = {name: one for name, one in answer.items() if name not in OWN}
    items = [{name: one for name, one in item.items() if name != "token"} for item in answer["items"]]
    return json.dumps(kept | {"items": items})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a worker computes: with more threads the last bit hangs on how a product was divided, on some processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_http_the_command_line_and_python_say_the_same(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = both
    with recsys.load(place / "runs" / "a") as shop:
        for user in ("3", "17", "nobody"):
            run = ["--run", str(place / "runs" / "a"), "--user", user, "-k", "7", "--json"]
            assert main(["recommend", *run]) == 0
            printed = bare(json.loads(capsys.readouterr().out))
            asked = {"user": user, "k": 7}
            answer = client.post("/v1/recommend", json=asked, headers=having(keys, "read")).json()
            assert bare(answer) == bare(shop.ask(asked).to_json()) == printed


def test_what_is_personal_is_in_no_log_no_metric_and_no_problem(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str]
) -> None:
    service, client = both
    read = having(keys, "read")
    good = {"user": PLANTED, "history": [PLANTED], "exclude": [PLANTED], "allow": ["5", PLANTED], "request_id": PLANTED}
    assert client.post("/v1/recommend", json=good, headers=read).status_code == 200
    wrong: list[tuple[str, Any]] = [
        ("/v1/recommend", {**good, "k": 0}),
        ("/v1/recommend", {"user": {"id": PLANTED}}),
        ("/v1/recommend", {"user": PLANTED + "x" * 300}),
        ("/v1/recommend", {"history": [{"item": PLANTED, "labels": {"click": [PLANTED]}}]}),
        ("/v1/recommend", {"history": [{"id": PLANTED}]}),
        ("/v1/recommend", {"cursor": PLANTED}),
        ("/v1/recommend", {"run": PLANTED}),
        ("/v1/recommend", {"where": 5, "user": PLANTED}),
        ("/v1/similar", {"items": [PLANTED]}),
        ("/v1/score", {"user": PLANTED, "items": []}),
        (f"/v1/{PLANTED}", {}),
    ]
    for path, body in wrong:
        response = client.post(path, json=body, headers=read)
        assert 400 <= response.status_code < 500, response.text
        assert PLANTED not in response.text
    assert client.get("/healthz", headers={"x-api-key": PLANTED}).status_code == 200
    assert PLANTED not in client.get("/metrics", headers=having(keys, "metrics")).text
    service.wait_for('"/healthz"')
    assert service.logged
    assert PLANTED not in service.text
    assert not any(key in service.text for key in keys.values())


def test_metrics_are_prometheus_and_add_up(both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str]) -> None:
    _, client = both

    def told() -> dict[str, float]:
        text = client.get("/metrics", headers=having(keys, "metrics")).text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[f"{sample.name} {sorted(sample.labels.items())}"] = sample.value
        return found

    name = "recsys_requests_total [('path', '/v1/score'), ('status', '200')]"
    before = told().get(name, 0.0)
    for _ in range(10):
        body = {"user": "3", "items": ["5"]}
        httpx.post(f"{client.base_url}/v1/score", json=body, headers=having(keys, "read"), timeout=60)
    after = told()
    assert after[name] == before + 10
    assert after["recsys_workers []"] == 2


class Asking:
    """Asks without an end from several threads, and remembers every answer; a cut connection is tried once more."""

    def __init__(self, address: str, headers: dict[str, str], retries: int = 1) -> None:
        self.address, self.headers, self.retries = address, headers, retries
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(3)]

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.address, timeout=60, headers=self.headers) as client:
            while not self._stop.is_set():
                for attempt in range(self.retries + 1):
                    try:
                        response = client.post("/v1/recommend", json={"user": str(number + 1), "k": 5})
                        if response.status_code == 200:
                            self.answers.append(response.json())
                        else:
                            self.failures.append(response.text)
                        break
                    except httpx.TransportError as error:
                        if attempt == self.retries:
                            self.failures.append(repr(error))

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def lists_of(folder: Path) -> dict[str, list[str]]:
    """What a run recommends to the users that are asked about."""
    with recsys.load(folder) as shop:
        return {user: [item["item"] for item in shop.ask({"user": user, "k": 5}).items] for user in ("1", "2", "3")}


def test_versions_change_for_all_at_once_and_back_and_bad_ones_never(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str], place: Path
) -> None:
    service, client = both
    admin, runs = having(keys, "admin"), place / "runs"
    first, second = open_run(runs / "a").version, open_run(runs / "b").version
    lists = {first: lists_of(runs / "a"), second: lists_of(runs / "b")}
    with Asking(service.address, having(keys, "read"), retries=0) as asking:
        for name, spoil in nonempty({"truncated": _truncated, "not-finite": _not_finite}.items()):
            shutil.copytree(runs / "b", runs / name)
            spoil(runs / name)
            refused = client.post("/v1/admin/reload", json={"run": name}, headers=admin)
            assert refused.json()["type"] == "/problems/refused", refused.text
        done = client.post("/v1/admin/reload", json={"run": "b"}, headers=admin)
        assert done.json()["run"]["version"] == second
        assert done.json()["previous"] == first
        assert (
            client.post("/v1/recommend", json={"user": "1"}, headers=having(keys, "read")).json()["run"]["version"]
            == second
        )
        stale = client.post("/v1/admin/rollback", json={}, headers={**admin, "if-match": f'"{first}"'})
        assert stale.status_code == 412
        back = client.post("/v1/admin/rollback", json={}, headers=admin).json()
        assert back["run"]["version"] == first
        assert back["seconds"] < 1.0
        for name in ("../a", "/etc", "none", "a/../b"):
            assert client.post("/v1/admin/reload", json={"run": name}, headers=admin).status_code == 404
    assert asking.failures == []
    assert {answer["run"]["version"] for answer in asking.answers} == {first, second}
    for answer in asking.answers:
        assert [item["item"] for item in answer["items"]] == lists[answer["run"]["version"]][answer["user"]]


def _truncated(run: Path) -> None:
    file = next((run / "ranking").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def _not_finite(run: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    with open_run(run).add_files() as staging:
        weights = load_file(open_run(run).file("ranking/model.safetensors"))
        (staging / "ranking").mkdir()
        spoiled = {name: torch.full_like(values, float("nan")) for name, values in weights.items()}
        save_file(spoiled, staging / "ranking" / "model.safetensors")


def test_what_a_training_puts_there_is_served_by_itself(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str], place: Path
) -> None:
    service, client = both
    before = sum("version published" in line for line in service.lines)
    build_run_index(place / "runs" / "a", "Flat")
    service.wait_for("version published", before + 1)
    served = client.get("/v1/info", headers=having(keys, "read")).json()["runs"]["main"]["version"]
    assert served == open_run(place / "runs" / "a").version


def test_what_one_worker_is_told_every_worker_knows_in_its_next_answer(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str]
) -> None:
    service, _ = both

    def post(path: str, body: Any, scope: str) -> Any:
        """By a connection of its own, which any worker may take."""
        return httpx.post(service.address + path, json=body, headers=having(keys, scope), timeout=60).json()

    assert httpx.put(service.address + "/v1/items/brand-new", json={}, headers=having(keys, "write")).status_code == 201
    for _ in range(4):
        shown = post("/v1/recommend", {"user": "3", "allow": ["brand-new"], "k": 1}, "read")["items"]
        assert [item["item"] for item in shown] == ["brand-new"]
    for number in nonempty(range(15)):
        event = {"user": f"new-{number}", "item": "5", "labels": {"click": 1}}
        told = post("/v1/events", {"events": [event]}, "write")
        answers = [post("/v1/recommend", {"user": event["user"]}, "read") for _ in range(3)]
        assert {answer["rung"] for answer in answers} == {"history"}
        assert min(answer["position"] for answer in answers) >= told["position"]


def test_a_killed_worker_is_started_again(
    both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str], place: Path
) -> None:
    service, _ = both
    ready = sum("worker ready" in line for line in service.lines)
    with Asking(service.address, having(keys, "read")) as asking:
        os.kill(service.workers[0], signal.SIGKILL)
        service.wait_for("worker ready", ready + 1)
    assert asking.failures == []
    assert len(service.workers) == 2
    version = open_run(place / "runs" / "a").version
    assert {answer["run"]["version"] for answer in asking.answers} == {version}
    for _ in range(4):  # by the worker that began again, too, what was told before it was there
        asked = {"json": {"user": "new-3", "allow": ["brand-new"], "k": 1}, "headers": having(keys, "read")}
        answer = httpx.post(f"{service.address}/v1/recommend", timeout=60, **asked).json()  # type: ignore[arg-type]
        assert (answer["rung"], answer["items"][0]["item"]) == ("history", "brand-new")


def test_who_had_been_ready_is_started_at_once_and_who_never_is_later_and_later() -> None:
    pauses = [PAUSE_SECONDS]
    for _ in range(12):
        pauses.append(pause_before_start(pauses[-1], answered=False))
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == MOST_SECONDS
    assert pause_before_start(pauses[-1], answered=True) == PAUSE_SECONDS


def test_the_end_fails_no_request(both: tuple[ServiceProcess, httpx.Client], keys: dict[str, str]) -> None:
    service, _ = both
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=service.address, timeout=60, headers=having(keys, "read")) as other:
            try:
                while True:
                    response = other.post("/v1/recommend", json={"user": "3"})
                    statuses.append(response.status_code)
                    if response.headers.get("connection") == "close":
                        statuses.append(0)
                        return
            except httpx.ConnectError:
                return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert service.end() == 0
    for thread in threads:
        thread.join(30)
    assert statuses.count(0) == 2
    assert set(statuses) == {0, 200}
