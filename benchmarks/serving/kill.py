"""Kills at random moments: a worker, all workers, or the supervisor; the service must come back whole each time.

    python benchmarks/serving/kill.py --run runs/demo --kills 1000 --seconds 36000 --out docs/results/serving-kill.json

Events are told all the while: each that was acknowledged must be in the log once.
After each kill the next answer must be that of the same version. After the supervisor's, its workers must end by
themselves, and a service on the same state must start.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from recsys.benchmarks.serving.telling import Telling, binary_task, kept
from recsys.benchmarks.serving.trial import options, record, service_on_copy
from recsys.tests.support.service_process import ServiceProcess

SAID = 50
"""Kills after which the trial says how far it is."""


def answered(address: str, version: str, seconds: float) -> float:
    """Seconds until the service answers by this version.

    Raises:
        TimeoutError: it does not.
    """
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            answer = httpx.post(f"{address}/v1/recommend", json={"user": "1"}, timeout=seconds)
            if answer.status_code == 200 and answer.json()["run"]["version"] == version:
                return time.monotonic() - started
        except httpx.TransportError:
            pass
        time.sleep(0.01)
    raise TimeoutError(f"no answer by version {version} in {seconds} seconds")


def main() -> int:
    """Run the trial; 0 when it passes."""
    parser = options(__doc__ or "", 60.0)
    parser.add_argument("--kills", type=int, default=20, help="at most so many, within --seconds")
    parser.add_argument("--events", type=float, default=200.0, help="told a second")
    told = parser.parse_args()
    chance, waits, kinds = random.Random(0), list[float](), dict[str, int]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        state = ["--state", str(place / "state")]
        with service_on_copy(told.run, place, told.workers, *state) as (first, client):
            version = client.post("/v1/recommend", json={"user": "1"}).json()["run"]["version"]
            service, started, stop = first, time.monotonic(), threading.Event()
            telling = Telling(first.address, binary_task(client), stop, told.events)
            telling.start()
            while sum(kinds.values()) < told.kills and time.monotonic() - started < told.seconds:
                time.sleep(chance.uniform(0.0, 0.5))
                kind = chance.choices(["worker", "workers", "supervisor"], [6, 2, 1])[0]
                kinds[kind] = kinds.get(kind, 0) + 1
                workers = service.workers
                if kind == "supervisor":
                    service.process.kill()
                    service.process.wait()
                    due = time.monotonic() + 30
                    while any(Path(f"/proc/{worker}").exists() for worker in workers):
                        if time.monotonic() > due:
                            raise TimeoutError("workers outlive their supervisor")
                        time.sleep(0.05)
                    more = ["--run", str(place / "runs" / "main"), "--workers", str(told.workers), *state]
                    service = ServiceProcess(more)
                    telling.address = service.address
                else:
                    for worker in workers if kind == "workers" else workers[:1]:
                        os.kill(worker, signal.SIGKILL)
                waits.append(answered(service.address, version, 60.0))
                if len(waits) % SAID == 0:
                    print(f"{len(waits)} kills in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            stop.set()
            telling.join()
            if service is not first:
                service.end()
        log = kept(place / "state", telling.acknowledged)
    found = {"kills": kinds, "median_seconds": statistics.median(waits), "most_seconds": max(waits), **log}
    found["events_refused"] = len(telling.failures)
    record(told.out, "kill", vars(told), found)
    return int(bool(log["events_lost"] or log["events_doubled"] or telling.failures) or log["log_is_whole"] != "ok")


if __name__ == "__main__":
    sys.exit(main())
