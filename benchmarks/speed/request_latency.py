"""Where every tenth of a millisecond of one request goes: time by stage, percentiles, Python calls, blocks of users.

Two checkouts can be measured side by side, in turn, on the same run folder and the same users:

    python benchmarks/speed/request_latency.py --run runs/latest
    python benchmarks/speed/request_latency.py --items 24000 --beside ../older-checkout --out docs/results/request.json

Without `--run` the embedded world is made with `--items` items, and the demo's configuration is trained for one epoch
on it, with 200 candidates and an index; `--events` instead draws a log at random, which any size of catalogue allows.
Each measurement is a process of its own with one thread. Wall time counts what else the machine does, the CPU time of
the process hardly does: compare the CPU columns on a busy machine. Calls are counted by the interpreter, of Python
functions and of C functions that Python calls, the least of three requests of the same user.

The stages are timed without what they call of other stages, and timing them costs a little itself: the table says where
the time goes, the percentiles above it how much it is.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = {
    "history and what is seen": ("recsys.retrieval.retriever:Retriever.histories",),
    "query vector": ("recsys.retrieval.retriever:Retriever.queries",),
    "search": ("recsys.retrieval.retriever:Retriever.propose",),
    "merge": ("recsys.retrieval.retriever:Retriever.merged",),
    "opinions": ("recsys.retrieval.retriever:Retriever.describe",),
    "features of the candidates": ("recsys.data.dataset:Dataset.candidates",),
    "ranker": ("recsys.ranking.requests:RequestRanker.forward", "recsys.ranking.answering:AnsweringModel.logits"),
    "probabilities and blend": (
        "recsys.funnel.funnel:task_probabilities",
        "recsys.funnel.funnel:blend",
        "recsys.funnel.funnel:Ranked.order",
    ),
    "eligible": ("recsys.funnel.ladder:Ladder.eligible",),
    "candidates, the rest": ("recsys.funnel.ladder:Ladder.offer",),
    "ranking, the rest": ("recsys.funnel.funnel:Funnel.rank",),
    "answer, the rest": ("recsys.funnel.funnel:Funnel.recommend",),
}
"""Stage -> the functions that are it; none is counted inside another. What a checkout lacks is left out."""
BLOCK = 32


class Stages:
    """CPU time and calls of each stage, without those of the stages inside it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.calls = dict.fromkeys(STAGES, 0)
        self._inside: list[str] = []
        self._since = 0.0

    def _enter(self, stage: str | None) -> None:
        now = time.thread_time()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        if stage is None:
            self._inside.pop()
        else:
            self._inside.append(stage)
        self._since = time.thread_time()

    def count(self, _frame: object, event: str, _argument: object) -> None:
        """A profile function of the interpreter."""
        if event in ("call", "c_call") and self._inside:
            self.calls[self._inside[-1]] += 1

    def watch(self) -> None:
        """Wrap every function of `STAGES`."""
        for stage, places in STAGES.items():
            for place in places:
                module, _, path = place.partition(":")
                if importlib.util.find_spec(module) is None:
                    continue
                owner: Any = importlib.import_module(module)
                *parents, name = path.split(".")
                owner = functools.reduce(lambda found, part: getattr(found, part, None), parents, owner)
                inner = getattr(owner, name, None)
                if inner is not None:
                    setattr(owner, name, self._timed(stage, inner))

    def _timed(self, stage: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                self._enter(None)

        return timed


def counted_calls(work: Callable[[], object]) -> int:
    """Calls of functions, Python's and C's, the least of three."""

    def once() -> int:
        count = 0

        def count_calls(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(count_calls)
        try:
            work()
        finally:
            sys.setprofile(None)
        return count

    return min(once() for _ in range(3))


def measure(run: Path, requests: int, seed: int) -> dict[str, Any]:
    """Load the run and ask; in this process."""
    import numpy as np
    import torch

    import recsys

    torch.set_num_threads(1)
    funnel = recsys.load(run).funnel
    known = [user for user, row in funnel.dataset.user_rows.items() if str(funnel.ladder.rung(row)) == "history"]
    chosen = np.random.default_rng(seed).choice(len(known), min(requests, len(known)), replace=False)
    users = [known[place] for place in chosen]
    if "recorded" in inspect.signature(funnel.warm_up).parameters:
        funnel.warm_up(recorded=True)
    for user in users[:20]:
        funnel.recommend([user], 10)
    wall, cpu = [], []
    for user in users:
        clock, used = time.perf_counter(), time.process_time()
        funnel.recommend([user], 10)
        wall.append(1e3 * (time.perf_counter() - clock))
        cpu.append(1e3 * (time.process_time() - used))
    blocks = [users[start : start + BLOCK] for start in range(0, len(users) - BLOCK + 1, BLOCK)]
    speeds = []
    for block in blocks:
        used = time.process_time()
        funnel.recommend(block, 10)
        speeds.append(BLOCK / (time.process_time() - used))
    calls = counted_calls(lambda: funnel.recommend(users[:1], 10))
    answers = [funnel.recommend([user], 10) for user in users[:64]] + [funnel.recommend(users[:64], 10)]
    stages = Stages()
    stages.watch()
    for user in users:
        funnel.recommend([user], 10)
    timed = {stage: 1e3 * seconds / len(users) for stage, seconds in stages.seconds.items()}
    sys.setprofile(stages.count)
    funnel.recommend(users[:1], 10)
    sys.setprofile(None)
    return {
        "wall_ms": {"p50": float(np.percentile(wall, 50)), "p99": float(np.percentile(wall, 99)), "least": min(wall)},
        "cpu_ms": {"p50": float(np.percentile(cpu, 50)), "p99": float(np.percentile(cpu, 99)), "least": min(cpu)},
        "calls": calls,
        "users_per_cpu_second_in_blocks": statistics.median(speeds),
        "stages_cpu_ms": timed,
        "stages_calls": stages.calls,
        "items": funnel.retriever.data.num_items,
        "scorers": len(funnel.retriever.scorers),
        "answers": {
            "rows": [row for one in answers for row in one.rows.tolist()],
            "scores": [row for one in answers for row in one.scores.tolist()],
        },
    }


def in_own_process(run: Path, checkout: Path, requests: int, seed: int) -> dict[str, Any]:
    """`measure` with the code of a checkout, whatever its folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recsys").symlink_to(checkout.resolve())
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        asked = ["--measure", "--run", str(run.resolve()), "--requests", str(requests), "--seed", str(seed)]
        done = subprocess.run(
            [sys.executable, __file__, *asked], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def build_run(folder: Path, items: int, events: int) -> Path:
    """A run of the demo's configuration over so many items, kept in a folder; made where it is missing."""
    run = folder / "run"
    if run.exists():
        return run
    import shutil

    import recsys
    from recsys.data.world.simulate import SimulateConfig, simulate
    from recsys.pipeline.index import build_run_index

    if events:
        draw_log(folder, items, events)
    else:
        simulate(SimulateConfig(users=items // 4, items=items, sessions=3 * items // 2, seed=1), folder)
    shutil.copy(Path(recsys.__file__).parent / "configs" / "demo.toml", folder / "demo.toml")
    settings = ["retrieval.num_candidates=200", "retrieval.fit.epochs=1", "ranking.fit.epochs=1", "runtime.threads=1"]
    recsys.train(config=folder / "demo.toml", settings=settings, run=run)
    build_run_index(run)
    return run


def draw_log(folder: Path, items: int, events: int) -> None:
    """Tables of the demo's form with random events: items by a power law, a user some forty times."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    users = max(100, events // 40)
    seconds = 1_700_000_000 + np.sort(rng.integers(0, 86_400 * 60, events))
    shown = np.minimum((rng.pareto(1.1, events) * items / 200).astype(np.int64), items - 1)
    # Every item is met once or more, so that all of them have a row of their own.
    shown[: min(items, events // 2)] = rng.permutation(items)[: min(items, events // 2)]
    clicks = (rng.random(events) < 0.3).astype(np.int64)
    conversions = clicks * (rng.random(events) < 0.1)
    number = np.arange(items)
    tables = {
        "events": {
            "user_id": rng.integers(0, users, events),
            "item_id": shown,
            "timestamp": seconds,
            "click": clicks,
            "conversion": conversions,
            "position": rng.integers(1, 11, events),
            "propensity": np.full(events, 0.1),
        },
        "items": {
            "item_id": number,
            "title": number,
            "category": number % 20,
            "subcategory": number % 200,
            "brand": rng.integers(0, 2000, items),
            "price": np.round(rng.lognormal(3, 1, items), 2),
            "published": seconds[0] - rng.integers(0, 86_400 * 300, items),
        },
        "users": {
            "user_id": np.arange(users),
            "age": rng.integers(16, 80, users),
            "gender": rng.integers(0, 3, users),
            "region": rng.integers(0, 40, users),
            "device": rng.integers(0, 4, users),
        },
    }
    for name, columns in tables.items():
        pyarrow.csv.write_csv(pa.table(columns), folder / f"{name}.csv")


def show(name: str, found: dict[str, Any]) -> None:
    """One checkout's figures."""
    wall, cpu = found["wall_ms"], found["cpu_ms"]
    print(f"{name}: {found['items']:,} items, {found['scorers']} scorers beside the towers, 200 candidates")
    print(f"  wall ms  p50 {wall['p50']:6.2f}  p99 {wall['p99']:6.2f}  least {wall['least']:6.2f}")
    print(f"  CPU ms   p50 {cpu['p50']:6.2f}  p99 {cpu['p99']:6.2f}  least {cpu['least']:6.2f}")
    print(f"  {found['calls']:,} calls a request; blocks of {BLOCK}: ", end="")
    print(f"{found['users_per_cpu_second_in_blocks']:,.0f} users a CPU second")


def main() -> None:
    """Parse, build, measure in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder; one is made when absent")
    parser.add_argument("--items", type=int, default=24_000)
    parser.add_argument("--events", type=int, default=0, help="draw so many events at random instead of the world")
    parser.add_argument("--world", type=Path, help="where what is made is kept (default: build/request-ITEMS)")
    parser.add_argument("--beside", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.run, options.requests, options.seed)))
        return
    import numpy as np

    from recsys.benchmarks.harness.provenance import ROOT, write_speed

    run = options.run or build_run(
        options.world or Path(f"build/request-{options.items}"), options.items, options.events
    )
    checkouts = {"this": ROOT, **({} if options.beside is None else {"beside": options.beside})}
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            found = in_own_process(run, checkout, options.requests, options.seed)
            if name not in best or found["cpu_ms"]["p50"] < best[name]["cpu_ms"]["p50"]:
                best[name] = found
    for name, found in best.items():
        show(name, found)
    print(f"{'stage':<30}" + "".join(f"{name + ', CPU ms':>16}{'calls':>8}" for name in best))
    for stage in STAGES:
        figures = (f"{f['stages_cpu_ms'][stage]:16.3f}{f['stages_calls'][stage]:8d}" for f in best.values())
        print(f"{stage:<30}" + "".join(figures))
    if options.beside is not None:
        rows = [np.array(best[name]["answers"]["rows"]) for name in checkouts]
        scores = [np.array(best[name]["answers"]["scores"]) for name in checkouts]
        apart = float(np.nanmax(np.abs(scores[0] - scores[1]) / np.maximum(np.abs(scores[1]), 1e-12)))
        print(f"same items in {np.mean(rows[0] == rows[1]):.4f} of all places; scores apart by {apart:.1e} at most")
        for name in checkouts:
            best[name]["largest_relative_difference"] = apart
    if options.out:
        kept = {name: {key: value for key, value in found.items() if key != "answers"} for name, found in best.items()}
        write_speed(options.out, "request_latency", {"requests": options.requests, "threads": 1, "checkouts": kept})


if __name__ == "__main__":
    main()
