"""An evaluation and a table of everybody's lists in one process and in several: seconds, CPU time, the same result.

The embedded world with the demo's ranker, one epoch each. Every process runs one thread. CPU time is that of the
busiest process, which other work on the machine hardly moves; the bound is that of one process over it, the gain of the
clock's time likewise. The results are compared, bit by bit.

    python benchmarks/speed/shared_work.py --out docs/results/shared-work.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

import recsys
from recsys.base import ranks
from recsys.benchmarks.harness.provenance import ROOT, write_speed
from recsys.data.world.simulate import SimulateConfig, simulate

SETTINGS = ("runtime.threads=1", "retrieval.fit.epochs=1", "ranking.fit.epochs=1")


def worker(rank: int, count: int, folder: Path, run: Path) -> None:
    """One of `count` processes."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{count}", rank=rank, world_size=count)
    recommender = recsys.load(run)
    recommender.funnel.warm_up()
    table = folder / f"lists-{count}.parquet"

    def evaluated() -> str:
        return json.dumps(recommender.evaluate().to_json())

    def listed() -> str:
        recommender.write_lists(table)
        return hashlib.sha256(table.read_bytes()).hexdigest()

    found: dict[str, dict[str, float | str]] = {}
    work: dict[str, Callable[[], str]] = {"evaluation": evaluated, "lists": listed}
    for name, done in work.items():
        ranks.wait()
        before = time.perf_counter(), time.process_time()
        result = done()
        found[name] = {
            "seconds": time.perf_counter() - before[0],
            "cpu_seconds": time.process_time() - before[1],
            "result": hashlib.sha256(result.encode()).hexdigest(),
        }
    (folder / f"{count}-{rank}.json").write_text(json.dumps(found))
    if count > 1:
        dist.destroy_process_group()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=8_192)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, world = Path(place), Path(place) / "world"
        sizes = SimulateConfig(users=arguments.users, items=1_000, sessions=3 * arguments.users, seed=0)
        simulate(sizes, world)
        (world / "demo.toml").write_text((ROOT / "configs" / "demo.toml").read_text())
        recsys.train(config=world / "demo.toml", settings=SETTINGS, run=folder / "run")
        same: dict[str, set[str]] = {}
        for count in arguments.processes:
            start_processes(worker, (count, folder, folder / "run"), count, join=True, start_method="spawn")
            ranked = [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]
            for name, first in ranked[0].items():
                same.setdefault(name, set()).add(first["result"])
                busiest = {key: max(one[name][key] for one in ranked) for key in ("seconds", "cpu_seconds")}
                alone = rows.setdefault(name, {}).setdefault(str(arguments.processes[0]), busiest)
                gains = {
                    "gain": alone["seconds"] / busiest["seconds"],
                    "bound": alone["cpu_seconds"] / busiest["cpu_seconds"],
                }
                rows[name][str(count)] = {**busiest, **gains}
                print(name, count, rows[name][str(count)], flush=True)
    if odd := [name for name, results in same.items() if len(results) > 1]:
        raise SystemExit(f"several processes found something else than one: {', '.join(odd)}")
    if arguments.out:
        write_speed(arguments.out, "shared_work", {"users": arguments.users, "threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
