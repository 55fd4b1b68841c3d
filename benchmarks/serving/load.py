"""Throughput, latency and memory of the service, beside a bare loop of its parts in the same process run.

    python benchmarks/serving/load.py --run runs/demo --seconds 10 --out docs/results/serving-load.json

wrk (Debian's package) asks for users drawn from the run, on the cores that serve, with 1 and with 16 connections, and
with 16 that pause between their requests so that the service does about four fifths of what it can; the bare HTTP is
`/healthz` of the same service. Then events are told in batches of 100 while the service is read at half of what it can
do. The bare loop validates, answers and writes the same requests without HTTP, alone and
in blocks of 16, on one thread as a worker does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import torch

import recsys
from recsys.base.errors import RecsysError
from recsys.base.memory import keep_memory
from recsys.benchmarks.serving.telling import binary_task
from recsys.benchmarks.serving.trial import options, record, service_on_copy
from recsys.live.requests import Request, parsed

SCRIPT = """
local users = {%s}
local pause = %f
local at = 0
if pause > 0 then delay = function() return math.floor(2 * pause * math.random() + 0.5) end end
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function()
  at = at %% #users + 1
  return wrk.format(nil, nil, nil, '{"user": "' .. users[at] .. '", "k": 10}')
end
"""
PACED = 0.8
"""Share of the requests a second that the service can do, at which its latency is looked at."""
READING = 0.5
"""The same, while events are told."""
BATCH = 100
"""Events told at once."""
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def wrk(address: str, connections: int, seconds: float, script: Path | None) -> dict[str, float]:
    """Requests a second, latency in milliseconds, and responses that were no success."""
    told = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    told += ["-s", str(script)] if script is not None else []
    out = subprocess.run([*told, address], capture_output=True, text=True, check=True).stdout
    found = {"requests_per_second": float(_told(r"Requests/sec:\s+([\d.]+)", out)[0])}
    for share in ("50", "99"):
        value, unit = _told(rf"\s{share}%\s+([\d.]+)(us|ms|s)", out)
        found[f"p{share}_ms"] = float(value) * UNITS[unit]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return found | {"failed": float(failed[1]) if failed else 0.0}


def _told(words: str, out: str) -> tuple[str, ...]:
    """What wrk says.

    Raises:
        ValueError: it does not.
    """
    found = re.search(words, out)
    if found is None:
        raise ValueError(f"wrk printed no {words}: {out}")
    return found.groups()


def pause(most: dict[str, float], share: float) -> float:
    """Milliseconds between the requests of one of 16 connections that make a share of what the service can do; that
    the answer is waited for is a part of a turn.
    """
    return 1e3 * 16 / (share * most["requests_per_second"]) - share * most["p50_ms"]


def tell(client: httpx.Client, task: str, users: list[str], seconds: float) -> float:
    """Events a second that one client tells in batches, waiting until each batch is on the disk."""
    started, count = time.monotonic(), 0
    while (spent := time.monotonic() - started) < seconds:
        events = [
            {"user": users[(count + place) % len(users)], "item": str(1 + place), "labels": {task: 1}}
            for place in range(BATCH)
        ]
        client.post("/v1/events", json={"events": events}).raise_for_status()
        count += BATCH
    return count / spent


def bare_loop(shop: recsys.Recommender, users: list[str], block: int, seconds: float) -> dict[str, float]:
    """The parts without HTTP: parse, answer, write."""
    answering, asked, started = shop.engine.served, 0, time.perf_counter()
    bodies = [orjson.dumps({"user": user, "k": 10}) for user in users]
    while time.perf_counter() - started < seconds:
        some = [bodies[(asked + place) % len(bodies)] for place in range(block)]
        for answer in answering.answer([parsed(Request, orjson.loads(body)) for body in some]):
            if isinstance(answer, RecsysError):
                raise answer
            orjson.dumps(answer.to_json())
        asked += block
    return {"requests_per_second": asked / (time.perf_counter() - started)}


def main() -> int:
    """Measure."""
    told = options(__doc__ or "", 10.0).parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; install Debian's package wrk", file=sys.stderr)
        return 1
    found: dict[str, Any] = {}
    torch.set_num_threads(1)
    keep_memory()
    with recsys.load(told.run) as shop, tempfile.TemporaryDirectory() as folder:
        data = shop.trained.dataset
        found["items"] = data.num_catalogue
        index = shop.funnel.retriever.index
        measured = getattr(index, "report", None)
        if measured is not None:
            found["index"] = f"{measured.factory}, recall {measured.ann_recall:.3f}, asked for {measured.target_recall}"
        users = [str(data.user_ids[row]) for row in range(0, data.num_users, max(1, data.num_users // 1000))]
        script, asked = Path(folder) / "ask.lua", ", ".join(json.dumps(user) for user in users)
        script.write_text(SCRIPT % (asked, 0))
        shop.funnel.warm_up(recorded=True)
        for block in (1, 16):
            found[f"bare loop, blocks of {block}"] = bare_loop(shop, users, block, told.seconds)
        started = time.monotonic()
        with service_on_copy(told.run, Path(folder), told.workers) as (service, _):
            found["ready_seconds"] = time.monotonic() - started
            words = re.search(r"(\d+) MB of their own", service.text)
            found["private_mb_a_worker"] = float(words[1]) if words else None
            for connections in (1, 16):
                place = f"{service.address}/v1/recommend"
                found[f"{connections} connections"] = wrk(place, connections, told.seconds, script)
            most = found["16 connections"]
            script.write_text(SCRIPT % (asked, pause(most, PACED)))
            found["16 connections, paced"] = wrk(place, 16, told.seconds, script)
            found["bare HTTP, 16 connections"] = wrk(f"{service.address}/healthz", 16, told.seconds, None)
        script.write_text(SCRIPT % (asked, pause(most, READING)))
        state = ["--state", str(Path(folder) / "state")]
        with (
            service_on_copy(told.run, Path(folder) / "told", told.workers, *state) as (service, client),
            ThreadPoolExecutor(1) as pool,
        ):
            reading = pool.submit(wrk, f"{service.address}/v1/recommend", 16, told.seconds, script)
            found["durable_events_a_second"] = tell(client, binary_task(client), users, told.seconds)
            found["16 connections, while events are told"] = reading.result()
    record(told.out, "load", vars(told), found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
