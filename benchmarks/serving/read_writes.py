"""Read your writes: an event told over one connection, and a request at once over another.

    python benchmarks/serving/read_writes.py --run runs/demo --writes 10000 --out docs/results/serving-read-writes.json

Connections are kept, more than workers, and take turns, so that most pairs are of two workers. Every user is new: the
answer must be of the rung `history`, and of a position not before the event's. Passes when no answer is stale.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from recsys.benchmarks.serving.telling import binary_task
from recsys.benchmarks.serving.trial import options, record, service_on_copy

CONNECTIONS = 8


def main() -> int:
    """Run the trial; 0 when it passes."""
    parser = options(__doc__ or "", 3600.0)
    parser.add_argument("--writes", type=int, default=1000, help="at most so many, within --seconds")
    told = parser.parse_args()
    stale, waits, number = list[str](), list[float](), 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        state = ["--state", str(Path(folder) / "state")]
        service, own = opened.enter_context(service_on_copy(told.run, Path(folder), told.workers, *state))
        label = binary_task(own)
        clients = [opened.enter_context(httpx.Client(base_url=service.address, timeout=60)) for _ in range(CONNECTIONS)]
        ended = time.monotonic() + told.seconds
        while number < told.writes and time.monotonic() < ended:
            one, other = clients[number % CONNECTIONS], clients[(number * 3 + 1 + number // CONNECTIONS) % CONNECTIONS]
            user, number = f"new-{number}", number + 1
            event = {"user": user, "item": str(1 + number % 50), "labels": {label: 1}}
            kept = one.post("/v1/events", json={"events": [event]}).raise_for_status().json()
            asked = time.perf_counter()
            answer = other.post("/v1/recommend", json={"user": user}).raise_for_status().json()
            waits.append(1e3 * (time.perf_counter() - asked))
            if answer["rung"] != "history" or answer["position"] < kept["position"]:
                stale.append(user)
    found = {
        "writes": number,
        "stale": len(stale),
        "answer_ms": {"median": statistics.median(waits), "most": max(waits)},
    }
    record(told.out, "read_writes", vars(told), found)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
