"""A log from end to end with the command line: minutes and peak memory of `train`, `build-index` and `recommend`.

The log is that of `data_build.py`; both stages train for one epoch with the defaults.

    python benchmarks/speed/whole_run.py --events 2e7
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tomli_w

from recsys.benchmarks.speed.data_build import ROOT, config_of, make_log


def settings(file: Path, folder: Path, memory: str, threads: int) -> dict[str, Any]:
    """The configuration: defaults, one epoch of each stage."""
    return {
        "name": "whole-run",
        "data": {**config_of(file, memory), "path": str(folder)},
        "retrieval": {"fit": {"epochs": 1}},
        "ranking": {"batch_size": 8192, "fit": {"epochs": 1}},
        "runtime": {"threads": threads},
    }


def timed(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Wall seconds, CPU seconds and peak memory of one command, in a process of its own; its output lies in a log."""
    with tempfile.TemporaryDirectory() as linked, (folder / f"{arguments[0]}.log").open("w") as log:
        Path(linked, "recsys").symlink_to(ROOT)
        environment = {**os.environ, "PYTHONPATH": linked}
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "recsys.cli.main", *arguments], cwd=folder, env=environment, stdout=log, stderr=log
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / 2**20,
    }
    if child.returncode:
        raise SystemExit(f"recsys {' '.join(arguments)} failed; see {folder}/{arguments[0]}.log")
    print(
        f"{arguments[0]:>12}: {found['seconds'] / 60:6.2f} min wall, {found['cpu_seconds'] / 60:6.2f} min CPU, ", end=""
    )
    print(f"peak {found['peak_gib']:.2f} GiB", flush=True)
    return found


def main() -> None:
    """Train, index, answer; print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, default=2e6, help="size of the log")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "recsys-logs", help="of log and run"
    )
    parser.add_argument("--memory", default="", help="[data] memory, such as 3GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = make_log(int(options.events), folder, unsorted=False, csv=False)
    (folder / "whole-run.toml").write_text(tomli_w.dumps(settings(file, folder, options.memory, options.threads)))
    run = folder / "whole-run"
    steps = {
        "train": ["train", str(folder / "whole-run.toml"), "--run", str(run)],
        "build-index": ["build-index", "--run", str(run)],
        "recommend": ["recommend", "--run", str(run), "--user", "1", "--json"],
    }
    found = {name: timed(arguments, folder) for name, arguments in steps.items()}
    if options.out:
        from recsys.benchmarks.harness.provenance import write_speed

        write_speed(options.out, "whole_run", {"events": int(options.events), "threads": options.threads, **found})


if __name__ == "__main__":
    main()
