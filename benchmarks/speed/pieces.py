"""A table of embeddings whole in every process, and in pieces: milliseconds, bytes moved and memory of a step.

A ranker of one large vocabulary and one small one, row-wise Adagrad, batches of 4,096 rows drawn with a long tail. The
engine `local` holds the table in every process; `torchrec` holds a piece of it, by rows or by tables. Memory is what a
process holds for itself (anonymous memory, the peak of the steps): tables that lie in a file while they are whole are
not part of it. Losses of all ways are compared with those of one process.

With `--budget`, no process may take more memory than that for itself (RLIMIT_DATA): the table does not fit into one.

    python benchmarks/speed/pieces.py --out docs/results/pieces.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from recsys.base import ranks
from recsys.base.memory import bytes_of
from recsys.benchmarks.harness.provenance import write_speed
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.rows import matrices_on_disk
from recsys.training.engines.choosing import pieces_of
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import Runtime

WIDTH, BATCH, WARM_UP = 64, 4_096, 3
SMALL = 2_000
WAYS: dict[str, tuple[int, Any]] = {
    "one process": (1, Runtime(1)),
    "two, whole tables": (2, Runtime(1)),
    "two, pieces by rows": (2, Runtime(1, engine="torchrec", shard="row_wise")),
    "two, pieces by tables": (2, Runtime(1, engine="torchrec", shard="table_wise")),
}


class Model(nn.Module):
    """Two fields, one hidden layer."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = EmbeddingTable({"user": rows, "item": SMALL}, WIDTH)
        self.layers = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the table [B, 2] -> [B]."""
        found: Tensor = self.layers(self.table(rows).flatten(1))
        return found.squeeze(1)


def own_memory() -> int:
    """Bytes that this process holds for itself alone."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measured(runtime: Runtime, rows: int, steps: int, folder: Path) -> dict[str, Any]:
    """One way, in this process and those beside it."""
    begun = own_memory()
    torch.manual_seed(0)
    with matrices_on_disk(folder):
        model = Model(rows)
        optimizer = Optimizer(model, OptimConfig(lr=0.05, table_optimizer="rowwise_adagrad"), WARM_UP + steps)
    if runtime.engine == "local":  # which holds its tables in memory
        model.table.weight.data = model.table.weight.data.clone()
    draw = torch.Generator().manual_seed(1)
    walls, losses, cpu, sent, peak = [], [], 0.0, 0, 0
    with pieces_of(optimizer, runtime):
        for step in range(WARM_UP + steps):
            users = (torch.rand(BATCH, generator=draw).pow(4) * (rows - 2)).long() + 2
            items = torch.randint(2, SMALL, (BATCH,), generator=draw)
            label = ((users + items) % 2).float()
            own = ranks.share(torch.arange(BATCH))
            before = time.perf_counter(), time.process_time(), ranks.sent
            apart = nn.functional.binary_cross_entropy_with_logits(
                model(torch.stack([users, items + rows], 1)[own]), label[own], reduction="sum"
            )
            loss = ranks.whole_mean(apart, torch.tensor(float(len(own))))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            peak = max(peak, own_memory())
            if step >= WARM_UP:
                walls.append(time.perf_counter() - before[0])
                cpu += time.process_time() - before[1]
                sent += ranks.sent - before[2]
    return {
        "wall_ms": 1_000 * statistics.median(walls),
        "cpu_ms": 1_000 * cpu / steps,
        "bytes": sent / steps,
        "memory": peak,
        "of_it_before": begun,
        "losses": losses,
    }


def worker(rank: int, count: int, folder: Path, way: str, arguments: argparse.Namespace) -> None:
    """One of `count` processes."""
    torch.set_num_threads(1)
    if WAYS[way][1].engine == "torchrec":
        import recsys.training.engines.torchrec  # noqa: F401 - its libraries are no part of a budget for tables
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{way}", rank=rank, world_size=count)
    if arguments.budget:
        size = bytes_of(arguments.budget)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    os.environ["LOCAL_WORLD_SIZE"] = str(count)
    found = measured(WAYS[way][1], arguments.rows, arguments.steps, folder)
    (folder / f"{way}-{rank}.json").write_text(json.dumps(found))
    if count > 1:
        dist.destroy_process_group()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--budget", default="", help="memory of a process for itself, such as 1.2GB")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="on a disk with room for the tables; the system's by default")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    first: list[float] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        for way in arguments.ways:
            count = WAYS[way][0]
            try:
                start_processes(worker, (count, Path(place), way, arguments), count, join=True, start_method="spawn")
            except ProcessRaisedException as error:
                said = str(error).strip().splitlines()[-1]
                rows[way] = {"failed": said}
                print(f"{way:24} {said}")
                continue
            ranked = [json.loads((Path(place) / f"{way}-{rank}.json").read_text()) for rank in range(count)]
            one = max(ranked, key=lambda each: float(each["cpu_ms"]))
            one["memory"] = max(each["memory"] for each in ranked)
            losses = one.pop("losses")
            first = first or losses
            one["loss_apart"] = max(abs(a - b) for a, b in zip(losses, first, strict=True))
            rows[way] = one
            print(
                f"{way:24} {one['wall_ms']:7.1f} ms a step, {one['cpu_ms']:7.1f} ms of CPU, "
                f"{one['bytes'] / 1e6:6.2f} MB sent, "
                f"{one['memory'] / 1e9:5.2f} GB a process, losses {one['loss_apart']:.1e} apart"
            )
    if arguments.out:
        table = arguments.rows * (WIDTH + 1) * 4
        asked = {"rows": arguments.rows, "width": WIDTH, "batch": BATCH, "budget": arguments.budget, "bytes": table}
        write_speed(arguments.out, "pieces", {"asked": asked, "ways": rows})


if __name__ == "__main__":
    main()
