"""Batches, history windows and loading of a data set: rows a second, seconds and memory, beside an older checkout.

The log is made up: a user has 40 events on average and an item 100, both far from evenly; columns user_id, item_id,
timestamp, click and one category, with counts by user and by item. Each checkout works in processes of its own, on one
thread, and its figures are per CPU second of these, which other work on the machine hardly moves. Loading is a process
that does nothing else: seconds from the call to the first batch, and what its memory grew by.

    python benchmarks/speed/loader.py --events 2000000 --beside OLDER_CHECKOUT --out docs/results/loader.json
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = (1_024, 8_192, 65_536)
BEFORE = ("arrays.safetensors", "encoders.json", "ids.json", "schema.json")
"""Files of version 1 of the format."""
SECONDS = 1.5
"""CPU time that each figure is measured over, at least."""


def log(events: int) -> Any:
    """The log as a data frame, in time order."""
    import pandas as pd

    rng = np.random.default_rng(0)
    users, items = max(events // 40, 1), max(events // 100, 1)
    chosen = np.minimum(rng.zipf(1.2, events) - 1, rng.integers(0, users, events))
    return pd.DataFrame(
        {
            "user_id": (chosen * 7_919) % users,
            "item_id": (rng.pareto(1.0, events) * items / 20).astype(np.int64) % items,
            "timestamp": np.sort(rng.integers(1_600_000_000, 1_610_000_000, events)),
            "click": rng.integers(0, 2, events),
            "cat": rng.integers(0, 50, events),
        }
    )


def build(events: int) -> Any:
    """The log as a data set."""
    from recsys.data.build import build_dataset
    from recsys.data.reading.readers import read_tables
    from recsys.data.schema import DataConfig

    frame = log(events)
    cuts = frame["timestamp"].quantile([0.8, 0.9]).astype(int).astype(str)
    config = {
        "events": "events",
        "features": [
            {"name": "user_id", "side": "user"},
            {"name": "item_id", "side": "item"},
            {"name": "cat", "side": "context"},
        ],
        "counts": [{"keys": ["item_id"], "tasks": ["click"]}, {"keys": ["user_id"], "tasks": ["click"]}],
        "tasks": [{"name": "click"}],
        "split": {"kind": "time", "valid_from": cuts.iloc[0], "test_from": cuts.iloc[1]},
    }
    return build_dataset(read_tables(frame), DataConfig.model_validate(config), seed=0)


def rate(loader: Iterable[Any], count: Callable[[Any], int]) -> float:
    """What `count` finds in the batches of whole epochs, per CPU second."""
    done, start = 0, time.process_time()
    while (spent := time.process_time() - start) < SECONDS:
        done += sum(count(batch) for batch in loader)
    return done / spent


def measure(folder: Path, events: int) -> dict[str, float]:
    """Rows and events a second; the data set is left in the folder."""
    import torch

    from recsys.data import store
    from recsys.data.loader import Loader
    from recsys.data.split import Part
    from recsys.retrieval.towers.two_tower import TwoTowerConfig
    from recsys.retrieval.towers.windows import TowerData, WindowLoader

    torch.set_num_threads(1)
    start = time.process_time()
    dataset = build(events)
    found = {"build_seconds": time.process_time() - start}
    for size in BATCHES:
        loader = Loader(dataset, dataset.rows(Part.TRAIN), size, seed=0)
        found[f"rows_{size}"] = rate(loader, lambda batch: int(batch.rows))
    if "windowed" in inspect.signature(Loader).parameters:
        loader = Loader(dataset, dataset.rows(Part.TRAIN), BATCHES[1], seed=0, windowed=True)
        found["rows_8192_windowed"] = rate(loader, lambda batch: int(batch.rows))
    start = time.process_time()
    windows = WindowLoader(TowerData.of(dataset, TwoTowerConfig(), ""), Part.VALID, 16_384, seed=0)
    found["window_loader_seconds"] = time.process_time() - start
    found["window_events"] = rate(windows, lambda batch: int(batch.present.sum()))
    start = time.process_time()
    store.save_dataset(dataset, folder)
    found["save_seconds"] = time.process_time() - start
    found["bytes_an_event"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / events
    return found


def load(folder: Path) -> dict[str, float]:
    """Seconds and memory of opening a data set, and of it with the first batch."""
    import torch

    from recsys.data import store

    torch.set_num_threads(1)
    before, start = resident(), time.perf_counter()
    if of_files := getattr(store, "load_dataset_files", None):  # before version 2 of the format
        dataset = of_files(*(folder / f"{name}" for name in BEFORE))
    else:
        dataset = store.load_dataset(folder.joinpath)
    found = {"load_seconds": time.perf_counter() - start, "load_mb": resident() - before}
    dataset.batch(torch.arange(0, len(dataset.events), max(len(dataset.events) // 1_024, 1)))
    return found | {"first_batch_seconds": time.perf_counter() - start, "first_batch_mb": resident() - before}


def resident() -> float:
    """Memory of this process that is its own, in 10^6 bytes; pages of mapped files can be dropped and do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return float(line.split()[1]) * 1024 / 1e6
    return float("nan")


def in_own_process(checkout: Path, work: Path, folder: Path, events: int) -> dict[str, float]:
    """Both measurements by the code of a checkout."""
    package = work / "recsys"
    package.symlink_to(checkout.resolve())
    environment = {**os.environ, "PYTHONPATH": str(work), "OMP_NUM_THREADS": "1"}
    found: dict[str, float] = {}
    folder.mkdir()
    for step in ("measure", "load"):
        command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--events", str(events)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=work)
        found |= json.loads(done.stdout.splitlines()[-1])
    package.unlink()
    return found


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--beside", type=Path, help="an older checkout, measured in the same run")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--step", choices=("measure", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(
            json.dumps(measure(options.folder, options.events) if options.step == "measure" else load(options.folder))
        )
        return
    from recsys.benchmarks.harness.provenance import ROOT, write_speed

    checkouts = {"now": ROOT} | ({"before": options.beside} if options.beside else {})
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, checkout in checkouts.items():
            work = Path(temporary)
            rows[name] = in_own_process(checkout, work, work / name, options.events)
    print(f"{'':<22}" + "".join(f"{name:>14}" for name in rows) + ("         ratio" if options.beside else ""))
    for key, value in rows["now"].items():
        both = [one.get(key, float("nan")) for one in rows.values()]
        ratio = f"{value / both[1]:>14.2f}" if options.beside and both[1] else ""
        print(f"{key:<22}" + "".join(f"{figure:>14,.2f}" for figure in both) + ratio)
    if options.out:
        write_speed(options.out, "loader", {"events": options.events, "threads": 1, **rows})


if __name__ == "__main__":
    main()
