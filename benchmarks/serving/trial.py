"""What the trials share: options, a service on a copy of a run, and the record of what was found."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import provenance
from recsys.tests.support.service_process import ServiceProcess, running


def options(about: str, seconds: float) -> argparse.ArgumentParser:
    """Options that every trial has.

    Args:
        about: the trial.
        seconds: that it takes when nothing is said.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--run", type=Path, required=True, help="run folder; a copy of it is served")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    return parser


@contextmanager
def service_on_copy(run: Path, place: Path, workers: int, *more: str) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """A service on a copy of a run, which may be changed, and a client."""
    shutil.copytree(run.resolve(), place / "runs" / "main")
    (place / "serve.toml").write_text('log_requests = "none"\ndrain_seconds = 0.2\n')
    told = ["--run", str(place / "runs" / "main"), "--workers", str(workers), "--config", str(place / "serve.toml")]
    with running(*told, *more) as both:
        yield both


def record(out: Path | None, trial: str, settings: dict[str, Any], found: dict[str, Any]) -> None:
    """Print what was found, and write it where that is wanted."""
    script = Path(sys.argv[0]).name
    whole = {
        "trial": trial,
        "command": shlex.join(["python", f"benchmarks/serving/{script}", *sys.argv[1:]]),
        **provenance(),
        "python": platform.python_version(),
        "settings": {name: str(value) for name, value in settings.items() if name not in ("out", "run")},
        "found": found,
    }
    print(json.dumps(whole, indent=1))
    if out is not None:
        write_whole(out, json.dumps(whole, indent=1) + "\n")
