"""What a training step costs as the vocabularies grow: it must not depend on how many users and items there are.

N users and N items, four events each (more where that makes few, so that batches are equally large), drawn; the
default towers (`auto`: the softmax over the catalogue up to 30,000 items, drawn negatives above), the towers with
`mixed` negatives at every size, and the default ranker. Each size has a
process of its own. A step is what lies between two updates: the batch, forward, backward and the optimiser. Weights are
counted once, with their optimiser's state; `building` is the peak of memory while they are made, beside that.

    python benchmarks/speed/step_scaling.py
    python benchmarks/speed/step_scaling.py --sizes 1e4 1e5 1e6 --beside ../older/recsys --out step-scaling.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT, LEARNED, LEAST_LEARNED = 2, 2, 400_000

CHILD = """
import json, statistics, sys, time
import numpy as np
import pyarrow as pa
from recsys.configs.run import RunConfig
from recsys.data.build import build_dataset
from recsys.data.reading.tables import Origin, Span, Tables
from recsys.ranking.train import build_training, fit_ranker
from recsys.retrieval.towers.train import build_towers, fit_towers
from recsys.training.optim import Optimizer
from recsys.training.runtime import RuntimeConfig, start_runtime

size, steps, events = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
WARM = 5

class Enough(Exception):
    pass

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 2**20

marks, updates = [], []
update = Optimizer.step
def timed(self):
    started = time.process_time()
    update(self)
    marks.append((time.perf_counter(), time.process_time()))
    updates.append(marks[-1][1] - started)
    if len(marks) == WARM + steps + 1:
        raise Enough
Optimizer.step = timed

def measure(build, fit):
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak counts from here
    before, started = held(), time.process_time()
    training = build()
    built, making = time.process_time() - started, peak() - before
    marks.clear(); updates.clear()
    try:
        fit(training)
    except Enough:
        pass
    walls, cpus = (np.diff(column)[WARM:] for column in zip(*marks))
    tables = [(table.table.weight, *table.slots.values()) for table in training.optimizer.tables.values()]
    return {
        "cpu_ms": 1e3 * statistics.median(cpus),
        "wall_ms": 1e3 * statistics.median(walls),
        "optimizer_cpu_ms": 1e3 * statistics.median(updates[WARM:]),
        "building_cpu_s": built,
        "building_gib": making,
        "weights_gib": sum(part.numel() * part.element_size() for parts in tables for part in parts) / 2**30,
    }

rng = np.random.default_rng(1)
users = np.repeat(np.arange(size), events)
items = np.concatenate([rng.permutation(size) for _ in range(events)])
times = np.tile(np.arange(events), size) * 1000 + 1_600_000_000
order = np.argsort(times, kind="stable")
table = pa.table({
    "user_id": users[order], "item_id": items[order], "timestamp": times[order],
    "click": rng.integers(0, 2, len(users)), "place": rng.integers(0, 20, len(users)),
})
tables = Tables(events=table, users=None, items=None, origin={"events": Origin((Span("drawn", len(users)),))},
                fingerprint="drawn")
config = RunConfig.model_validate({
    "name": "step-scaling",
    "data": {
        "split": {"kind": "leave_last"},
        "features": [{"name": "user_id", "side": "user"}, {"name": "item_id", "side": "item"},
                     {"name": "place", "side": "context"}],
        "tasks": [{"name": "click"}],
    },
})
runtime = start_runtime(RuntimeConfig(threads=1), 1)
dataset = build_dataset(tables, config.data, 1)
mixed = config.retrieval.model_copy(update={"loss": "mixed"})
found = {}
for name, given in (("towers", config.retrieval), ("towers, mixed", mixed)):
    found[name] = measure(lambda: build_towers(dataset, given, 1), lambda t: fit_towers(t, given, runtime, 1))
found["ranker"] = measure(
    lambda: build_training(dataset, config.ranking, runtime, 1), lambda t: fit_ranker(t, config.ranking, runtime, 1)
)
print(json.dumps(found))
"""


def measure(checkout: Path, size: int, steps: int) -> dict[str, dict[str, float]]:
    """All models of one size in a fresh process of a checkout."""
    events = HELD_OUT + max(LEARNED, LEAST_LEARNED // size)  # of a user, and of an item
    with tempfile.TemporaryDirectory() as linked:
        Path(linked, "recsys").symlink_to(checkout.resolve())
        environment = {**os.environ, "PYTHONPATH": linked, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, str(size), str(steps), str(events)]
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5, 1e6], help="users, and items")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--beside", type=Path, help="an older checkout, measured in turns with this one")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"beside": options.beside} if options.beside else {})
    print(f"{'':<9}{'users, items':>13}  {'model':<15}{'step, CPU ms':>13}{'wall':>8}{'update':>8}", end="")
    print(f"{'weights, GiB':>14}{'building, GiB':>15}{'CPU s':>8}")
    records: list[dict[str, Any]] = []
    for size in map(int, options.sizes):
        for name, checkout in checkouts.items():
            for model, row in measure(checkout, size, options.steps).items():
                records.append({"checkout": name, "size": size, "model": model, **row})
                print(f"{name:<9}{size:>13,}  {model:<15}{row['cpu_ms']:>13.1f}{row['wall_ms']:>8.1f}", end="")
                print(f"{row['optimizer_cpu_ms']:>8.1f}{row['weights_gib']:>14.3f}{row['building_gib']:>15.3f}", end="")
                print(f"{row['building_cpu_s']:>8.2f}", flush=True)
    if options.out:
        from recsys.benchmarks.harness.provenance import write_speed

        write_speed(options.out, "step_scaling", {"steps": records})


if __name__ == "__main__":
    main()
