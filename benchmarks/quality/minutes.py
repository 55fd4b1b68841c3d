"""The best minute there is: validation quality against the CPU seconds of training, ours beside the classics.

Each row is one training from nothing on the training part of a log whose last items are left out: EASE, item-kNN and
transitions as the library has them, `implicit`'s ALS and BPR with their own user factors, and the towers, whose
schedule is laid out for so many epochs. Seconds are CPU seconds of the fit alone, on one thread: the log is read and
encoded before, and figures are computed after. What is ranked is every item that the user has not met, and only the
validation part is asked. A row is on the front if nothing is better in less time.

python benchmarks/quality/minutes.py --data beauty     # writes docs/results/minutes-beauty.json and .png
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from recsys.base.arrays import F32
from recsys.base.files import write_whole
from recsys.base.topk import ranks_of_scores
from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.provenance import RESULTS, Json, provenance
from recsys.benchmarks.harness.session import say
from recsys.benchmarks.quality.tower_cost import load, variant_of
from recsys.configs.run import RunConfig
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.evaluation.metrics.lists import rank_metrics
from recsys.retrieval.baselines.base import BASELINES, Histories
from recsys.retrieval.towers.train import build_towers, fit_towers, requests, validation_metrics
from recsys.retrieval.towers.windows import TowerData
from recsys.training.runtime import start_runtime

FAST = "tower.user_features=[],tower.neighbours=10,loss=estimated,negatives=4096,optim.table_lr=0.006"
WHOLE = "tower.user_features=[],tower.neighbours=10"
TOWERS = {"towers, estimated softmax": FAST, "towers, whole softmax": WHOLE}
"""Row -> settings of `[retrieval]`."""
ITERATIONS: Mapping[str, tuple[int, ...]] = {"als": (2, 5, 15, 40), "bpr": (20, 60, 200, 600)}
CLASSICS = ("popularity", "item_knn", "ease", "transition")
METRICS = ("ndcg@10", "recall@10", "recall@100")
SHOWN = {"beauty": "Amazon Beauty", "movielens": "MovieLens-1M", "ml-100k": "MovieLens-100K"}
Events = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def events_of(data: TowerData) -> Events:
    """Users, items and times of the training events."""
    history = data.history
    owner, known = np.repeat(np.arange(history.num_users), np.diff(history.ptr)), history.parts < Part.VALID
    return owner[known], history.items[known].astype(np.int64), history.times[known]


def judged(data: TowerData, score: Callable[[slice], F32]) -> dict[str, float]:
    """Figures of scores of the validation requests' users."""
    _, seen, truth = requests(data, Part.VALID)
    ranks = ranks_of_scores(score, data.num_items, truth, seen)
    means = rank_metrics(ranks, truth.lengths, [10, 100], ("recall", "ndcg")).means()
    return {name: float(means[name] or 0.0) for name in METRICS}


def classic(data: TowerData, name: str) -> Json:
    """A baseline of the library."""
    users, items, times = events_of(data)
    timed = bool(np.isfinite(times).all()) and times.size > 0
    kind = BASELINES[name]
    baseline = kind(kind.settings_class.model_validate({"max_items": data.num_items} if name == "ease" else {}))
    started = time.process_time()
    fitted = baseline.fit(users, items, times if timed else None, data.history.num_users, data.num_items)
    seconds = time.process_time() - started
    asked, _, _ = requests(data, Part.VALID)
    past = Histories(data.history.between(data.history.ptr[:-1][asked], data.ends(Part.VALID)[asked]))
    return {"cpu_seconds": seconds, **judged(data, lambda rows: fitted.score(past.block(rows.start, rows.stop)))}


def factors(data: TowerData, name: str, iterations: int, seed: int) -> Json:
    """`implicit`'s own factorisation, of users and items alike."""
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    users, items, _ = events_of(data)
    matrix = csr_matrix(
        (np.ones(len(users), dtype=np.float32), (users, items)), (data.history.num_users, data.num_items)
    )
    matrix.data[:] = 1.0
    common = {"factors": 64, "iterations": iterations, "random_state": seed, "num_threads": 1, "use_gpu": False}
    model = (
        AlternatingLeastSquares(regularization=0.05, alpha=5.0, **common)
        if name == "als"
        else BayesianPersonalizedRanking(regularization=0.01, learning_rate=0.05, **common)
    )
    started = time.process_time()
    model.fit(matrix, show_progress=False)
    seconds = time.process_time() - started
    of_users, of_items = np.asarray(model.user_factors), np.asarray(model.item_factors)
    asked, _, _ = requests(data, Part.VALID)
    return {"cpu_seconds": seconds, **judged(data, lambda rows: of_users[asked[rows]] @ of_items.T)}


def towers(dataset: Dataset, config: RunConfig, seed: int) -> Json:
    """A training of the towers; the last epoch's weights, as its schedule ends there."""
    section = config.retrieval.model_copy(
        update={"fit": config.retrieval.fit.model_copy(update={"metric": ""})}  # nothing chooses an epoch
    )
    runtime = start_runtime(config.runtime, seed)
    training = build_towers(dataset, section, seed)
    cpu, wall = time.process_time(), time.perf_counter()
    log = fit_towers(training, section, runtime, seed)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)  # of a core, on a machine that others use too
    seconds = share * sum(record["seconds"] for record in log.records)  # without the epochs' validations
    return {
        "cpu_seconds": seconds,
        **{n: v for n, v in validation_metrics(training.model, training.data).items() if n in METRICS},
    }


def front(rows: Mapping[str, Json]) -> list[str]:
    """Rows that nothing beats in less time, the fastest first."""
    found: list[str] = []
    for name in sorted(rows, key=lambda one: float(rows[one]["cpu_seconds"])):
        if not found or rows[name]["ndcg@10"] > rows[found[-1]]["ndcg@10"]:
            found.append(name)
    return found


def draw(rows: Mapping[str, Json], data: str) -> None:
    """Quality over seconds, one line a kind."""
    with panels(RESULTS / f"minutes-{data}.png", 1, (7.5, 4.4), title=f"{SHOWN[data]}: what a training time buys") as [
        axes
    ]:
        kinds: dict[str, list[Json]] = {}
        for name, row in rows.items():
            kinds.setdefault(name.split(" x ")[0], []).append(row)
        for kind, points in kinds.items():
            ordered = sorted(points, key=lambda row: float(row["cpu_seconds"]))
            x, y = [max(row["cpu_seconds"], 0.01) for row in ordered], [row["ndcg@10"] for row in ordered]
            axes.plot(x, y, marker="o", markersize=4, linewidth=1.2, label=kind)
        axes.set_xscale("log")
        axes.set_xlabel("CPU seconds of the fit, one thread")
        axes.set_ylabel("NDCG@10 of the validation part")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7)


def main() -> None:
    """Parse, train each row, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SHOWN), default="beauty")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of what is trained (default: 1)")
    parser.add_argument("--fast", type=int, nargs="*", default=[1, 2, 3, 4, 6, 9, 14], help="epochs, estimated softmax")
    parser.add_argument("--whole", type=int, nargs="*", default=[1, 2, 4, 8, 12], help="epochs, softmax over all items")
    options = parser.parse_args()
    dataset, config = load(options.data)
    section = variant_of(config, WHOLE, 1).retrieval
    data = TowerData.of(dataset, section.tower, section.positive, section.seen)
    tries: dict[str, list[Json]] = {}

    def keep(name: str, row: Json) -> None:
        tries.setdefault(name, []).append(row)
        say(f"{row['cpu_seconds']:8.1f} CPU s  " + " ".join(f"{n} {row[n]:.4f}" for n in METRICS) + f"  {name}")

    for name in CLASSICS:
        keep(name, classic(data, name))
    for seed in options.seeds:
        for name, counts in ITERATIONS.items():
            for count in counts:
                keep(f"implicit's {name.upper()} x {count} iterations", factors(data, name, count, seed))
        for (name, settings), epochs in zip(TOWERS.items(), (options.fast, options.whole), strict=True):
            for count in epochs:
                given = variant_of(config, f"{settings},fit.epochs={count}", 1)
                keep(f"{name} x {count} epochs", towers(dataset, given, seed))
    rows = {
        name: {key: statistics.mean(one[key] for one in found) for key in ("cpu_seconds", *METRICS)}
        for name, found in tries.items()
    }
    draw(rows, options.data)
    told = {"seeds": options.seeds, "fast": options.fast, "whole": options.whole}
    words = " ".join(f"--{name} {' '.join(map(str, numbers))}" for name, numbers in told.items())
    command = f"python benchmarks/quality/minutes.py --data {options.data} {words}"
    record = {"minutes": options.data, "title": SHOWN[options.data], "command": command, **provenance()}
    record |= {"data_sha256": dataset.fingerprint, "seeds": options.seeds, "front": front(rows), "rows": rows}
    write_whole(RESULTS / f"minutes-{options.data}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
