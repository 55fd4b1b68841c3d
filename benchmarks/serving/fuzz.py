"""Random requests: from the document, from mutated good ones, and raw bytes; no 5xx, no hang, the next one answered.

A 504 is right where the request itself gave the service less time than an answer takes.

python benchmarks/serving/fuzz.py --run runs/demo --requests 100000 --seconds 3600 --out docs/results/serving-fuzz.json
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from recsys.benchmarks.serving.trial import options, record, service_on_copy

PATHS = (
    "/v1/recommend",
    "/v1/recommend/batch",
    "/v1/similar",
    "/v1/score",
    "/v1/admin/rollback",
    "/v1/none",
    "/v1/events",
    "/v1/items",
)
KEYS = (
    *("user", "k", "history", "history_mode", "features", "context", "where", "allow", "exclude", "rules", "explore"),
    *(
        "explain",
        "cursor",
        "run",
        "request_id",
        "timeout_ms",
        "items",
        "by",
        "requests",
        "usr",
        "seen",
        "record",
        "events",
        "labels",
        "id",
        "token",
        "time",
        "available",
    ),
)
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 5, 10**30, 1.5, -0.0, 1e308, "", "1", "nobody", "\u0000", "\u202e", "é" * 300),
    *("price > 3", 'category = "x', "not " * 50, "append", "none", "vector", "device", "click", "x" * 5000),
)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Some JSON."""
    kind = chance.random()
    if depth > 3 or kind < 0.6:
        return chance.choice(SCALARS)
    if kind < 0.8:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {
        chance.choice([*KEYS, "item", "labels", "time"]): value(chance, depth + 1) for _ in range(chance.randint(0, 4))
    }


def body(chance: random.Random) -> bytes:
    """A body: a likely request, any JSON, or one that is cut or has bytes changed."""
    asked = {chance.choice(KEYS): value(chance) for _ in range(chance.randint(0, 5))}
    whole = json.dumps(asked if chance.random() < 0.9 else value(chance)).encode()
    if chance.random() < 0.2 and whole:
        spoiled = bytearray(whole[: chance.randint(1, len(whole))])
        spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        return bytes(spoiled)
    return whole


def raw(address: str, chance: random.Random) -> str:
    """Bytes on the socket; the first of the status that comes back, or nothing."""
    host, port = address.removeprefix("http://").split(":")
    sent = chance.choice([b"POST /v1/recommend HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b""])
    sent += chance.randbytes(chance.randint(1, 400)) + b"\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(12)[9:12].decode("latin-1")


def main() -> int:
    """Run the trial; 0 when it passes."""
    parser = options(__doc__ or "", 60.0)
    parser.add_argument("--requests", type=int, default=2000, help="at most so many, within --seconds")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    chance, statuses, wrong = random.Random(told.seed), Counter[str](), list[str]()
    with (
        tempfile.TemporaryDirectory() as folder,
        service_on_copy(told.run, Path(folder), told.workers, "--state", str(Path(folder) / "state")) as (service, _),
    ):
        started = time.monotonic()
        with httpx.Client(base_url=service.address, timeout=20) as client:
            while statuses.total() < told.requests and time.monotonic() - started < told.seconds:
                sent = b""
                if chance.random() < 0.05:
                    status = raw(service.address, chance)
                    statuses[f"raw {status}"] += 1
                else:
                    path, sent = chance.choice(PATHS), body(chance)
                    response = client.post(path, content=sent, headers={"content-type": "application/json"})
                    status = str(response.status_code)
                    statuses[status] += 1
                    problem = status[0] != "2" and response.headers["content-type"] != "application/problem+json"
                    if problem:
                        wrong.append(f"{path} {status} is no problem: {response.text[:200]}")
                if status.startswith("5") and not (status == "504" and b"timeout_ms" in sent):
                    wrong.append(f"{status}: {sent[:200]!r}")
            alive = client.post("/v1/recommend", json={"user": "1"}).status_code
    found = {"statuses": dict(statuses), "wrong": len(wrong), "first_wrong": wrong[:10], "answers_after": alive}
    record(told.out, "fuzz", vars(told), found)
    return int(bool(wrong) or alive != 200)


if __name__ == "__main__":
    sys.exit(main())
