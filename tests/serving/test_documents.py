"""The OpenAPI document is that of the routes, answers fit it, and what deploys the service runs commands that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

import recsys
from recsys.cli.main import main
from recsys.docs.document_http import TARGET, document_text
from recsys.serving.app import create_api
from recsys.serving.paths import PATHS
from recsys.serving.problems import KINDS
from recsys.tests.support.nonempty import nonempty

DEPLOY = Path(recsys.__file__).parent / "deploy"


def test_the_document_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == document_text(), "run `make docs`"


def test_metrics_name_every_path() -> None:
    assert {getattr(route, "path", "") for route in create_api().router.routes} <= set(PATHS)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/recommend", {"user": "3", "k": 3, "explain": True}),
        ("/v1/recommend", {"history": ["5", "gone"]}),
        ("/v1/recommend", {"user": "3", "seen": {"policy": "shown", "window_days": 3}}),
        ("/v1/recommend", {"user": "3", "seen": "none"}),
        ("/v1/recommend", {"k": 0}),
        ("/v1/recommend/batch", {"requests": [{"user": "3"}, {"k": 0}]}),
        ("/v1/similar", {"items": ["5", "gone"]}),
        ("/v1/similar", {"items": ["gone"]}),
        ("/v1/score", {"user": "3", "items": ["5", "gone"]}),
        ("/v1/admin/reload", {}),
    ],
)
def test_an_answer_fits_the_document(client: httpx.Client, path: str, asked: dict[str, Any]) -> None:
    document = client.get("/openapi.json").json()
    response = client.post(path, json=asked)
    told = document["paths"][path]["post"]["responses"][str(response.status_code)]["content"]
    schema = {**told[response.headers["content-type"]]["schema"], "components": document["components"]}
    assert valid(response.json(), schema)
    kind = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fits = valid(asked, {**kind, "components": document["components"]})
    assert fits or response.status_code != 200 or "requests" in asked


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema."""
    return not [*jsonschema.Draft202012Validator(schema).iter_errors(value)]


def test_every_kind_of_problem_is_described() -> None:
    statuses = {
        int(status)
        for operations in json.loads(document_text())["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
        if status not in ("200", "201", "204")
    }
    outside = {405, 431, 500}  # of every path, of no path, and of no request that anybody should send
    assert statuses == {kind.status for kind in KINDS.values()} - outside


def commands() -> list[list[str]]:
    """What the files in deploy/ run, after `recsys serve`."""
    docker = (DEPLOY / "Dockerfile").read_text()
    entry, more = (json.loads(re.search(rf"^{word} (\[.*\])$", docker, re.M)[1]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["recsys", "serve"]
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "recsys.service")
    assert unit["Service"]["Type"] == "notify"
    started = shlex.split(unit["Service"]["ExecStart"])
    assert started[0].endswith("/recsys")
    return [more, started[2:]]


def test_what_deploys_the_service_runs_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for command in nonempty(commands()):
        assert {word for word in command if word.startswith("--")} <= options
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = compose["services"]["recsys"]
    assert service["read_only"]
    shared = yaml.safe_load((DEPLOY / "compose.valkey.yaml").read_text())["services"]
    assert {word for word in shared["recsys"]["command"] if word.startswith("--")} <= options
    assert shared["recsys"]["command"][-1].startswith("redis://valkey:")
    assert set(shared["recsys"]["depends_on"]) < set(shared)
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_doctor_looks_at_a_service(client: httpx.Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", str(client.base_url), "--json"]) == 0
    (findings,) = json.loads(capsys.readouterr().out).values()
    assert {finding["subject"] for finding in findings} == {"answers", "ready", "run main", "run other", "recommend"}
    assert main(["doctor", "--url", "http://127.0.0.1:9", "--json"]) == 1
    assert "recsys serve" in capsys.readouterr().out
    assert main(["doctor", "--url", "ftp://x"]) == 2
