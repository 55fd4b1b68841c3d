"""What the trials of the service tell, and how they see what became of it."""

from __future__ import annotations

import threading
from pathlib import Path

import recsys
from recsys.benchmarks.serving.telling import BATCH, Telling, binary_task, kept
from recsys.live.answering import Answering
from recsys.live.log import LogRow, SqliteLog
from recsys.live.log.base import row_id
from recsys.live.overlay import overlay_of
from recsys.live.teller import Teller
from recsys.serving.config import ServeConfig
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.runs import Runs
from recsys.serving.service import Service
from recsys.tests.support.served import serving
from recsys.tests.support.tiny import TinyRun


def test_what_is_told_is_acknowledged_and_found_again(tiny_run: TinyRun, tmp_path: Path) -> None:
    shop = recsys.load(tiny_run.folder)
    with SqliteLog(tmp_path, "process") as log:
        overlay = overlay_of(shop.funnel, log)
        runs = Runs({"main": Answering(overlay.funnel, "main", "v", overlay=overlay)})
        service = Service(runs, ServeConfig(), Metrics(series_of((), ["main"])))
        service.teller = Teller(log, shop.trained.dataset)
        with serving(service) as client:
            stop, told = threading.Event(), threading.Event()

            class Watched(Telling):
                def _change_item(self) -> None:
                    super()._change_item()
                    told.set()

            telling = Watched(str(client.base_url), binary_task(client), stop, 1000.0, 20.0)
            telling.start()
            assert told.wait(60)
            stop.set()
            telling.join()
    assert telling.failures == []
    assert telling.statuses["PUT items 200"] >= 1
    found = kept(tmp_path, telling.acknowledged)
    assert found["events_acknowledged"] >= BATCH
    assert (found["events_lost"], found["events_doubled"], found["log_is_whole"]) == (0, 0, "ok")


def test_a_lost_event_is_seen(tmp_path: Path) -> None:
    with SqliteLog(tmp_path) as log:
        log.append([LogRow("event", id=row_id("id", name)) for name in ("a", "b")])
    found = kept(tmp_path, ["a", "b", "c"])
    assert (found["events_acknowledged"], found["events_lost"]) == (3, 1)
