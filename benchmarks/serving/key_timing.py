"""Does the time of a refusal tell how much of a key is right? Keys that begin rightly beside others, in turns.

    python benchmarks/serving/key_timing.py --out docs/results/serving-keys.json

The difference of the means is compared with those of 10,000 draws in which the two kinds change places.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from recsys.benchmarks.serving.trial import record
from recsys.serving.keys import KeyEntry, KeyFile, Keys
from recsys.serving.problems import ProblemError

LEAST = 0.01
"""Smallest p of a trial that passes."""


def nanoseconds(keys: Keys, given: str) -> int:
    """How long a refusal takes."""
    started = time.perf_counter_ns()
    with suppress(ProblemError):
        keys.admit(given, "read")
    return time.perf_counter_ns() - started


def main() -> int:
    """Run the trial; 0 when it passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    right, others = secrets.token_urlsafe(32), [secrets.token_urlsafe(32) for _ in range(19)]
    entries = [
        KeyEntry(name=f"key{place}", scopes=("read",), sha256=hashlib.sha256(key.encode()).hexdigest())
        for place, key in enumerate([right, *others])
    ]
    keys, chance = Keys(KeyFile(key=tuple(entries))), random.Random(0)
    pairs = np.empty((told.pairs, 2))
    bases, last = (right, secrets.token_urlsafe(32)), "ABC".replace(right[-1], "")
    for row in range(told.pairs):
        # Both are made alike and in drawn order: the text that was made last is read faster.
        given = {kind: bases[kind][:-1] + secrets.choice(last) for kind in chance.sample((0, 1), 2)}
        for kind in chance.sample((0, 1), 2):
            pairs[row, kind] = nanoseconds(keys, given[kind])
    differences = np.clip(pairs[:, 0] - pairs[:, 1], *np.percentile(pairs[:, 0] - pairs[:, 1], [1, 99]))
    rng = np.random.default_rng(0)
    drawn = [abs(float((differences * rng.choice([-1, 1], told.pairs)).mean())) for _ in range(10_000)]
    share = float(np.mean(np.array(drawn) >= abs(differences.mean())))
    found = {
        "begins_rightly_ns": float(np.median(pairs[:, 0])),
        "begins_wrongly_ns": float(np.median(pairs[:, 1])),
        "mean_difference_ns": float(differences.mean()),
        "p": share,
    }
    record(told.out, "keys", vars(told), found)
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
