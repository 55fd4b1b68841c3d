"""What reading more costs a ranker: target attention and interaction layers, at a request and in a training step.

The ranker is the shared bottom at its default widths; what differs is `[ranking.model.input]`. `request`: one user with
a full history against 500 candidates, the user's side once, as it is served. `step`: the forward and the backward pass
of 1,024 logged rows, each with a user of its own, without the optimiser's. Columns are those of `user_side_once`, and a
history of 50 events, or of 1,000 where the row says so. CPU milliseconds of one thread, medians of passes in turn.

    python benchmarks/speed/input_cost.py --out docs/results/input-cost.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recsys.benchmarks.harness.provenance import write_speed
from recsys.benchmarks.speed.user_side_once import TASKS, Shape, request
from recsys.data.batch import Batch, Layout
from recsys.ranking.losses import LossConfig
from recsys.ranking.ranker import Ranker, build_ranker, ranker_class
from recsys.training.runtime import RuntimeConfig, start_runtime

ROWS, CANDIDATES, LONG = 1_024, 500, 1_000
Table = dict[str, Any]
SEARCHED: Table = {"search_events": 20}
INPUTS: dict[str, tuple[int, Table]] = {
    "mean of the history": (50, {}),
    "din": (50, {"target": {"unit": "din"}}),
    "dot": (50, {"target": {"unit": "dot"}}),
    "mean of 1,000 events": (LONG, {}),
    "din, 1,000 events": (LONG, {"target": {"unit": "din"}}),
    "din, 20 of 1,000 by value (SIM)": (LONG, {"target": {"unit": "din", "search": "match", **SEARCHED}}),
    "din, 20 of 1,000 by hashes (ETA)": (LONG, {"target": {"unit": "din", "search": "hash", **SEARCHED}}),
    "fm": (50, {"interaction": {"kind": "fm"}}),
    "dlrm": (50, {"interaction": {"kind": "dlrm"}}),
    "autoint": (50, {"interaction": {"kind": "autoint"}}),
    "masknet": (50, {"interaction": {"kind": "masknet"}}),
    "cross layers (DCN-V2)": (50, {"cross_layers": 2, "cross_rank": 32}),
}
"""What is read: events of the history, and keys of `[ranking.model.input]`."""


def built(layout: Layout, keys: Table, seed: int) -> Ranker:
    """The shared bottom that reads so."""
    config = ranker_class("shared_bottom").Config.model_validate({"kind": "shared_bottom", "input": keys})
    return build_ranker(config, layout, TASKS, seed)


def logged(layout: Layout, seed: int) -> Batch:
    """Rows of a log, each with a user of its own, and drawn labels."""
    queries = [request(layout, 1, seed + row).query for row in range(ROWS)]
    items = request(layout, ROWS, seed).item
    query = replace(
        queries[0],
        categorical=torch.cat([one.categorical for one in queries]),
        numeric=torch.cat([one.numeric for one in queries]),
        sequences=(torch.cat([one.sequences[0] for one in queries]),),
    )
    labels = torch.randint(0, 2, (ROWS, len(TASKS)), generator=torch.Generator().manual_seed(seed)).float()
    mask = torch.ones(ROWS, len(TASKS), dtype=torch.bool)
    return Batch(query=query, item=items, labels=labels, mask=mask, weight=torch.ones(ROWS, len(TASKS)))


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started)


def main() -> None:
    """Build every variant, time them in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    runtime = start_runtime(RuntimeConfig(threads=options.threads), options.seed)
    layouts = {length: _with_history(Shape().layout(), length) for length in (50, LONG)}
    requests = {length: request(layout, CANDIDATES, options.seed) for length, layout in layouts.items()}
    batches = {length: logged(layout, options.seed) for length, layout in layouts.items()}
    rankers = {name: built(layouts[length], keys, options.seed) for name, (length, keys) in INPUTS.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"request": [], "step": []} for name in INPUTS}

    def answer(ranker: Ranker, asked: Batch) -> None:
        ranker.eval()
        with torch.inference_mode():
            ranker(asked)

    def step(ranker: Ranker, rows: Batch) -> None:
        ranker.train()
        losses = ranker.losses(rows, LossConfig())
        torch.autograd.backward(list(losses.values()))
        ranker.zero_grad(set_to_none=True)

    for round_ in range(options.rounds + 1):
        for name, (length, _) in INPUTS.items():
            taken = {
                "request": cpu_ms(partial(answer, rankers[name], requests[length])),
                "step": cpu_ms(partial(step, rankers[name], batches[length])),
            }
            if round_:  # the first warms up
                for kind, value in taken.items():
                    found[name][kind].append(value)
    rows = [
        {"input": name, **{f"{kind}_ms": statistics.median(values) for kind, values in one.items()}}
        for name, one in found.items()
    ]
    for row in rows:
        print(f"{row['input']:<36} request {row['request_ms']:>8.2f} ms  step {row['step_ms']:>9.1f} ms")
    if options.out:
        about = {"threads": runtime.threads, "candidates": CANDIDATES, "step_rows": ROWS, "rounds": options.rounds}
        write_speed(options.out, "input_cost", {**about, "seed": options.seed, "rows": rows})


def _with_history(layout: Layout, length: int) -> Layout:
    """The same columns with histories of another length."""
    query = replace(layout.query, sequences=tuple(replace(one, length=length) for one in layout.query.sequences))
    return replace(layout, query=query)


if __name__ == "__main__":
    main()
