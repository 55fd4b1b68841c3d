"""One training step of large embedding tables: lookup, gradient, update, beside FBGEMM's and beside plain torch.

20 tables of a million rows, 16 wide, a batch of 4,096 rows with one lookup in each, skewed ids, row-wise Adagrad:

- the library: `EmbeddingTable` and `TableOptimizer`, with row-wise Adagrad and with Adam;
- plain torch: `F.embedding(sparse=True)`, `unique`, `index_add_`, `index_copy_`, the same arithmetic in a dozen lines;
- FBGEMM's table-batched embeddings, with the update in the backward pass, where `fbgemm_gpu` is installed.

Library and plain torch must end with the same weights, bit for bit, before anything is timed; FBGEMM with nearly
equal ones. They are timed in turn. The ratio to FBGEMM is of CPU seconds, which other processes disturb least.

    pip install fbgemm-gpu-cpu==1.8.0      # for torch 2.13; left out where absent
    python benchmarks/speed/table_step.py --threads 1 --out docs/results/table-step.json
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.benchmarks.harness.provenance import write_speed
from recsys.nn.embedding import EmbeddingTable
from recsys.training.runtime import RuntimeConfig, start_runtime
from recsys.training.sparse import TableKind, TableOptimizer

LR, EPS = 0.01, 1e-8
ROWWISE, FBGEMM = "library, row-wise Adagrad", "FBGEMM, row-wise Adagrad"
Step = Callable[[Tensor, Tensor], None]
"""Ids int64 [B, T] within each table, gradients [B, T, K]."""


class Library:
    """The library's table and optimiser."""

    def __init__(self, tables: int, rows: int, dim: int, kind: TableKind) -> None:
        names = [str(table) for table in range(tables)]
        self.table = EmbeddingTable(dict.fromkeys(names, rows), dim)
        self.offsets = self.table.offsets_of(names)
        self.optimizer = TableOptimizer(self.table, kind, (0.9, 0.999), EPS, weight_decay=0.0)

    def __call__(self, ids: Tensor, answer: Tensor) -> None:
        """One step."""
        self.table(ids + self.offsets).backward(answer)
        found = self.optimizer.gradient()
        assert found is not None
        self.optimizer.update(found, LR)
        self.table.weight.grad = None


class Plain:
    """What one writes by hand, from the library's weights."""

    def __init__(self, library: Library) -> None:
        self.weight = library.table.weight.detach().clone().requires_grad_()
        self.square = torch.zeros(len(self.weight))
        self.offsets = library.offsets

    def __call__(self, ids: Tensor, answer: Tensor) -> None:
        """One step."""
        F.embedding(ids + self.offsets, self.weight, sparse=True).backward(answer)
        with torch.no_grad():
            grad, self.weight.grad = self.weight.grad, None
            assert grad is not None
            rows, place = grad._indices()[0].unique(return_inverse=True)
            sums = torch.zeros(len(rows), grad.shape[1]).index_add_(0, place, grad._values())
            square = self.square[rows] + sums.square().mean(1)
            self.square[rows] = square
            moved = self.weight.index_select(0, rows).addcdiv_(sums, square.sqrt().add_(EPS).unsqueeze(1), value=-LR)
            self.weight.index_copy_(0, rows, moved)


class Fbgemm:
    """FBGEMM's tables, from the library's weights."""

    def __init__(self, tables: int, rows: int, dim: int, library: Library) -> None:
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            OptimType,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        self.module = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)] * tables,
            optimizer=OptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LR,
            eps=EPS,
        )
        for own, weights in enumerate(self.module.split_embedding_weights()):
            weights.copy_(library.table.rows_of(str(own)).detach())

    def __call__(self, ids: Tensor, answer: Tensor) -> None:
        """One step."""
        bags = torch.arange(ids.numel() + 1)
        self.module(ids.t().reshape(-1), bags).backward(answer.flatten(1))

    def weight(self) -> Tensor:
        """All tables below one another."""
        return torch.cat([weights.detach() for weights in self.module.split_embedding_weights()])


def agree(library: Library, plain: Plain, fbgemm: Fbgemm | None, batches: list[Tensor], answer: Tensor) -> None:
    """Two steps of each, and the weights they end with.

    Raises:
        SystemExit: they differ.
    """
    steps: list[Step] = [library, plain, *([] if fbgemm is None else [fbgemm])]
    for step in steps:
        for ids in batches[:2]:
            step(ids, answer)
    if not torch.equal(library.table.weight, plain.weight):
        raise SystemExit("the library and plain torch end with different weights")
    if fbgemm is not None and not torch.allclose(library.table.weight, fbgemm.weight(), rtol=1e-4, atol=1e-6):
        raise SystemExit("the library and FBGEMM end with different weights")


def measure(steps: dict[str, Step], batches: list[Tensor], answer: Tensor, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds a step, in turn."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(repeats):
        for name, step in steps.items():
            step(batches[(turn + 1) % len(batches)], answer)  # its own tables back in the caches, as in a training
            wall, cpu = time.perf_counter(), time.process_time()
            step(batches[turn % len(batches)], answer)
            spent[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    found = {}
    for name, times in spent.items():
        walls, cpus = zip(*times, strict=True)
        found[name] = {"wall_ms": statistics.median(walls), "cpu_ms": statistics.median(cpus), "least_ms": min(cpus)}
    return found


def main() -> None:
    """Parse, check, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--tables", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--adam", action="store_true", help="also the library's Adam, which keeps twice the weights")
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runtime = start_runtime(RuntimeConfig(threads=options.threads), options.seed)
    shape = options.tables, options.rows, options.dim
    library = Library(*shape, "rowwise_adagrad")
    plain = Plain(library)
    fbgemm: Fbgemm | None = None
    if importlib.util.find_spec("fbgemm_gpu") is None:
        print("FBGEMM is left out: the module fbgemm_gpu is not installed (pip install fbgemm-gpu-cpu)")
    else:
        fbgemm = Fbgemm(*shape, library)
    generator = torch.Generator().manual_seed(options.seed)
    size = options.batch_size, options.tables
    batches = [
        1 + (torch.rand(size, generator=generator) ** 3 * (options.rows - 1)).long() for _ in range(8)
    ]  # row 0 pads
    answer = torch.randn(*size, options.dim, generator=generator)
    agree(library, plain, fbgemm, batches, answer)
    steps: dict[str, Step] = {ROWWISE: library, "plain torch, row-wise Adagrad": plain}
    if fbgemm is not None:
        steps[FBGEMM] = fbgemm
    if options.adam:
        steps["library, Adam"] = Library(*shape, "adam")
    found = measure(steps, batches, answer, options.repeats)
    print(f"{options.tables} tables of {options.rows:,} x {options.dim}, batch {options.batch_size:,}")
    print(f"{'milliseconds a step':<32} {'wall':>8} {'CPU':>8} {'least CPU':>10}")
    for name, times in found.items():
        print(f"{name:<32} {times['wall_ms']:>8.1f} {times['cpu_ms']:>8.1f} {times['least_ms']:>10.1f}")
    base = found[ROWWISE]["cpu_ms"]
    ratios = {name: base / times["cpu_ms"] for name, times in found.items() if name != ROWWISE}
    for name, ratio in ratios.items():
        print(f"{ROWWISE} / {name}: {ratio:.2f}")
    if options.out:
        write_speed(options.out, "table_step", {"threads": runtime.threads, "steps": found, "ratios": ratios})


if __name__ == "__main__":
    main()
