"""Candidate index: recall, latency, cost over the bare FAISS call, filters, exclusions and updates, in one run.

    python benchmarks/index_recall_latency.py --n 1000000 --dim 64 --out index.json

Two kinds of vectors: `clusters` (points around random centres, the usual and flattering test of a clustered index) and
`smooth` (a decaying spectrum without clusters, the hard case; trained embeddings lie between the two).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from recsys.retrieval.index import Bitmap, ExactIndex, FaissIndex, load_index
from recsys.retrieval.index_tuning import build_index, recall_of


def main() -> None:
    """Run the parts that were asked for, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--data", choices=["clusters", "smooth"], default="clusters")
    parser.add_argument("--factory", action="append", help="repeat for several; default: auto")
    parser.add_argument("--target-recall", type=float, default=0.98)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    rng = np.random.default_rng(options.seed)
    vectors, queries = make_vectors(options.data, options.n, options.dim, 2 * options.queries, rng)
    tuning, asked = queries[: options.queries], queries[options.queries :]
    results = []
    for factory in options.factory or ["auto"]:
        started = time.perf_counter()
        index, report = build_index(
            vectors, tuning, factory, options.target_recall, options.k, check_queries=options.queries
        )
        whole = time.perf_counter() - started
        assert isinstance(index, FaissIndex), "this benchmark compares with the bare FAISS call"
        result: dict[str, Any] = {"report": report.to_json(), "build_and_check_seconds": whole}
        result |= fresh_recall(index, vectors, asked, options.k) | storage(index, asked, options.k)
        result["overhead"] = overhead(index, asked, options.k)
        result["filtered"] = filtered(index, vectors, asked[:200], options.k, rng)
        result["excluded"] = excluded(index, vectors, asked[:200], options.k, rng)
        result["updates"] = updates(index, vectors, asked[:200], options.k, rng)
        results.append(result)
        show(result)
    if options.out:
        document = {
            "n": options.n,
            "dim": options.dim,
            "k": options.k,
            "data": options.data,
            "threads": options.threads,
            "seed": options.seed,
            "faiss": faiss.__version__,
            "indexes": results,
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def make_vectors(
    kind: str, n: int, dim: int, num_queries: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unit item vectors [n, dim] and query vectors [num_queries, dim] of the same distribution."""
    centres = rng.standard_normal((max(n // 250, 1), dim), dtype=np.float32)
    spectrum = (np.arange(1, dim + 1, dtype=np.float32)) ** -0.5

    def draw(count: int) -> np.ndarray:
        noise = rng.standard_normal((count, dim), dtype=np.float32)
        points = noise * spectrum if kind == "smooth" else centres[rng.integers(0, len(centres), count)] + 0.5 * noise
        unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    return draw(n), draw(num_queries)


def fresh_recall(index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int) -> dict[str, Any]:
    """Recall on queries that the build never saw."""
    truth = ExactIndex(vectors).search(queries, k).scores
    return {"fresh_recall": recall_of(*found_and_scores(index.search(queries, k).rows, vectors, queries), truth)}


def storage(index: FaissIndex, queries: np.ndarray, k: int) -> dict[str, Any]:
    """Size on disk, time to save, and time from a saved folder to the first answer."""
    with tempfile.TemporaryDirectory() as folder:
        saved, _ = timed(lambda: index.save(Path(folder)))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        loaded, _ = timed(lambda: load_index(Path(folder)).search(queries[:1], k))
    return {"folder_bytes": size, "save_seconds": saved, "load_and_first_search_seconds": loaded}


def overhead(index: FaissIndex, queries: np.ndarray, k: int, rounds: int = 5) -> dict[str, float]:
    """Our `search` against the bare FAISS call with the same parameters, taken in turns."""
    bare, ours = index.raw, index
    single: dict[str, list[float]] = {"bare": [], "ours": []}
    batch: dict[str, list[float]] = {"bare": [], "ours": []}
    for turn in range(rounds):
        for at in range(len(queries)):
            query = queries[at : at + 1]
            calls = [("bare", lambda q=query: bare.search(q, k)), ("ours", lambda q=query: ours.search(q, k))]
            for name, call in calls if (at + turn) % 2 else reversed(calls):  # the second finds the cache warm
                single[name].append(timed(call)[0])
        batch["bare"].append(timed(lambda: bare.search(queries, k))[0])
        batch["ours"].append(timed(lambda: ours.search(queries, k))[0])
    figures = {
        "bare_p50_ms": 1e3 * float(np.median(single["bare"])),
        "p50_ms": 1e3 * float(np.median(single["ours"])),
        "p99_ms": 1e3 * float(np.percentile(single["ours"], 99)),
        "bare_batch_per_second": len(queries) / float(np.median(batch["bare"])),
        "batch_per_second": len(queries) / float(np.median(batch["ours"])),
    }
    figures["single_ratio"] = figures["p50_ms"] / figures["bare_p50_ms"]
    figures["batch_ratio"] = figures["bare_batch_per_second"] / figures["batch_per_second"]
    return figures


def filtered(
    index: FaissIndex, vectors: np.ndarray, queries: np.ndarray, k: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Filters of several widths, random and of one direction in space, beside FAISS with a bare selector."""
    exact = ExactIndex(vectors)
    along = vectors @ vectors[0]
    rows = []
    for name, share in [("random", 0.5), ("random", 0.1), ("random", 0.01), ("random", 0.001), ("region", 0.1)]:
        keep = rng.random(len(vectors)) < share if name == "random" else along > np.quantile(along, 1 - share)
        allowed = Bitmap.from_mask(keep)
        copies = [Bitmap(allowed.bits.copy(), allowed.size) for _ in queries[:20]]
        work = [partial(index.search, query[None], k, copy) for query, copy in zip(queries, copies, strict=False)]
        first = [timed(call)[0] for call in work]
        again = [timed(partial(index.search, query[None], k, allowed))[0] for query in queries]
        batch, found = timed(partial(index.search, queries, k, allowed))
        truth = exact.search(queries, k, allowed).scores
        selected = index.probe(queries, k, allowed, index.plan.effort).rows
        wanted = min(k, allowed.count)
        rows.append(
            {
                "filter": f"{name} {share:.1%}",
                "recall": recall_of(*found_and_scores(found.rows, vectors, queries), truth),
                "short": int(((found.rows >= 0).sum(axis=1) < wanted).sum()),
                "disallowed": int((~keep[found.rows[found.rows >= 0]]).sum()),
                "new_filter_p50_ms": 1e3 * float(np.median(first)),
                "p50_ms": 1e3 * float(np.median(again)),
                "batch_per_second": len(queries) / batch,
                "selector_only_recall": recall_of(*found_and_scores(selected, vectors, queries), truth),
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
    rounds = []
    for _ in range(5):
        rows = rng.choice(len(vectors), 1000, replace=False)
        rounds.append(timed(partial(index.upsert, rows, vectors[rng.permutation(rows)]))[0])
    n = index.num_rows
    appended = timed(lambda: index.upsert(np.arange(n, n + 1000), vectors[:1000]))[0]
    deleted = timed(lambda: index.delete(np.arange(n, n + 1000)))[0]
    index.search(queries[:1], k)
    after = p50()
    figures = {
        "first_upsert_1000_ms": 1e3 * rounds[0],
        "upsert_1000_ms": 1e3 * float(np.median(rounds)),
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
    flat = {key: value for key, value in result["report"].items() if not isinstance(value, list)}
    single = {key: value for key, value in result.items() if isinstance(value, float | int)}
    for title, rows in [
        ("build", [{"figure": key, "value": value} for key, value in (flat | single).items()]),
        ("recall-latency curve", result["report"]["curve"]),
        ("tuned for filters", result["report"]["filtered"]),
        ("against the bare FAISS call", [result["overhead"]]),
        ("filtered", result["filtered"]),
        ("excluded", result["excluded"]),
        ("updates", [result["updates"]]),
    ]:
        if not rows:
            continue
        table = Table(*rows[0], title=title, title_justify="left")
        for row in rows:
            table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
