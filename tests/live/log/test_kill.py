"""Processes that are killed while they append: what was answered is in the log once, and the log stays whole."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from recsys.live.log import SqliteLog
from recsys.live.log.base import row_id

KILLS, WRITERS = 12, 3
WRITER = """
import sys
from pathlib import Path
from recsys.live.log import LogRow, SqliteLog
from recsys.live.log.base import row_id

log, who = SqliteLog(Path(sys.argv[1]), "process"), sys.argv[2]
for batch in range(1_000_000):
    names = [f"{who}-{batch}-{n}" for n in range(7)]
    positions = log.append([LogRow("event", name.encode(), id=row_id(name)) for name in names])
    print(batch, *positions, flush=True)
"""


def test_what_was_answered_is_there_once_after_every_kill(tmp_path: Path) -> None:
    rng, answered = random.Random(4), {}
    state = tmp_path / "state"
    SqliteLog(state).close()

    def start(place: int) -> tuple[str, subprocess.Popen[str]]:
        who = f"w{place}"
        command = [sys.executable, "-c", WRITER, str(state), who]
        return who, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def told(who: str, line: str) -> None:
        batch, *positions = line.split()
        answered.update({f"{who}-{batch}-{n}": int(position) for n, position in enumerate(positions)})

    running = [start(place) for place in range(WRITERS)]
    for kill in range(WRITERS, WRITERS + KILLS):
        who, process = running.pop(rng.randrange(WRITERS))
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 30)):
            told(who, process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.communicate()[0].splitlines(keepends=True):
            if line.endswith("\n"):
                told(who, line)
        running.append(start(kill))
    for who, process in running:
        process.kill()
        for line in process.communicate()[0].splitlines(keepends=True):
            if line.endswith("\n"):
                told(who, line)
    with SqliteLog(state) as log:
        rows = log.read_after(0, 10_000_000)
        assert len(answered) > KILLS * 7
        kept = {row.body.decode(): row.position for row in rows}
        assert len(kept) == len(rows)
        assert {name: kept[name] for name in answered} == answered
        batches = [name.rsplit("-", 1)[0] for name in kept]
        assert all(batches.count(batch) == 7 for batch in set(batches[-70:]))
        assert log.append([rows[0]]) == [0]
        assert rows[0].id == row_id(rows[0].body.decode())
    assert sqlite3.connect(state / "log.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
