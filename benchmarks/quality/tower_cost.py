"""What the towers' validation figures cost: CPU seconds beside quality, epoch by epoch, for settings side by side.

A variant is a list of settings of `[retrieval]`, separated by commas: `optim.table_lr=0.004,fit.epochs=6`; `base` is
the configuration as it stands, and `runtime.KEY=VALUE` sets the arithmetic. Seeds take turns, so that a busy hour meets
all variants alike. Only validation is looked at.

    python benchmarks/quality/tower_cost.py --data beauty --variants base optim.table_lr=0.004
    python benchmarks/quality/tower_cost.py --data movielens --variants base loss=estimated,negatives=1536 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from recsys.base.files import write_whole
from recsys.benchmarks.harness.provenance import provenance
from recsys.benchmarks.harness.sources import CONFIGS, located, read
from recsys.benchmarks.quality.retrieval_variants import SOURCES
from recsys.configs.run import RunConfig, with_settings
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig
from recsys.retrieval.towers.train import build_towers, fit_towers
from recsys.training.runtime import start_runtime

METRICS = ("ndcg@10", "recall@10", "recall@100")
FOLDER = "../../shared/datasets/amazon-beauty"
BEAUTY: dict[str, Any] = {
    "events": "events.csv.gz",
    "items": "items.csv.gz",
    "user": "u",
    "item": "i",
    "time": "",
    "split": {"kind": "leave_last"},
    "features": [
        {"name": "u", "side": "user", "min_count": 2},
        {"name": "i", "side": "item"},
        {"name": "attrs", "side": "item", "kind": "multi"},
    ],
}


def load(name: str) -> tuple[Dataset, RunConfig]:
    """A data set and its configuration: the tables' own, and Amazon Beauty with the defaults."""
    if name != "beauty":
        config, tables = read(SOURCES[name])
        return build_dataset(tables, config.data, config.seed), config
    folder = Path(located(DataConfig(source="movielens", path=FOLDER)).path)
    data = DataConfig.model_validate(BEAUTY)
    tables = read_configured(data, (CONFIGS / folder).resolve(), BadRows(data.on_bad_rows))
    return build_dataset(tables, data, 1), RunConfig(name="beauty", data=data)


def variant_of(config: RunConfig, text: str, threads: int) -> RunConfig:
    """The configuration with a variant's settings."""
    settings = [] if text == "base" else text.split(",")
    named = [one if one.startswith("runtime.") else f"retrieval.{one}" for one in settings]
    return with_settings(config, [f"runtime.threads={threads}", *named])


def train(dataset: Dataset, config: RunConfig, seed: int) -> dict[str, Any]:
    """One training: CPU seconds in all, of the best epoch, and the validation metrics of every epoch."""
    runtime = start_runtime(config.runtime, seed)
    started = time.process_time()
    history = fit_towers(build_towers(dataset, config.retrieval, seed), config.retrieval, runtime, seed)
    spent = time.process_time() - started
    best = max(history.records, key=lambda record: record["ndcg@10"])
    return {
        "cpu_seconds": spent,
        "best_epoch": best["epoch"],
        **{name: best[name] for name in METRICS},
        "epochs": [[record["seconds"], record["ndcg@10"]] for record in history.records],
    }


def main() -> None:
    """Parse, train in turn, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["beauty", *SOURCES], default="beauty")
    parser.add_argument("--variants", nargs="+", default=["base", "loss=estimated,negatives=2048,optim.table_lr=0.004"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    dataset, config = load(options.data)
    configs = {text: variant_of(config, text, options.threads) for text in options.variants}
    found: dict[str, list[dict[str, Any]]] = {text: [] for text in configs}
    for seed in options.seeds:
        for text, given in configs.items():
            row = train(dataset, given, seed)
            found[text].append(row)
            shown = " ".join(f"{name} {row[name]:.4f}" for name in METRICS)
            cost = f"{row['cpu_seconds']:6.0f} CPU s"
            print(f"seed {seed} {cost}  {shown}  best epoch {row['best_epoch']:2}  {text}", flush=True)
    for text, rows in found.items():
        spread = statistics.stdev([row["ndcg@10"] for row in rows]) if len(rows) > 1 else 0.0
        means = {metric: statistics.mean(row[metric] for row in rows) for metric in ("cpu_seconds", *METRICS)}
        shown = " ".join(f"{metric} {means[metric]:.4f}" for metric in METRICS)
        print(f"mean {means['cpu_seconds']:6.0f} CPU s  {shown}  (ndcg@10 between seeds: {spread:.4f})  {text}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.out, json.dumps({"data": options.data, **provenance(), "runs": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
