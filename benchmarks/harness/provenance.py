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


def write_speed(path: Path, benchmark: str, result: Json) -> None:
    """The file of a speed benchmark: one run, with what is needed to run it again."""
    command = shlex.join(["python", f"benchmarks/speed/{benchmark}.py", *sys.argv[1:]])
    whole = {"benchmark": benchmark, "command": command, **provenance(), **result}
    write_whole(path, json.dumps(whole, indent=2) + "\n")
