"""Ten recommendations for everybody, written to Parquet: users a second and peak memory, ranker by ranker.

The embedded world with 10,000 users and 10,000 items is trained with the demo's configuration, 200 candidates and the
ten default opinions beside the towers; the rankers stand on the same towers. Each run is then answered for in a process
of its own, as `recsys recommend --all-users --out lists.parquet` does it. Memory is the process's highest; loading the
run takes most of it, two dense EASE matrices of 400 MB each among them.

A thread answers a block of users alone, so on cores that nothing else uses the users a second are the number of threads
by the users a CPU second. Both are recorded: the clock's figure hangs on what else the machine does, the other hardly.

    python benchmarks/speed/bulk_lists.py --threads 2 --out docs/results/bulk-lists.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import recsys
from recsys.benchmarks.harness.provenance import ROOT, write_speed
from recsys.data.world.simulate import SimulateConfig, simulate

KINDS = ("none", "shared_bottom", "mmoe", "ple")
"""Rankers; `none` is the towers alone, `mmoe` the demo's own with four experts, the others have their defaults."""
DEMO = "mmoe"


def settings(kind: str) -> list[str]:
    """Of a short training: what is measured does not depend on how good the weights are."""
    given = ["retrieval.num_candidates=200", "retrieval.fit.epochs=1", "ranking.fit.epochs=1"]
    return given if kind in ("none", DEMO) else [*given, f'ranking.model={{kind="{kind}"}}']


def train(world: Path, kind: str, towers: Path) -> Path:
    """A run of the world with this ranker; its towers are those of an earlier run where there is one."""
    run = world / "runs" / kind
    if run.exists():
        return run
    if kind != "none":
        shutil.copytree(towers, run)
    stage: Any = "retrieval" if kind == "none" else "ranking"
    recsys.train(config=world / "demo.toml", settings=settings(kind), run=run, stage=stage)
    return run


def measure(run: Path, threads: int) -> dict[str, float]:
    """Load, answer once, then write everybody's lists; in this process."""
    torch.set_num_threads(threads)
    recommender = recsys.load(run)
    recommender.funnel.warm_up()
    loaded = peak_megabytes()
    clock, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = recommender.write_lists(Path(folder) / "lists.parquet", k=10)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return {
        "users": report.users,
        "users_per_second": report.users / clock,
        "users_per_cpu_second": report.users / cpu,
        "loaded_mb": loaded,
        "peak_mb": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """Highest memory of this process so far, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def in_own_process(run: Path, threads: int) -> dict[str, float]:
    """`measure` in a process that has done nothing else."""
    command = [sys.executable, __file__, "--measure", str(run), "--threads", str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Parse, train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--world", type=Path, default=Path("build/bulk-world"), help="kept: a second call trains less")
    parser.add_argument("--kinds", default=",".join(KINDS), help="rankers, comma-separated; `none` is the towers alone")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many is kept")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.threads)))
        return
    if not (options.world / "world.json").exists():
        size = SimulateConfig(users=options.users, items=options.items, sessions=4 * options.users, seed=1)
        simulate(size, options.world)
        shutil.copy(ROOT / "configs" / "demo.toml", options.world / "demo.toml")
    rows = []
    towers = train(options.world, "none", Path())
    print(f"{'ranker':<14} {'users/s':>9} {'users/CPU s':>12} {'peak, MB':>9}")
    for kind in options.kinds.split(","):
        run = train(options.world, kind, towers)
        rounds = [in_own_process(run, options.threads) for _ in range(options.rounds)]
        best = {**max(rounds, key=lambda row: row["users_per_cpu_second"])}
        best["users_per_second"] = max(row["users_per_second"] for row in rounds)
        rows.append({"ranker": kind, **best})
        figures = best["users_per_second"], best["users_per_cpu_second"], best["peak_mb"]
        print(f"{kind:<14} {figures[0]:>9,.0f} {figures[1]:>12,.0f} {figures[2]:>9,.0f}")
    if options.out:
        about = {
            "threads": options.threads,
            "items": options.items,
            "candidates": 200,
            "k": 10,
            "rounds": options.rounds,
        }
        write_speed(options.out, "bulk_lists", {**about, "rows": rows})


if __name__ == "__main__":
    main()
