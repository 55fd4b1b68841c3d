"""What live state costs: durable events a second, catching up, a start, memory an event, a request with the overlay.

    python -m recsys.benchmarks.serving.live_state RUN [--events 20000]

Prints one JSON object. Ratios are to the same run without a state, in the same process: of users of whom something was
told since they were asked about last, and of the same users asked about again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.artifacts.folder import open_run
from recsys.data.encoding.told_events import EventReader
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.live.log import Durability, SqliteLog
from recsys.live.overlay import Overlay, overlay_of
from recsys.live.teller import Teller
from recsys.live.told import event_rows

BATCH = 100


def events_of(funnel: Funnel, count: int, seed: int) -> list[dict[str, Any]]:
    """Events of users of the run on items of its catalogue, a second each from its newest event on."""
    rng, data = np.random.default_rng(seed), funnel.dataset
    users = rng.integers(0, data.num_users, count)
    items = rng.integers(0, data.num_catalogue, count)
    binary = next(task.source for task in data.config.tasks if task.kind == "binary")
    first = int(data.events.times.max())
    return [
        {
            "user": data.user_ids[u],
            "item": data.item_ids[i],
            "time": first + 1 + n,
            "labels": {binary: n % 2},
            "id": f"{seed}-{n}",
        }
        for n, (u, i) in enumerate(zip(users.tolist(), items.tolist(), strict=True))
    ]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of some work."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - own


def asked(funnel: Funnel, users: Sequence[str]) -> None:
    """Ask for each user alone."""
    for user in users:
        funnel.recommend([user], 10)


def caught_up(live: Overlay, times: int) -> None:
    """Ask the log whether there is something new, again and again."""
    for _ in range(times):
        live.catch_up()


def tell(teller: Teller, events: Sequence[Any]) -> None:
    """Hand events in, a batch at a time."""
    for start in range(0, len(events), BATCH):
        teller.events(events[start : start + BATCH])


def tell_changes(teller: Teller, events: Sequence[Any], every: int = 50) -> None:
    """Hand events in, and after each so many of them that an item of theirs is sold out, or is there again."""
    for start in range(0, len(events), every):
        teller.events(events[start : start + every])
        teller.items([{"item": events[start]["item"], "available": bool(start // every % 2)}])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--events", type=int, default=20_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    funnel = Funnel(load_run(open_run(given.run)))
    funnel.warm_up(recorded=True)
    events = events_of(funnel, given.events, 1)
    found: dict[str, Any] = {"events": given.events, "batch": BATCH}
    durabilities: tuple[Durability, ...] = ("disk", "process")
    with tempfile.TemporaryDirectory() as folder:
        for durability in durabilities:
            with SqliteLog(Path(folder) / durability, durability) as log:
                wall, own = timed(partial(tell, Teller(log, funnel.dataset), events))
            found[f"told_{durability}"] = {"per_s": len(events) / wall, "cpu_us": 1e6 * own / len(events)}
        with SqliteLog(Path(folder) / "disk") as log:
            rows = event_rows(EventReader(funnel.dataset.config), events_of(funnel, BATCH, 2)).rows
            live = Overlay(funnel, log)
            wall, own = timed(lambda: live.catch_up(limit=len(events)))
            found["catch_up"] = {"rows_per_s": len(events) / wall, "cpu_us_per_row": 1e6 * own / len(events)}
            wall, own = timed(partial(overlay_of, Funnel(funnel.trained), log))
            found["start"] = {"rows_per_s": len(events) / wall, "cpu_us_per_row": 1e6 * own / len(events)}
            with SqliteLog(Path(folder) / "changes", "process") as other:
                tell_changes(Teller(other, funnel.dataset), events)
                among = Overlay(Funnel(funnel.trained), other)
                wall, own = timed(lambda: among.catch_up(limit=2 * len(events)))
            found["catch_up_among_changes"] = {"rows_per_s": among.position / wall}
            found["bytes_per_event"] = live.nbytes / len(events)
            found["nothing_new_us"] = 1e6 * timed(partial(caught_up, live, 1000))[0] / 1000
            log.append(rows)
            found["100_new_ms"] = 1e3 * timed(live.catch_up)[0]
            users = [str(funnel.dataset.user_ids[row]) for row in range(min(200, funnel.dataset.num_users))]
            asked(live.funnel, [str(user) for user in funnel.dataset.user_ids[-20:]])
            for name, ask in (("run", funnel), ("overlay", live.funnel), ("overlay_again", live.funnel)):
                if name == "run":
                    asked(ask, users[:20])
                wall, own = timed(partial(asked, ask, users))
                found[f"request_{name}"] = {"wall_ms": 1e3 * wall / len(users), "cpu_ms": 1e3 * own / len(users)}
    for name in ("overlay", "overlay_again"):
        found[f"ratio_{name}"] = found[f"request_{name}"]["cpu_ms"] / found["request_run"]["cpu_ms"]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
