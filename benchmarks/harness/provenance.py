"""Where a figure comes from: the commit, the machine, the day, and the command that measures it again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.base.files import write_whole
from recsys.base.machine import machine_class

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
Json = dict[str, Any]


def provenance() -> dict[str, str]:
    """Commit, machine and day of a run that happens now."""
    return {"commit": _commit(), "machine": machine_class(), "date": datetime.now(UTC).date().isoformat()}


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def write_speed(path: Path, benchmark: str, result: Json, series: str = "") -> None:
    """The file of a speed benchmark: one run, with what is needed to run it again.

    Args:
        path: where it is written.
        benchmark: name of the script.
        result: its figures.
        series: key of a list that grows: what the file already has there stays, and so do the commands that made it.
            Machine, commit and day are those of this run; a series is meant to be made in one sitting.
    """
    command = shlex.join(["python", f"benchmarks/speed/{benchmark}.py", *sys.argv[1:]])
    if series and path.exists():
        before = json.loads(path.read_text())
        command, result = f"{before['command']}\n{command}", {**result, series: [*before[series], *result[series]]}
    whole = {"benchmark": benchmark, "command": command, **provenance(), **result}
    write_whole(path, json.dumps(whole, indent=2) + "\n")
