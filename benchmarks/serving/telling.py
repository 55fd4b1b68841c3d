"""Events and changes of items, told without an end while a trial goes on; and what became of them in the log."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from recsys.live.log import SqliteLog
from recsys.live.log.base import row_id

BATCH = 50


class Telling(threading.Thread):
    """Tells until it is stopped. What was not answered is told again, with the same ids.

    Args:
        address: of the service.
        task: a binary label of the run's events.
        stop: when to end.
        events: a second.
        items: changes of items a second.
    """

    def __init__(self, address: str, task: str, stop: threading.Event, events: float, items: float = 0.0) -> None:
        super().__init__()
        self.address, self.task, self.stop = address, task, stop
        self.pause, self.changes = BATCH / events, items * BATCH / events
        self.random = random.Random(0)
        self.statuses: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self._told = 0

    def run(self) -> None:
        """See `Thread`."""
        due = time.monotonic()
        while not self.stop.is_set():
            batch = [self._event() for _ in range(BATCH)]
            if self._answered("POST", "/v1/events", {"events": batch}):
                self.acknowledged += [event["id"] for event in batch]
            for _ in range(int(self.changes) + (self.random.random() < self.changes % 1)):
                self._change_item()
            due += self.pause
            self.stop.wait(max(0.0, due - time.monotonic()))

    def _event(self) -> dict[str, Any]:
        self._told += 1
        user, item = int(self.random.paretovariate(0.7)), self.random.randint(1, 50)
        return {"id": f"e{self._told}", "user": user, "item": item, "labels": {self.task: self.random.randint(0, 1)}}

    def _change_item(self) -> None:
        """An item goes or comes back."""
        path = f"/v1/items/{self.random.randint(1, 50)}"
        known = self._answered("GET", path, None)
        if known is None or not known.get("columns"):
            return
        told = {name: value for name, value in known["columns"].items() if value is not None}
        self._answered("PUT", path, {"columns": {**told, "available": not known["available"]}})

    def _answered(self, method: str, path: str, body: Any) -> Any:
        """The answer, however often it must be asked for; nothing where the service refuses."""
        while not self.stop.is_set():
            try:
                found = httpx.request(method, f"{self.address}{path}", json=body, timeout=30)
            except httpx.TransportError:  # cut by a kill
                self.stop.wait(0.05)
                continue
            self.statuses[f"{method} {path.split('/')[2]} {found.status_code}"] += 1
            if found.status_code == 503:
                self.stop.wait(0.05)
                continue
            if found.status_code >= 400 and found.status_code != 404:
                self.failures.append(found.text)
                return None
            return found.json() if found.content else {}
        return None


def kept(state: Path, acknowledged: list[str]) -> dict[str, Any]:
    """What is in the log of events that were acknowledged: how many are lost, and whether the file is whole."""
    with SqliteLog(state) as log:
        rows, position = [], 0
        while some := log.read_after(position, 100_000):
            rows += [row.id for row in some if row.kind == "event"]
            position = some[-1].position
    wanted = {row_id("id", name) for name in acknowledged}
    whole = sqlite3.connect(state / "log.sqlite").execute("PRAGMA integrity_check").fetchone()[0]
    return {
        "events_acknowledged": len(wanted),
        "events_lost": len(wanted - set(rows)),
        "events_doubled": len(rows) - len(set(rows)),
        "log_is_whole": whole,
    }


def binary_task(client: httpx.Client) -> str:
    """A binary label of what is served."""
    tasks = client.get("/v1/info").json()["runs"]["main"]["tasks"]
    return str(next(task["name"] for task in tasks if task["kind"] == "binary"))
