"""The softmax over the catalogue, whole and estimated: CPU seconds of training beside validation figures, seed by seed.

Each seed trains the default towers with `full_softmax` and with `estimated`, both at the table learning rates asked
for: an estimate moves a row only when it is drawn, so that its table wants the larger rate, and the whole softmax is
tried at the same rate lest the rate be taken for the loss. Only validation is looked at.

    python benchmarks/quality/estimated_softmax.py --data beauty --seeds 1 2 3 --negatives 2048
    python benchmarks/quality/estimated_softmax.py --data movielens --seeds 1 2 3 --epochs 10 --negatives 1536
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
from recsys.benchmarks.harness.sources import CONFIGS, Source, located, read
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig
from recsys.retrieval.towers.train import RetrievalConfig, build_towers, fit_towers
from recsys.training.runtime import RuntimeConfig, start_runtime

METRICS = ("ndcg@10", "recall@10", "recall@100")
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


def load(name: str) -> tuple[Dataset, RetrievalConfig]:
    """A data set and the towers it is trained with: MovieLens-1M as configured, Amazon Beauty with the defaults."""
    if name == "movielens":
        config, tables = read(Source("movielens-1m.toml"))
        return build_dataset(tables, config.data, config.seed), config.retrieval
    folder = Path(located(DataConfig(source="movielens", path="../../shared/datasets/amazon-beauty")).path)
    data = DataConfig.model_validate(BEAUTY)
    tables = read_configured(data, (CONFIGS / folder).resolve(), BadRows(data.on_bad_rows))
    return build_dataset(tables, data, 1), RetrievalConfig()


def train(dataset: Dataset, config: RetrievalConfig, seed: int, threads: int) -> dict[str, float]:
    """One training: CPU seconds, and the validation metrics of its best epoch."""
    runtime = start_runtime(RuntimeConfig(threads=threads), seed)
    started = time.process_time()
    history = fit_towers(build_towers(dataset, config, seed), config, runtime, seed)
    best = max(history.records, key=lambda record: record["ndcg@10"])
    return {"cpu_seconds": time.process_time() - started, **{name: best[name] for name in METRICS}}


def main() -> None:
    """Parse, train in turn, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["movielens", "beauty"], default="beauty")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=0, help="of each training; the configuration's when 0")
    parser.add_argument("--negatives", type=int, default=2048, help="items of an estimate")
    parser.add_argument("--table-lr", type=float, nargs="+", default=[0.002, 0.004], help="of both losses")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    dataset, config = load(options.data)
    epochs = options.epochs or config.fit.epochs
    config = config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": epochs})})
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for rate in options.table_lr:
            for loss in ("full_softmax", "estimated"):
                optim = config.optim.model_copy(update={"table_lr": rate})
                given = config.model_copy(update={"loss": loss, "negatives": options.negatives, "optim": optim})
                row = train(dataset, given, seed, options.threads)
                found.setdefault(f"{loss}, table_lr {rate}", []).append(row)
                shown = " ".join(f"{name} {row[name]:.4f}" for name in METRICS)
                print(f"seed {seed} {loss:<13} table_lr {rate}: {row['cpu_seconds']:6.0f} CPU s  {shown}", flush=True)
    for name, rows in found.items():
        spread = statistics.stdev([row["ndcg@10"] for row in rows]) if len(rows) > 1 else 0.0
        means = {metric: statistics.mean(row[metric] for row in rows) for metric in ("cpu_seconds", *METRICS)}
        shown = " ".join(f"{metric} {means[metric]:.4f}" for metric in METRICS)
        print(f"mean {name:<28} {means['cpu_seconds']:6.0f} CPU s  {shown}  (ndcg@10 between seeds: {spread:.4f})")
    if options.out:
        whole = {"data": options.data, "epochs": epochs, "negatives": options.negatives, **provenance(), "runs": found}
        write_whole(options.out, json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
