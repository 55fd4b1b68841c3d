"""What variety of each kind costs a request, in milliseconds of one thread.

Random unit vectors of 64 numbers, two of twenty values an item; the least of many lists, so that a busy machine matters
little.

    python benchmarks/speed/variety.py
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recsys.base.arrays import F64
from recsys.benchmarks.harness.provenance import provenance
from recsys.funnel.arrange.variety import DPP, MMR, Calibrated, Variety

SIZES = ((200, 10), (200, 50), (500, 100))
WIDTH, VALUES = 64, 20


def kinds(pool: int, rng: np.random.Generator) -> dict[str, Callable[[], Variety]]:
    """Each kind over a pool of candidates."""
    vectors = rng.normal(size=(pool, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = rng.integers(VALUES, size=(pool, 2))
    wanted: F64 = rng.dirichlet(np.ones(VALUES))
    return {
        "mmr": lambda: MMR(vectors, 0.3),
        "dpp": lambda: DPP(vectors, 0.3),
        "calibrated": lambda: Calibrated(codes, wanted, 0.3),
    }


def chosen(variety: Variety, pool: int, k: int) -> list[int]:
    """The list of one request, greedily."""
    free, listed = np.ones(pool, dtype=bool), []
    for _ in range(k):
        best = int(np.where(free, variety.worth(), -np.inf).argmax())
        free[best] = False
        variety.take(best)
        listed.append(best)
    return listed


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lists", type=int, default=200, help="lists of each size (default: %(default)s)")
    options.add_argument("--out", type=Path, help="also write the figures into this JSON file")
    args = options.parse_args()
    rng, rows = np.random.default_rng(0), []
    for pool, k in SIZES:
        for name, make in kinds(pool, rng).items():
            seconds = []
            for _ in range(args.lists):
                began = time.perf_counter()
                assert len(set(chosen(make(), pool, k))) == k
                seconds.append(time.perf_counter() - began)
            rows.append(
                {
                    "kind": name,
                    "pool": pool,
                    "k": k,
                    "least_ms": round(1000 * min(seconds), 3),
                    "median_ms": round(1000 * float(np.median(seconds)), 3),
                }
            )
            least, median = rows[-1]["least_ms"], rows[-1]["median_ms"]
            print(f"{name:10} pool {pool} k {k:3}: least {least:.3f} ms, median {median:.3f} ms")
    if args.out is not None:
        args.out.write_text(json.dumps({"rows": rows, **provenance()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
