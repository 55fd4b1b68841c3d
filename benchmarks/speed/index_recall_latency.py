"""Candidate index: recall, latency, cost over the bare FAISS call, filters, exclusions and updates, in one run.

    python benchmarks/speed/index_recall_latency.py --n 1000000 --dim 64 --threads 1 --out docs/results/index-1m.json

Every figure is given for three kinds of vectors (`--data`, see `index_vectors`): clusters, a smooth distribution, and
the vectors of a trained tower asked by its real users. Recall is measured on queries that neither the build nor its
tuning saw. Latencies are medians of single queries by the clock, each in turn with the bare FAISS call on the same
query; whole batches are compared by CPU time. Both are measured in a new process that loads the index from disk and
does nothing else; the same figures inside the process that built it stand beside them. `build` is training and adding;
tuning and checking against exact search come on top. How busy the machine was stands in the file (`load_average`):
medians and CPU times bear company, the 99th percentile does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from recsys.benchmarks.harness.provenance import write_speed
from recsys.benchmarks.speed.index_vectors import KINDS, make_vectors
from recsys.retrieval.index import Bitmap, ExactIndex, FaissIndex, load_index
from recsys.retrieval.index.bench import recall_of
from recsys.retrieval.index.tuning import build_index

WANTED = (
    ("recall@k on new queries", "fresh_recall", 0.98, "at least"),
    ("median of a query, ms", "p50_ms", 0.3, "at most"),
    ("our search / bare FAISS, one query", "single_ratio", 1.15, "at most"),
    ("our search / bare FAISS, batch", "batch_ratio", 1.15, "at most"),
    ("build, s", "build_seconds", 60.0, "at most"),
    ("folder, MB", "folder_mb", 110.0, "at most"),
    ("upsert of 1,000 items, ms", "upsert_1000_ms", 50.0, "at most"),
)
"""What an index of a million items should do; smaller ones are held to it as well."""
FILTERS = (("random", 0.5), ("random", 0.1), ("random", 0.01), ("random", 0.001), ("region", 0.1))
"""Share of the items allowed: drawn at random, or those furthest in one direction of space."""


def main() -> None:
    """Run the parts that were asked for, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--queries", type=int, default=512, help="to tune with, and as many others to measure with")
    parser.add_argument("--data", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--factory", action="append", help="repeat for several; default: auto")
    parser.add_argument("--target-recall", type=float, default=0.98)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cold", type=Path, help=argparse.SUPPRESS)  # this script again, in a new process
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    if options.cold:
        print(json.dumps(serve(options.cold, options.k)))
        return
    results: list[dict[str, Any]] = []
    document = {
        "n": options.n,
        "dim": options.dim,
        "k": options.k,
        "threads": options.threads,
        "seed": options.seed,
        "faiss": faiss.__version__,
        "load_average": os.getloadavg()[0],
        "indexes": results,
    }
    for kind in options.data:
        rng = np.random.default_rng(options.seed)
        vectors, queries = make_vectors(kind, options.n, options.dim, 2 * options.queries, rng)
        for factory in options.factory or ["auto"]:
            results.append(measure(kind, factory, vectors, queries, options, rng))
            show(results[-1])
            if options.out:  # after every index: hours of measuring should survive the last of them failing
                write_speed(options.out, "index_recall_latency", document)


def measure(
    kind: str,
    factory: str,
    vectors: np.ndarray,
    queries: np.ndarray,
    options: argparse.Namespace,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Build one index, with the first half of the queries to tune it, and measure it with the other half."""
    tuning, asked = np.split(queries, 2)
    k, spent = options.k, time.process_time()
    whole, (index, report) = timed(
        lambda: build_index(vectors, tuning, factory, options.target_recall, k, check_queries=len(tuning))
    )
    if not isinstance(index, FaissIndex):
        raise SystemExit(f"{len(vectors):,} items are searched exactly, nothing is approximate; raise --n")
    result: dict[str, Any] = {"data": kind, "report": report.to_json(), "build_and_check_seconds": whole}
    result["build_and_check_cpu_seconds"] = time.process_time() - spent
    result["build_seconds"] = report.build_seconds
    result |= fresh_recall(index, vectors, asked, k) | storage(index, asked, options)
    result["same_process"] = overhead(index, asked, k)
    result["filtered"] = filtered(index, vectors, asked[:200], k, rng)
    result["excluded"] = excluded(index, vectors, asked[:200], k, rng)
    result["updates"] = updates(index, vectors, asked[:200], k, rng)
    measured = result | result["cold"] | result["updates"]
    result["wanted"] = [
        {
            "what": what,
            "wanted": f"{sense} {limit:g}",
            "measured": measured[key],
            "met": measured[key] >= limit if sense == "at least" else measured[key] <= limit,
        }
        for what, key, limit, sense in WANTED
    ]
    return result


def fresh_recall(index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int) -> dict[str, Any]:
    """Recall on queries that the build never saw."""
    truth = ExactIndex(vectors).search(queries, k).scores
    return {"fresh_recall": recall_of(*found_and_scores(index.search(queries, k).rows, vectors, queries), truth)}


def storage(index: FaissIndex, queries: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Size on disk, time to save, and what a new process that loads the folder measures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved, _ = timed(lambda: index.save(folder / "index"))
        size = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
        np.save(folder / "queries.npy", queries)
        command = [sys.executable, __file__, "--cold", name, "--k", str(options.k), "--threads", str(options.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {"folder_mb": size / 1e6, "save_seconds": saved, "cold": json.loads(done.stdout)}


def serve(folder: Path, k: int) -> dict[str, float]:
    """In a process of its own: seconds to load, the very first query, then the medians."""
    queries = np.load(folder / "queries.npy")
    loading, index = timed(lambda: load_index(folder / "index"))
    first, _ = timed(lambda: index.search(queries[:1], k))
    assert isinstance(index, FaissIndex)  # what was saved
    return {"load_seconds": loading, "first_query_ms": 1e3 * first, **overhead(index, queries, k)}


def overhead(index: FaissIndex, queries: np.ndarray, k: int, rounds: int = 5) -> dict[str, float]:
    """Our `search` against the bare FAISS call with the same parameters, taken in turns."""
    bare, ours = index.raw, index
    single: dict[str, list[float]] = {"bare": [], "ours": []}
    cpu: dict[str, list[float]] = {"bare": [], "ours": []}
    batch: dict[str, list[float]] = {"bare": [], "ours": []}
    for turn in range(rounds):
        for at in range(len(queries)):
            query = queries[at : at + 1]
            calls = [("bare", lambda q=query: bare.search(q, k)), ("ours", lambda q=query: ours.search(q, k))]
            for name, call in calls if (at + turn) % 2 else reversed(calls):  # the second finds the cache warm
                spent = time.process_time()
                single[name].append(timed(call)[0])
                cpu[name].append(time.process_time() - spent)
        for name, search in (("bare", bare.search), ("ours", ours.search)):
            started = time.process_time()
            search(queries, k)
            batch[name].append(time.process_time() - started)
    figures = {
        "bare_p50_ms": 1e3 * float(np.median(single["bare"])),
        "p50_ms": 1e3 * float(np.median(single["ours"])),
        "p99_ms": 1e3 * float(np.percentile(single["ours"], 99)),
        "bare_p50_cpu_ms": 1e3 * float(np.median(cpu["bare"])),
        "p50_cpu_ms": 1e3 * float(np.median(cpu["ours"])),
        "bare_per_cpu_second": len(queries) / float(np.median(batch["bare"])),
        "per_cpu_second": len(queries) / float(np.median(batch["ours"])),
    }
    figures["single_cpu_ratio"] = figures["p50_cpu_ms"] / figures["bare_p50_cpu_ms"]
    figures["single_ratio"] = figures["p50_ms"] / figures["bare_p50_ms"]
    figures["batch_ratio"] = figures["bare_per_cpu_second"] / figures["per_cpu_second"]
    return figures


def filtered(
    index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Filters of several widths, random and of one direction in space, beside FAISS with a bare selector."""
    exact = ExactIndex(vectors)
    along = vectors @ vectors[0]
    rows = []
    for name, share in FILTERS:
        keep = rng.random(len(vectors)) < share if name == "random" else along > np.quantile(along, 1 - share)
        allowed = Bitmap.from_mask(keep)
        copies = [Bitmap(allowed.bits.copy(), allowed.size) for _ in queries[:20]]
        work = [partial(index.search, query[None], k, copy) for query, copy in zip(queries, copies, strict=False)]
        first = [timed(call)[0] for call in work]
        again = [timed(partial(index.search, query[None], k, allowed))[0] for query in queries]
        batch, found = timed(partial(index.search, queries, k, allowed))
        wanted = min(k, allowed.count)
        truth = exact.search(queries, k, allowed).scores[:, :wanted]
        selected = index.probe(queries, k, allowed, index.plan.effort).rows
        rows.append(
            {
                "filter": f"{name} {share:.1%}",
                "recall": recall_of(*found_and_scores(found.rows[:, :wanted], vectors, queries), truth),
                "short": int(((found.rows >= 0).sum(axis=1) < wanted).sum()),
                "disallowed": int((~keep[found.rows[found.rows >= 0]]).sum()),
                "new_filter_p50_ms": 1e3 * float(np.median(first)),
                "p50_ms": 1e3 * float(np.median(again)),
                "batch_per_second": len(queries) / batch,
                "selector_only_recall": recall_of(*found_and_scores(selected[:, :wanted], vectors, queries), truth),
                "selector_only_short": int(((selected >= 0).sum(axis=1) < wanted).sum()),
            }
        )
    return rows


def excluded(
    index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Histories of several lengths, half of each among the best items of its user."""
    exact = ExactIndex(vectors)
    rows = []
    for length in (20, 100, 500, 2000):
        best = exact.search(queries, min(length // 2, index.size)).rows
        seen = [np.concatenate([line, rng.integers(0, index.num_rows, length // 2)]) for line in best]
        single = [
            timed(partial(index.search, query[None], k, excluded=[line]))[0]
            for query, line in zip(queries, seen, strict=True)
        ]
        batch, found = timed(partial(index.search, queries, k, excluded=seen))
        truth = exact.search(queries, k, excluded=seen).scores
        rows.append(
            {
                "seen": length,
                "recall": recall_of(*found_and_scores(found.rows, vectors, queries), truth),
                "shown_again": sum(int(np.isin(f, s).sum()) for f, s in zip(found.rows, seen, strict=True)),
                "short": int((found.rows < 0).any(axis=1).sum()),
                "p50_ms": 1e3 * float(np.median(single)),
                "batch_per_second": len(queries) / batch,
            }
        )
    return rows


def updates(
    index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int, rng: np.random.Generator
) -> dict[str, float]:
    """A thousand items replaced, added, deleted; what the tombstones cost a search; and the compaction."""

    def p50() -> float:
        return 1e3 * float(np.median([timed(partial(index.search, query[None], k))[0] for query in queries]))

    before = p50()
    rounds: list[float] = []
    cpu: list[float] = []
    for _ in range(5):
        rows = rng.choice(len(vectors), 1000, replace=False)
        spent = time.process_time()
        rounds.append(timed(partial(index.upsert, rows, vectors[rng.permutation(rows)]))[0])
        cpu.append(time.process_time() - spent)
    n = index.num_rows
    appended = timed(lambda: index.upsert(np.arange(n, n + 1000), vectors[:1000]))[0]
    deleted = timed(lambda: index.delete(np.arange(n, n + 1000)))[0]
    index.search(queries[:1], k)
    after = p50()
    figures = {
        "first_upsert_1000_ms": 1e3 * rounds[0],
        "upsert_1000_ms": 1e3 * float(np.median(rounds)),
        "upsert_1000_cpu_ms": 1e3 * float(np.median(cpu)),
        "append_1000_ms": 1e3 * appended,
        "delete_1000_ms": 1e3 * deleted,
        "p50_ms_before": before,
        "p50_ms_with_tombstones": after,
    }
    if index.family.kind != "hnsw" or index.size <= 200_000:
        figures["compact_seconds"] = timed(index.compact)[0]
    return figures


def found_and_scores(rows: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The found rows and their exact scores, as `recall_of` takes them."""
    return rows, np.stack([vectors[line] @ query for line, query in zip(rows, queries, strict=True)])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def show(result: dict[str, Any]) -> None:
    """Print one index as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    console.print(f"\n[bold]{result['data']}: {result['report']['factory']}, {result['report']['size']:,} items[/bold]")
    flat = {key: value for key, value in result["report"].items() if not isinstance(value, list)}
    single = {key: value for key, value in result.items() if isinstance(value, float | int)}
    for title, rows in [
        ("build", [{"figure": key, "value": value} for key, value in (flat | single).items()]),
        ("recall-latency curve", result["report"]["curve"]),
        ("tuned for filters", result["report"]["filtered"]),
        ("in a new process", [result["cold"]]),
        ("in the process that built it", [result["same_process"]]),
        ("filtered", result["filtered"]),
        ("excluded", result["excluded"]),
        ("updates", [result["updates"]]),
        ("wanted", result["wanted"]),
    ]:
        if not rows:
            continue
        table = Table(*rows[0], title=title, title_justify="left")
        for row in rows:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
