"""Steps of both stages in one process and in several: milliseconds, CPU time, bytes moved, and what bounds the gain.

The embedded world, its towers (full softmax) and its ranker (MMoE with `select`). Every process runs one thread. Wall
time is the median of the steps; CPU time is that of the busiest process, which other work on the machine hardly moves.
The bound is what N processes would gain if nothing waited: CPU time of a step alone over that of the busiest of N.

    python benchmarks/speed/processes.py --items 5000 --out docs/results/processes.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from recsys.base import ranks
from recsys.base.device import CPU
from recsys.benchmarks.harness.provenance import ROOT, write_speed
from recsys.configs.run import RunConfig, load_config
from recsys.data.dataset import Dataset
from recsys.data.reading.tables import BadRows
from recsys.data.split import Part
from recsys.data.world.simulate import SimulateConfig, simulate
from recsys.pipeline.encoded import encode
from recsys.ranking.step import RankingStep
from recsys.ranking.train import build_training
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import build_towers
from recsys.retrieval.towers.windows import WindowLoader
from recsys.training.runtime import Runtime

WARM_UP, STEPS = 5, 40
SIZES = {"towers": (3_200, 12_800), "ranker": (1_024, 8_192)}
"""Padded events, or logged rows, of a step."""


def prepared(world: Path) -> tuple[Dataset, RunConfig]:
    """The world's data set and configuration."""
    config = load_config(world / "demo.toml", ["runtime.threads=1"])
    return encode(config, world, BadRows("error")), config


def stage(name: str, size: int, dataset: Dataset, config: RunConfig) -> tuple[Any, Any, Any]:
    """Loader, step and optimiser of a stage; batches of `size`."""
    if name == "towers":
        section = config.retrieval
        towers = build_towers(dataset, section, 0)
        loader = WindowLoader(towers.data, Part.VALID, size, 0)  # a training takes smaller batches of so small a world
        return loader, RetrievalStep(towers.model, towers.data, section, 0, False), towers.optimizer
    ranking = config.ranking.model_copy(update={"batch_size": size})
    one = build_training(dataset, ranking, Runtime(1), 0)
    step = RankingStep(one.model, one.ranker, one.balance, ranking.loss, ranking.select, None, one.optimizer, 0)
    return one.loader, step, one.optimizer


def measured(world: Path) -> dict[str, dict[str, float]]:
    """Every stage and size in this world of processes."""
    dataset, config = prepared(world)
    found = {}
    for name, sizes in SIZES.items():
        for size in sizes:
            loader, step, optimizer = stage(name, size, dataset, config)
            optimizer.to(CPU)
            walls, cpu, moved, done = [], 0.0, 0, 0
            while done < WARM_UP + STEPS:
                for loaded in loader:
                    before = time.perf_counter(), time.process_time(), ranks.sent
                    terms = step(step.prepare(loaded))
                    getattr(step, "backward", _plain)(terms)
                    optimizer.step()
                    optimizer.zero_grad()
                    done += 1
                    if WARM_UP < done <= WARM_UP + STEPS:
                        walls.append(time.perf_counter() - before[0])
                        cpu += time.process_time() - before[1]
                        moved += ranks.sent - before[2]
            found[f"{name} {size}"] = {
                "wall_ms": 1_000 * statistics.median(walls),
                "cpu_ms": 1_000 * cpu / STEPS,
                "bytes": moved / STEPS,
            }
    return found


def _plain(terms: dict[str, torch.Tensor]) -> None:
    terms["loss"].backward()


def worker(rank: int, count: int, folder: Path, world: Path) -> None:
    """One of `count` processes."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{count}", rank=rank, world_size=count)
    (folder / f"{count}-{rank}.json").write_text(json.dumps(measured(world)))
    if count > 1:
        dist.destroy_process_group()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, world = Path(place), Path(place) / "world"
        simulate(
            SimulateConfig(users=arguments.users, items=arguments.items, sessions=6 * arguments.users, seed=0), world
        )
        (world / "demo.toml").write_text((ROOT / "configs" / "demo.toml").read_text())
        for count in arguments.processes:
            start_processes(worker, (count, folder, world), count, join=True, start_method="spawn")
            ranked = [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]
            for name in ranked[0]:
                busiest = max(ranked, key=lambda one: float(one[name]["cpu_ms"]))
                rows.setdefault(name, {})[str(count)] = busiest[name]
    for name, by_count in rows.items():
        alone = by_count[str(arguments.processes[0])]
        for count, one in by_count.items():
            one["bound"] = alone["cpu_ms"] / one["cpu_ms"]
            one["speed_up"] = alone["wall_ms"] / one["wall_ms"]
            print(
                f"{name:14} {count} processes: {one['wall_ms']:7.2f} ms a step, {one['cpu_ms']:7.2f} ms of CPU, "
                f"{one['bytes'] / 1e6:6.2f} MB sent, gain {one['speed_up']:.2f}, bound {one['bound']:.2f}"
            )
    if arguments.out:
        write_speed(arguments.out, "processes", {"rows": rows})


if __name__ == "__main__":
    main()
