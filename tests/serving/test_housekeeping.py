"""The log of a service stays small: old rows go once every version that may be served has learned from them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from recsys.artifacts.folder import open_run
from recsys.artifacts.names import LOG
from recsys.live.log import LogRow, MemoryLog, SqliteLog
from recsys.live.log.base import row_id
from recsys.serving.config import RetentionConfig
from recsys.serving.housekeeping import Housekeeping, trim
from recsys.serving.metrics import Metrics, series_of
from recsys.serving.nursery import Nursery
from recsys.serving.options import Options
from recsys.serving.publishing import Publishing
from recsys.serving.versions import Shelf
from recsys.tests.support.tiny import TinyRun

DAY = 86_400.0


def rows(count: int, days_ago: float) -> list[LogRow]:
    then = time.time() - days_ago * DAY
    return [LogRow("event", received=then, id=row_id(str(days_ago), str(number))) for number in range(count)]


@pytest.mark.parametrize(
    ("config", "known", "left"),
    [
        (RetentionConfig(), 30, 10),
        (RetentionConfig(), 12, 28),
        (RetentionConfig(), 0, 40),
        (RetentionConfig(keep_days=50.0), 30, 40),
        (RetentionConfig(trim=False), 30, 40),
        (RetentionConfig(keep_days=0.0), 40, 0),
    ],
)
def test_what_every_version_knows_and_is_old_goes(
    tmp_path: Path, config: RetentionConfig, known: int, left: int
) -> None:
    with SqliteLog(tmp_path, "process") as log:
        log.append([*rows(30, 40.0), *rows(10, 1.0)])
        metrics = Metrics(series_of((), ()))
        keeping = Housekeeping(log, config, lambda: known, metrics)
        for _ in range(2):
            keeping.beat()
        assert len(log.read_after(0, 100)) == left
        assert metrics.value("trimmed_total") == 40 - left
        log.append(rows(1, 60.0))
        keeping.beat()  # not due again for an hour
        assert len(log.read_after(0, 100)) == left + 1


def test_many_rows_go_in_many_steps() -> None:
    class Counted(MemoryLog):
        calls: list[int]

        def trim(self, position: int, received: float) -> int:
            gone = super().trim(position, received)
            self.calls.append(gone)
            return gone

    log = Counted()
    log.calls = []
    log.append(rows(95, 40.0))
    assert trim(log, 90, time.time(), step=20) == 90
    assert log.calls == [20, 20, 20, 20, 10]


def test_the_least_that_any_version_knows_decides(tiny_run: TinyRun, tmp_path: Path) -> None:
    places = {}
    for name, last in (("a", 7), ("b", 5), ("c", None)):
        places[name] = tmp_path / "runs" / name
        shutil.copytree(tiny_run.folder, places[name])
        if last is not None:
            with open_run(places[name]).add_files() as staging:
                (staging / LOG).write_text(json.dumps({"log": "ours", "last": last}))
    options = Options(runs={"main": places["a"]})
    publishing = Publishing(options, Shelf(tmp_path / "versions", False), Metrics(series_of((), ())), list, Nursery())
    kept = {name: publishing.shelf.keep(place) for name, place in places.items()}
    publishing.versions, publishing.before = {"main": kept["a"]}, {"main": None}
    assert (publishing.known("ours"), publishing.known("another")) == (7, 0)
    publishing.before = {"main": kept["b"]}
    assert publishing.known("ours") == 5
    publishing.versions |= {"other": kept["c"]}
    assert publishing.known("ours") == 0
