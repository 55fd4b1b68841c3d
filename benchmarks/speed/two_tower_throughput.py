"""Training throughput of the two-tower retriever beside torch-rechub's DSSM: the same events, in one run, one thread.

Both learn from (user, the up to 50 items before, item) of MovieLens-1M's training events, with embeddings and vectors
64 wide, ids as the only features and the mean of the history. A **row is one training positive** for both. What a
positive is compared with differs, and stands in the table, so that nobody need guess:

- torch-rechub as in its own MovieLens example: 3 drawn negatives per positive, each pair classified by itself
  (`MatchTrainer` with mode 0, popularity sampling, batches of 4,096 pairs, Adam, towers 256-128-64 with PReLU); the
  same with towers as small as the library's; and its softmax over the batch.
- the library with its default, the softmax over the whole catalogue, a thousand times as many comparisons; and with
  `loss = "bce"`, which classifies pairs as torch-rechub does, one drawn negative per positive.

Timed is what stands inside an epoch: the loader, forward, backward, optimiser. Not timed, on either side: reading the
files, encoding, and (torch-rechub's) writing out histories and negatives beforehand, which takes its own helpers
longer than an epoch takes. Its `DataLoader` runs in this process: with one thread there is nothing to hand to workers.

    pip install torch-rechub      # 0.9.0 was measured; it needs pandas and scikit-learn, and nothing here needs it
    python benchmarks/speed/two_tower_throughput.py --threads 1 --out docs/results/two-tower-throughput.json

`--epochs 10` also trains both that long and prints recall@100 of the validation items (full ranking, seen items
removed) beside the seconds spent training.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import time
import tomllib
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys.base.arrays import I64
from recsys.base.topk import exact_ranks
from recsys.benchmarks.harness.provenance import ROOT, write_speed
from recsys.benchmarks.harness.sources import located
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.keys import read_configured
from recsys.data.reading.tables import BadRows
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.evaluation.metrics.lists import rank_metrics
from recsys.nn.precision import bf16_is_fast
from recsys.retrieval.towers.batch import TowerBatch
from recsys.retrieval.towers.inputs import Windows
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, requests, validation_metrics
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.training.loop import FitOptions, fit
from recsys.training.optim import Optimizer
from recsys.training.runtime import Runtime, RuntimeConfig, start_runtime

CONFIG = ROOT / "configs" / "movielens-1m.toml"
DIM, HISTORY, NEGATIVES = 64, 50, 3
EXAMPLE = "torch-rechub, its example"


def load(users: int, seed: int) -> Dataset:
    """MovieLens-1M, ids only, leave-last-out; the events of `users` users drawn at random, of all when 0."""
    section = tomllib.loads(CONFIG.read_text())["data"]
    config = DataConfig.model_validate(
        {
            "source": section["source"],
            "path": section["path"],
            "split": {"kind": "leave_last"},
            "features": [{"name": "user_id", "side": "user"}, {"name": "item_id", "side": "item"}],
        }
    )
    tables = read_configured(located(config), CONFIG.parent, BadRows(config.on_bad_rows))
    if users:
        everyone = pc.unique(tables.events["user_id"]).to_pylist()
        drawn = np.random.default_rng(seed).choice(everyone, min(users, len(everyone)), replace=False)
        kept = pc.is_in(tables.events["user_id"], value_set=pa.array(drawn.tolist()))
        tables = tables.keep("events", np.asarray(kept))
    return build_dataset(tables, config, seed)


@dataclass(frozen=True)
class Pass:
    """One epoch: positives learned from, what each was compared with, and the time it took."""

    positives: int
    compared: int
    seconds: float
    cpu_seconds: float


class Ours:
    """The library's own training: `WindowLoader`, `TwoTower`, `RetrievalStep`, `Optimizer`, `fit`."""

    def __init__(self, data: TowerData, config: RetrievalConfig, runtime: Runtime, seed: int, epochs: int) -> None:
        self.data, self.runtime = data, runtime
        self.model = build_two_tower(data, config.tower, seed)
        self.loader = WindowLoader(data, Part.VALID, config.tokens, seed)
        self.optimizer = Optimizer(self.model, config.optim, epochs * len(self.loader))
        self.learn = RetrievalStep(self.model, data, config, seed, runtime.reduced)
        self.compared = {"full_softmax": data.num_items, "bce": 2}[self.learn.kind]  # the positive itself included
        self.positives = 0

    def prepare(self, windows: Windows) -> TowerBatch:
        """The library's batch, its positives counted."""
        self.positives += int(windows.present.sum()) - int((windows.present[:, 0] & ~windows.from_start).sum())
        return self.learn.prepare(windows)

    def epoch(self) -> Pass:
        """One more pass."""
        self.positives = 0
        options = FitOptions(epochs=self.loader.epoch + 1)
        clock, cpu = time.perf_counter(), time.process_time()
        fit(self.learn, self.loader, self.optimizer, options, prepare=self.prepare, runtime=self.runtime)
        seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
        return Pass(self.positives, self.positives * self.compared, seconds, spent)

    def recall(self) -> float:
        """Recall@100 on the validation part."""
        return validation_metrics(self.model, self.data)["recall@100"]


class Theirs:
    """torch-rechub's: its `DSSM`, `MatchDataGenerator`, `DataLoader` and `MatchTrainer`.

    Args:
        data: the same histories.
        dims: widths of both towers.
        in_batch: its softmax over the other items of the batch instead of drawn negatives.
        batch_size: pairs per step.
        seed: of weights, order and negatives.
    """

    def __init__(self, data: TowerData, dims: list[int], in_batch: bool, batch_size: int, seed: int) -> None:
        from torch_rechub.basic.features import SequenceFeature, SparseFeature
        from torch_rechub.models.matching import DSSM
        from torch_rechub.trainers import MatchTrainer
        from torch_rechub.utils.data import TorchDataset

        torch.manual_seed(seed)
        self.data, self.in_batch = data, in_batch
        self.compared = batch_size if in_batch else 1 + NEGATIVES
        inputs = self._rows(0 if in_batch else NEGATIVES, seed)
        self.positives = int(inputs["label"].sum())
        labels = inputs.pop("label")
        user = [SparseFeature("user_id", vocab_size=len(data.history.ptr), embed_dim=DIM)]
        shared = {"embed_dim": DIM, "padding_idx": 0}
        user += [SequenceFeature("hist_item", data.num_items + 1, pooling="mean", shared_with="item_id", **shared)]
        item = [SparseFeature("item_id", vocab_size=data.num_items + 1, **shared)]
        towers = {"dims": dims, "activation": "prelu"}
        self.model = DSSM(user, item, temperature=0.02, user_params=towers, item_params=dict(towers))
        options = {"lr": 1e-3 if in_batch else 1e-4, "weight_decay": 1e-6}
        self.trainer = MatchTrainer(
            self.model, mode=0, in_batch_neg=in_batch, sampler_seed=seed, optimizer_params=options, n_epoch=1
        )
        # `MatchDataGenerator.generate_dataloader` with num_workers = 0, its training part alone.
        self.loader = torch.utils.data.DataLoader(TorchDataset(inputs, labels), batch_size=batch_size, shuffle=True)

    def _rows(self, negatives: int, seed: int) -> dict[str, I64]:
        """The arrays its own helpers make of a log: a row per pair, history first to last, padded in front with 0."""
        history = self.data.history
        stops = self.data.ends(Part.VALID)
        owner = np.repeat(np.arange(history.num_users), stops - history.ptr[:-1])
        at = np.concatenate([np.arange(a, b) for a, b in zip(history.ptr[:-1], stops, strict=True)])
        owner, at = owner[at > history.ptr[owner]], at[at > history.ptr[owner]]  # it drops events without a history
        positions = at[:, None] - np.arange(HISTORY, 0, -1)
        known = positions >= history.ptr[owner][:, None]
        past = np.where(known, history.items[np.maximum(positions, 0)] + 1, 0)
        times = 1 + negatives
        items = np.repeat(history.items[at].astype(np.int64) + 1, times).reshape(-1, times)
        count = np.bincount(history.items[at], minlength=self.data.num_items) ** 0.75
        rng = np.random.default_rng(seed)
        items[:, 1:] = 1 + rng.choice(self.data.num_items, (len(at), negatives), p=count / count.sum())
        labels = np.zeros_like(items)
        labels[:, 0] = 1
        return {
            "user_id": np.repeat(owner + 1, times),
            "hist_item": np.repeat(past, times, axis=0),
            "item_id": items.reshape(-1),
            "label": labels.reshape(-1),
        }

    def epoch(self) -> Pass:
        """One more pass."""
        clock, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            self.trainer.train_one_epoch(self.loader)
        seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
        return Pass(self.positives, self.positives * self.compared, seconds, spent)

    @torch.no_grad()
    def recall(self) -> float:
        """Recall@100 on the validation part."""
        users, seen, truth = requests(self.data, Part.VALID)
        stops = self.data.ends(Part.VALID)[users]
        positions = stops[:, None] - np.arange(HISTORY, 0, -1)
        known = positions >= self.data.history.ptr[users][:, None]
        past = np.where(known, self.data.history.items[np.maximum(positions, 0)] + 1, 0)
        self.model.eval()
        asked = {"user_id": torch.from_numpy(users + 1), "hist_item": torch.from_numpy(past)}
        vectors = self.model.user_tower(asked).numpy()
        catalogue = {"item_id": torch.arange(1, self.data.num_items + 1)}
        ranks = exact_ranks(vectors, self.model.item_tower(catalogue).numpy(), truth, seen)
        return float(rank_metrics(ranks, truth.lengths, [100], ("recall",)).means()["recall@100"] or 0.0)


def measure(run: Ours | Theirs, passes: int) -> dict[str, float]:
    """Positives per second over some epochs, the median; the first epoch warms up and counts for nothing."""
    run.epoch()
    done = [run.epoch() for _ in range(passes)]
    return {
        "rows_per_second": statistics.median(one.positives / one.seconds for one in done),
        "rows_per_cpu_second": statistics.median(one.positives / one.cpu_seconds for one in done),
        "pairs_per_second": statistics.median(one.compared / one.seconds for one in done),
        "compared_with": done[0].compared / done[0].positives,
        "positives": done[0].positives,
    }


def curve(run: Ours | Theirs, epochs: int) -> list[dict[str, float]]:
    """Seconds of training and recall after every epoch."""
    seconds, found = 0.0, []
    for _ in range(epochs):
        seconds += run.epoch().seconds
        found.append({"seconds": seconds, "recall@100": run.recall()})
    return found


def main() -> None:
    """Parse, time all in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--users", type=int, default=600, help="whose events both learn from; 0: all 6,040")
    parser.add_argument("--passes", type=int, default=1, help="timed epochs of each, after one to warm up")
    parser.add_argument("--epochs", type=int, default=0, help="also compare recall over this many epochs")
    parser.add_argument("--threads", type=int, default=1, help="0: torch's choice")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if importlib.util.find_spec("torch_rechub") is None:
        print("torch-rechub is not installed, so there is nothing to compare with: pip install torch-rechub")
        return
    runtime = start_runtime(RuntimeConfig(threads=options.threads, precision="float32"), options.seed)
    dataset = load(options.users, options.seed)
    tower = TwoTowerConfig(
        dim=DIM,
        user_features=("user_id",),
        item_features=("item_id",),
        event_features=(),
        history=TowerHistory(encoder="mean", window=HISTORY),
    )
    config = RetrievalConfig(tower=tower)
    pairs = RetrievalConfig(tower=tower, loss="bce")
    data = TowerData.of(dataset, config.tower, "")
    epochs = max(1 + options.passes, options.epochs)
    reduced = replace(runtime, precision="bf16")
    seed = options.seed
    runs: list[tuple[str, Any]] = [("library", lambda: Ours(data, config, runtime, seed, epochs))]
    if bf16_is_fast():
        runs.append(("library, bfloat16 products", lambda: Ours(data, config, reduced, seed, epochs)))
    runs += [
        ("library, pairs", lambda: Ours(data, pairs, runtime, seed, epochs)),
        (EXAMPLE, lambda: Theirs(data, [256, 128, 64], False, 4096, seed)),
        ("torch-rechub, small towers", lambda: Theirs(data, [128, 64], False, 4096, seed)),
        ("torch-rechub, softmax in batch", lambda: Theirs(data, [128, 64], True, 512, seed)),
    ]
    print(f"{len(dataset.user_ids)} users in the table, {options.users or 'all'} with events; {data.num_items} items")
    print(f"{'':<32} {'rows/s':>10} {'rows/cpu s':>11} {'compared with':>14} {'pairs/s':>14}")
    rows = {}
    for name, build in runs:
        found = rows[name] = measure(build(), options.passes)
        print(
            f"{name:<32} {found['rows_per_second']:>10,.0f} {found['rows_per_cpu_second']:>11,.0f} "
            f"{found['compared_with']:>14,.0f} {found['pairs_per_second']:>14,.0f}"
        )
    example = rows[EXAMPLE]["rows_per_cpu_second"]
    ratios = {name: row["rows_per_cpu_second"] / example for name, row in rows.items()}
    for name in ("library", "library, pairs"):
        print(f"{name} / {EXAMPLE}: {ratios[name]:.1f} (rows per second of CPU time)")
    curves = {}
    if options.epochs:
        for name, build in (runs[0], runs[-3], runs[-1]):
            curves[name] = curve(build(), options.epochs)
            best = max(curves[name], key=lambda point: point["recall@100"])
            print(f"{name:<32} best recall@100 {best['recall@100']:.4f} after {best['seconds']:.0f} s of training")
    if options.out:
        result = {
            "threads": runtime.threads,
            "torch_rechub": version("torch-rechub"),
            "users_with_events": options.users or len(dataset.user_ids),
            "items": data.num_items,
            "sizes": {"embedding": DIM, "history": HISTORY},
            "seed": options.seed,
            "rows": rows,
            "ratio_to_example": ratios,
            "recall": curves,
        }
        write_speed(options.out, "two_tower_throughput", result)


if __name__ == "__main__":
    main()
