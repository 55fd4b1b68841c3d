"""Workers of a training are killed at random moments; what is published must be what it would have been.

A world is made up, a training runs undisturbed, and then again and again with the same seed: in each trial a random
one of its processes is killed (SIGKILL) a random moment after a random line of its log, and the launcher starts all of
them again. While it runs, the run folder is looked at: it must be absent or whole. At the end all weights are compared
with the undisturbed ones.

    python benchmarks/quality/killed_workers.py --trials 20 --out docs/results/killed-workers.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from recsys.artifacts.folder import open_run
from recsys.artifacts.manifest import MANIFEST
from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import ROOT, provenance
from recsys.data.world.simulate import SimulateConfig, simulate

WEIGHTS = ("retrieval/", "ranking/")


def started(world: Path, run: Path, epochs: int) -> subprocess.Popen[str]:
    """A training of the world in two processes."""
    settings = (f"retrieval.fit.epochs={epochs}", f"ranking.fit.epochs={epochs}", "runtime.threads=1")
    words = [word for key in settings for word in ("--set", key)]
    command = ["-m", "recsys.cli.main", "train", "demo.toml", "--run", str(run), "--processes", "2", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=world,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def workers(launcher: int) -> list[int]:
    """Processes that train: children of the launcher that have the library's own arguments to run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == launcher and b"spawn_main" in words:
            found.append(int(folder.name))
    return sorted(found)


def whole_or_absent(run: Path) -> bool:
    """Whether nothing half-written can be seen under the run's name; opening it verifies every file."""
    if not (run / MANIFEST).exists():
        return not run.exists()
    open_run(run)
    return True


def hashes(run: Path) -> dict[str, str]:
    """Of every file with weights."""
    opened = open_run(run)
    names = (name for name in opened.manifest.files if name.startswith(WEIGHTS) and name.endswith(".safetensors"))
    return {name: hashlib.sha256(opened.file(name).read_bytes()).hexdigest() for name in names}


def trial(world: Path, run: Path, epochs: int, lines: int, rng: random.Random) -> dict[str, Any]:
    """One training, one kill; `lines` is how many an undisturbed one logs."""
    process, said = started(world, run, epochs), list[str]()
    assert process.stderr is not None
    reader = threading.Thread(target=said.extend, args=(process.stderr,))
    reader.start()
    after, delay = rng.randrange(1, lines), rng.uniform(0, 2)
    reached, killed, watched = math.inf, False, True
    while process.poll() is None:
        watched &= whole_or_absent(run)
        if not killed and len(said) >= after:
            reached = min(reached, time.monotonic())
            alive = workers(process.pid) if time.monotonic() >= reached + delay else []
            if alive:
                os.kill(rng.choice(alive), signal.SIGKILL)
                killed = True
        time.sleep(0.05)
    reader.join()
    resumed = [line.strip() for line in said if "resumed after" in line]
    return {
        "after_lines": after,
        "of_lines": lines,
        "killed": killed,
        "code": process.returncode,
        "resumed": resumed,
        "whole_or_absent": watched and whole_or_absent(run),
    }


def main() -> None:
    """Run the trials and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=2_500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world, rng = Path(folder) / "world", random.Random(0)
        simulate(SimulateConfig(users=arguments.users, items=200, sessions=arguments.sessions, days=20, seed=1), world)
        (world / "demo.toml").write_text((ROOT / "configs" / "demo.toml").read_text())
        undisturbed = started(world, Path("runs/whole"), arguments.epochs)
        _, said = undisturbed.communicate()
        if undisturbed.returncode:
            sys.exit(said)
        lines, expected = len(said.splitlines()), hashes(world / "runs" / "whole")
        print(f"undisturbed: {lines} lines, {len(expected)} files of weights", flush=True)
        trials = []
        for number in range(arguments.trials):
            run = world / "runs" / f"trial-{number}"
            found = trial(world, run, arguments.epochs, lines, rng)
            found["same_weights"] = found["code"] == 0 and hashes(run) == expected
            trials.append(found)
            print(json.dumps(found), flush=True)
    if arguments.out:
        command = " ".join(["python", "benchmarks/quality/killed_workers.py", *sys.argv[1:]])
        result = {"benchmark": "killed_workers", "command": command, **provenance(), "trials": trials}
        write_whole(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
