"""A long run: mixed requests while events are told, items change, versions are published and workers are killed.

    python benchmarks/serving/soak.py --run runs/demo --seconds 3600 --out docs/results/serving-soak.json

Passes when no request fails (a connection that a kill cuts is tried once more), and every event that was acknowledged
is in the log once. The workers' own memory after the first sixth and at the end stands in the record.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from recsys.benchmarks.serving.telling import Telling, binary_task, kept
from recsys.benchmarks.serving.trial import options, record, service_on_copy
from recsys.pipeline.index import build_run_index


class Client(threading.Thread):
    """Asks for random users, items and pages until it is told to stop."""

    def __init__(self, address: str, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self.address, self.random, self.stop = address, random.Random(seed), stop
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.versions: set[str] = set()

    def run(self) -> None:
        """See `Thread`."""
        with httpx.Client(base_url=self.address, timeout=30) as client:
            while not self.stop.is_set():
                user = str(int(self.random.paretovariate(0.7)))
                asked: dict[str, Any] = {"user": user, "k": self.random.choice([5, 10, 20])}
                path = self.random.choice(["recommend"] * 8 + ["score", "similar"])
                if path != "recommend":
                    asked = {"items": [str(self.random.randint(1, 50))], **({"user": user} if path == "score" else {})}
                for attempt in range(2):
                    try:
                        response = client.post(f"/v1/{path}", json=asked)
                    except httpx.TransportError as error:
                        if attempt:
                            self.failures.append(repr(error))
                        continue
                    self.statuses[f"{path} {response.status_code}"] += 1
                    if response.status_code == 200:
                        self.versions.add(response.json()["run"]["version"])
                    elif response.status_code != 404:
                        self.failures.append(response.text)
                    break
                time.sleep(self.random.expovariate(50.0))


def private_mb(service: Any) -> float:
    """Memory of all workers that is theirs alone."""
    total = 0
    for worker in service.workers:
        for line in Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("Private_Dirty") else 0
    return total / 1024


def main() -> int:
    """Run the trial; 0 when it passes."""
    parser = options(__doc__ or "", 90.0)
    parser.add_argument("--publish-every", type=float, default=10.0)
    parser.add_argument("--kill-every", type=float, default=60.0)
    parser.add_argument("--events", type=float, default=500.0, help="told a second")
    parser.add_argument("--items", type=float, default=5.0, help="changes of items a second")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with service_on_copy(told.run, place, told.workers, "--state", str(place / "state"), "--watch") as (
            service,
            own,
        ):
            stop = threading.Event()
            clients = [Client(service.address, seed, stop) for seed in range(4)]
            telling = Telling(service.address, binary_task(own), stop, told.events, told.items)
            for client in (*clients, telling):
                client.start()
            started = published = killed = time.monotonic()
            kills, early = 0, 0.0
            while (now := time.monotonic()) - started < told.seconds:
                time.sleep(0.5)
                if now - published > told.publish_every:
                    build_run_index(place / "runs" / "main", "Flat")
                    published = time.monotonic()
                if now - killed > told.kill_every and service.workers:
                    os.kill(random.choice(service.workers), signal.SIGKILL)
                    kills, killed = kills + 1, now
                if not early and now - started > told.seconds / 6:
                    early = private_mb(service)
            stop.set()
            for client in (*clients, telling):
                client.join()
            late = private_mb(service)
            versions = sum("version published" in line for line in service.lines)
        log = kept(place / "state", telling.acknowledged)
    statuses = sum((client.statuses for client in clients), telling.statuses)
    failures = [*telling.failures, *(failure for client in clients for failure in client.failures)]
    found = {
        "requests": sum(statuses.values()),
        "statuses": dict(statuses),
        "failed": len(failures),
        "first_failures": failures[:5],
        **log,
        "versions_published": versions,
        "versions_answered": len(set().union(*(client.versions for client in clients))),
        "workers_killed": kills,
        "private_mb_early": round(early, 1),
        "private_mb_late": round(late, 1),
    }
    record(told.out, "soak", vars(told), found)
    return int(bool(failures or log["events_lost"] or log["events_doubled"] or log["log_is_whole"] != "ok"))


if __name__ == "__main__":
    sys.exit(main())
