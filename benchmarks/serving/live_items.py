"""What live items cost: an answer beside so many of them, one put until an answer knows it, and catching up.

    python -m recsys.benchmarks.serving.live_items RUN [--items 1000 20000]

New items have the columns of items of the run, drawn at random. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.artifacts.folder import open_run
from recsys.data.encoding.attributes import TextColumn
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.live.log import SqliteLog
from recsys.live.overlay import Overlay
from recsys.live.teller import Teller

from .live_state import asked, timed

PUTS = 50
BATCH = 1000


def items_of(funnel: Funnel, count: int, seed: int, name: str) -> list[dict[str, Any]]:
    """New items with what single columns of the run's items say."""
    rng, data = np.random.default_rng(seed), funnel.dataset
    columns = {name: _values(data.attributes[name], data.num_catalogue) for name in data.attributes}
    drawn = rng.integers(0, data.num_catalogue, (count, len(columns)))
    return [
        {"item": f"{name}{place}", **{n: v[row] for (n, v), row in zip(columns.items(), rows, strict=True)}}
        for place, rows in enumerate(drawn.tolist())
    ]


def _values(column: Any, count: int) -> list[Any]:
    if not isinstance(column, TextColumn):
        return [None if np.isnan(value) else float(value) for value in column[:count]]
    texts = list(column.values)
    return [[texts[code] for code in column.codes[column.ptr[n] : column.ptr[n + 1]]] for n in range(count)]


def put(live: Overlay, teller: Teller, items: Sequence[Mapping[str, Any]]) -> None:
    """Tell items one by one, each known before the next is told."""
    for item in items:
        teller.items([item])
        live.catch_up()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--items", type=int, nargs="*", default=[1000, 20_000])
    given = parser.parse_args()
    torch.set_num_threads(1)
    funnel = Funnel(load_run(open_run(given.run)))
    funnel.warm_up(recorded=True)
    users = [str(funnel.dataset.user_ids[row]) for row in range(min(200, funnel.dataset.num_users))]
    found: dict[str, Any] = {"items": funnel.dataset.num_catalogue, "index": funnel.retriever.index is not None}
    for count in (0, *given.items):
        with tempfile.TemporaryDirectory() as folder, SqliteLog(Path(folder)) as log:
            teller = Teller(log, funnel.dataset)
            told = items_of(funnel, count, 1, "new")
            for start in range(0, count, BATCH):
                teller.items(told[start : start + BATCH])
            live = Overlay(funnel, log)
            wall, own = timed(live.catch_up)
            one: dict[str, Any] = {"catch_up_cpu_us_per_item": 1e6 * own / max(count, 1)}
            live.funnel.warm_up(recorded=True)
            asked(live.funnel, users[:20])
            wall, own = timed(partial(asked, live.funnel, users))
            one["answer"] = {"wall_ms": 1e3 * wall / len(users), "cpu_ms": 1e3 * own / len(users)}
            put(live, teller, items_of(funnel, 5, 2, "first"))  # the first one makes room
            wall, own = timed(partial(put, live, teller, items_of(funnel, PUTS, 3, "later")))
            one["put"] = {"wall_ms": 1e3 * wall / PUTS, "cpu_ms": 1e3 * own / PUTS}
            found[str(count)] = one
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
