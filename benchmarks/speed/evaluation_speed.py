"""How fast exact evaluation is, as ratios to a bare blocked matrix product and top-k of the same run.

What is timed is what `recsys evaluate` calls: the exact search of the retriever and the metrics of its lists.

python benchmarks/speed/evaluation_speed.py          # a minute: MovieLens-1M's size, and 4,096 users x 1,000,000 items
python benchmarks/speed/evaluation_speed.py --full   # 100,000 users x 1,000,000 items x 64, with the peak memory
python benchmarks/speed/evaluation_speed.py --device cuda
python benchmarks/speed/evaluation_speed.py --full --out docs/results/evaluation-speed.json
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.base.ragged import Ragged
from recsys.base.topk import exact_ranks
from recsys.benchmarks.harness.provenance import write_speed
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.metrics.rows import gauc
from recsys.evaluation.slices import row_slices
from recsys.evaluation.summary import ranking_metrics, retrieval_metrics
from recsys.retrieval.interests import search_exactly


def bare_topk(query: Tensor, item: Tensor, k: int, block: tuple[int, int]) -> Tensor:
    """The plain loop everybody writes: product, torch.topk, merge with the best so far; it excludes nothing."""
    out = []
    for start in range(0, len(query), block[0]):
        part = query[start : start + block[0]]
        best: Tensor | None = None
        rows: Tensor | None = None
        for first in range(0, len(item), block[1]):
            scores = part @ item[first : first + block[1]].T
            value, row = scores.topk(min(k, scores.shape[1]))
            row += first
            if best is None or rows is None:
                best, rows = value, row
                continue
            best, order = torch.cat([best, value], 1).topk(k)
            rows = torch.cat([rows, row], 1).gather(1, order)
        assert rows is not None
        out.append(rows)
    return torch.cat(out)


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The best of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_gib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ranking(users: int, items: int, width: int, k: int, device: str, repeats: int) -> dict[str, Any]:
    """One size of catalogue: ours, with and without exclusions, beside the bare loop, which has none."""
    generator = torch.Generator().manual_seed(0)
    query, item = (torch.randn(n, width, generator=generator) for n in (users, items))
    rng = np.random.default_rng(0)
    seen = Ragged.from_pairs(np.repeat(np.arange(users), 100), rng.integers(0, items, users * 100), users)
    block = (256, 8192) if device == "cpu" else (4096, 65536)
    there = query.to(device), item.to(device)
    queries, vectors = query.numpy(), item.numpy()
    bare = seconds(lambda: bare_topk(*there, k, block), repeats)
    ours = seconds(lambda: search_exactly(vectors, queries, k, device=device), repeats)
    excluding = seconds(lambda: search_exactly(vectors, queries, k, excluded=seen, device=device), repeats)
    print(
        f"{users:>7,} users x {items:>9,} items x {width:>3}, k={k}: bare {bare:7.2f} s, ours {ours:7.2f} s "
        f"(ratio {ours / bare:.2f}), without 100 seen items each {excluding:7.2f} s (ratio {excluding / bare:.2f}), "
        f"peak {peak_gib():.1f} GiB"
    )
    return {
        "users": users,
        "items": items,
        "width": width,
        "k": k,
        "bare_seconds": bare,
        "seconds": ours,
        "seconds_without_seen": excluding,
        "peak_gib": peak_gib(),
    }


def movielens(device: str) -> dict[str, float]:
    """A whole evaluation of a retriever on a catalogue of MovieLens-1M's size, after the vectors exist."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    query, item = torch.randn(6040, 128, generator=generator), torch.randn(3416, 128, generator=generator)
    seen = Ragged.from_pairs(np.repeat(np.arange(6040), 165), rng.integers(0, 3416, 6040 * 165), 6040)
    truth = Ragged.from_lists([[one] for one in rng.integers(0, 3416, 6040)])

    queries, vectors = query.numpy(), item.numpy()

    def evaluate() -> None:
        lists = search_exactly(vectors, queries, 100, excluded=seen, device=device)
        retrieval_metrics(lists, truth, num_items=3416)

    whole = seconds(evaluate, 2)
    print(f"MovieLens-1M's size, metrics at 10/50/100 with 1,000 draws: {whole:.2f} s (budget 2 s)")
    took = seconds(lambda: exact_ranks(query, item, truth, seen, device=device), 2)
    print(f"  rank of every target among the whole catalogue: {took:.2f} s")
    return {"evaluation_seconds": whole, "ranks_seconds": took}


def rows() -> dict[str, float]:
    """Row metrics of four tasks on 43,000 rows with 1,000 bootstrap draws, whole and in slices."""
    rng = np.random.default_rng(0)
    users, count = rng.integers(0, 25_000, 43_000), 43_000
    tasks = {}
    for task, (a, b) in {"click": (2, 2), "long view": (2, 4), "like": (1, 50), "profile": (1, 50)}.items():
        p = rng.beta(a, b, count)
        tasks[task] = (rng.random(count) < p).astype(float), p
    columns = {
        name: rng.integers(0, size, count)
        for name, size in {"tab": 8, "hour": 20, "history": 6, "popularity": 4, "new": 2}.items()
    }
    config = EvaluationConfig()
    label, p = tasks["click"]
    per_user = seconds(lambda: gauc(label, p, users), 3)
    print(f"GAUC of {count:,} rows, 25,000 users: {per_user * 1e3:.1f} ms")
    whole = seconds(lambda: [ranking_metrics(y, q, users, config=config) for y, q in tasks.values()])
    sliced = seconds(lambda: [row_slices(y, q, users, columns, config) for y, q in tasks.values()])
    print(
        f"{count:,} rows, 4 tasks, 5 metrics, 1,000 draws: {whole:.1f} s; their 40 slices: {sliced:.1f} s (budget 30 s)"
    )
    return {"gauc_seconds": per_user, "metrics_seconds": whole, "slices_seconds": sliced}


def main() -> None:
    """Run all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all 100,000 users of the large case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write what was measured, with its provenance")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.device}")
    sizes = [(6040, 3416, width, 3) for width in (64, 128, 256)]
    sizes.append((100_000 if options.full else 4096, 1_000_000, 64, 1))
    result = {
        "torch": torch.__version__,
        "threads": options.threads,
        "device": options.device,
        "movielens_1m": movielens(options.device),
        "ranking": [ranking(users, items, width, 100, options.device, n) for users, items, width, n in sizes],
        "rows": rows(),
    }
    if options.out:
        write_speed(options.out, "evaluation_speed", result)


if __name__ == "__main__":
    main()
