"""Conversion rates against the truth: what ESMM mends and what it leaves (ESMM, arXiv 1804.07931; ESCM2, 2204.05125).

In the embedded world (`recsys.data.world`) the probability that a click becomes a conversion is known for every
impression, clicked or not. A model trained on clicks only meets other impressions in service than in training. Its
error is measured where nobody could measure it in life: on *all* test impressions, and on pairs of users and items
nobody showed (drawn evenly). All models read the same inputs and have towers of the same size; the model trained on
clicks only stands alone (`clicks_only`, own tables) and beside a click task on shared tables (`shared_bottom`). Every
seed is another world and another start.

Reported of the predicted conversion rate p' against the true p: bias, mean(p' - p) / mean(p); rmse; excess log-loss
(the Kullback-Leibler distance, in 1/1000 nat); and AUC on the clicked test rows, the only number a log allows.

    python benchmarks/quality/esmm_truth.py --seeds 1-5
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from recsys.base.arrays import F64, AnyArray
from recsys.benchmarks.harness.figures import panels
from recsys.benchmarks.harness.finished import Arrays, Done, of_seeds
from recsys.benchmarks.harness.lab import fill, paragraphs
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, pick, run, say, start
from recsys.benchmarks.harness.sources import CONFIGS
from recsys.configs.run import load_config
from recsys.data.build import load_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.split import Part
from recsys.data.world.simulate import SimulateConfig, Truth, is_world, load_truth, simulate
from recsys.evaluation.metrics.rows import auc
from recsys.ranking.config import RankingConfig
from recsys.ranking.ranker import Ranker
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import train_ranker
from recsys.training.loop import evaluation_mode

FIGURE = "esmm-truth.png"
HIDDEN = [64, 32]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "clicks_only": ("conversion learned on clicked rows, tables of its own", {"kind": "single_task", "hidden": [64]}),
    "shared_bottom": (
        "the same on tables and trunk shared with the click task",
        {"kind": "shared_bottom", "bottom_hidden": [64]},
    ),
    "esmm": ("ESMM", {"kind": "esmm", "ctr_hidden": HIDDEN}),
    "escm2_ips": ("ESCM2, inverse propensity", {"kind": "escm2", "ctr_hidden": HIDDEN, "estimator": "ips"}),
    "escm2_dr": ("ESCM2, doubly robust", {"kind": "escm2", "ctr_hidden": HIDDEN, "estimator": "dr"}),
}
SPACES = {"clicked": "clicked", "all": "all impressions", "unclicked": "not clicked", "unshown": "pairs never shown"}
DECILES = 10
PAIR_USERS = 300


def errors(predicted: AnyArray, true: AnyArray) -> dict[str, float]:
    """Bias, rmse and excess log-loss of predicted probabilities."""
    p, q = np.clip(true.astype(np.float64), 1e-7, 1 - 1e-7), np.clip(predicted.astype(np.float64), 1e-7, 1 - 1e-7)
    distance = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return {
        "bias": float((q - p).mean() / p.mean()),
        "rmse": float(np.sqrt(((q - p) ** 2).mean())),
        "excess": 1000.0 * float(distance.mean()),
    }


@lru_cache(maxsize=1)
def world(folder: Path, config: SimulateConfig) -> tuple[Dataset, Truth]:
    """The world of a seed, made when it is not there, and its truth."""
    if not is_world(folder, config):
        simulate(config, folder)
    data = load_config(CONFIGS / "demo.toml").data
    return load_dataset(data, folder, seed=1), load_truth(folder)


def unshown(dataset: Dataset, truth: Truth, ranker: Ranker, seed: int) -> tuple[AnyArray, AnyArray]:
    """Predicted and true conversion rates of every item for some users, at the end of the log."""
    rng = np.random.default_rng([seed, 3])
    users = np.sort(rng.choice(dataset.num_users, min(PAIR_USERS, dataset.num_users), replace=False))
    items = np.arange(dataset.num_catalogue)
    logits = []
    with evaluation_mode(ranker):
        for start_at in range(0, len(users), 20):
            block = users[start_at : start_at + 20]
            batch = dataset.candidates(block, np.tile(items, (len(block), 1)), NOW)
            logits.append(ranker(batch)["conversion"].numpy())
    rows = np.searchsorted(truth.user_ids, [int(dataset.user_ids[user]) for user in users])
    columns = np.searchsorted(truth.item_ids, [int(dataset.item_ids[item]) for item in items])
    return sigmoid(np.concatenate(logits)), truth.p_conversion[np.ix_(rows, columns)].reshape(-1)


def sigmoid(x: AnyArray) -> F64:
    """Logits to probabilities."""
    return np.asarray(1.0 / (1.0 + np.exp(-x.astype(np.float64))))


def measure(session: Session, name: str, seed: int, config: SimulateConfig) -> tuple[dict[str, float], Arrays]:
    """Train one model in one world; errors by space, and the bias by decile of the true click probability."""
    started = time.perf_counter()
    dataset, truth = world(session.args.cache / "worlds" / f"{seed}-{config.sessions}", config)
    runtime = session.runtime(seed)
    ranker = train_ranker(dataset, settings_of(name, session.smoke), runtime, seed).ranker
    rows = dataset.rows(Part.TEST)
    source = dataset.events.source_rows[rows.numpy()]
    p_click, p_true = truth.event_p_click[source], truth.event_p_conversion[source]
    predicted = sigmoid(score_rows(ranker, dataset, rows)["conversion"])
    click, conversion = (dataset.task_names.index(task) for task in ("click", "conversion"))
    labels = dataset.events.labels[rows.numpy()]
    clicked = labels[:, click] > 0
    pairs = unshown(dataset, truth, ranker, seed)
    spaces = {
        "clicked": (predicted[clicked], p_true[clicked]),
        "all": (predicted, p_true),
        "unclicked": (predicted[~clicked], p_true[~clicked]),
        "unshown": pairs,
    }
    metrics = {f"{key}/{space}": value for space, both in spaces.items() for key, value in errors(*both).items()}
    metrics["auc/clicked"] = auc(labels[clicked, conversion].astype(np.float64), predicted[clicked]) or float("nan")
    metrics["order/all"] = _agreement(predicted, p_true)
    edges = np.quantile(p_click, np.linspace(0, 1, DECILES + 1)[1:-1])
    decile = np.searchsorted(edges, p_click, side="right")
    means = [
        np.bincount(decile, values, DECILES) / np.bincount(decile, minlength=DECILES) for values in (predicted, p_true)
    ]
    metrics["seconds"] = time.perf_counter() - started
    return metrics, {"predicted": means[0], "true": means[1]}


def _agreement(predicted: AnyArray, true: AnyArray) -> float:
    """Rank correlation (Spearman) of predicted and true rates."""
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (predicted, true)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def settings_of(name: str, smoke: bool) -> RankingConfig:
    """`[ranking]` of a model."""
    model = {"dropout": 0.1, "tower_hidden": [32], "input": {"embedding_dim": 8}, **MODELS[name][1]}
    table = {
        "model": model,
        "fit": {"epochs": 1 if smoke else 3, "metric": "logloss/conversion", "patience": 0},
        "select": {"enabled": False},
        "calibration": {"kind": "none"},
        "warm_start": False,
    }
    return RankingConfig.model_validate(table)


def record(session: Session, done: Done, name: str, size: Mapping[str, int]) -> Record:
    """All seeds of a model."""
    settings: Json = {"ranking": settings_of(name, session.smoke).model_dump(mode="json"), "world": dict(size)}
    found = {}
    for seed in session.seeds:

        def now(seed: int = seed) -> tuple[dict[str, float], Arrays]:
            metrics, arrays = measure(session, name, seed, SimulateConfig(seed=seed, **size))
            say(f"  world {seed}: bias {metrics['bias/all']:+.3f}, excess log-loss {metrics['excess/all']:.2f}")
            return metrics, arrays

        found[seed] = done.seed(name, seed, settings, now, session.args.again)
    curves = [[arrays["predicted"].tolist(), arrays["true"].tolist()] for _, arrays in found.values()]
    return Record(
        variant=name,
        group="models",
        about=MODELS[name][0],
        command=session.command_of(name),
        seeds=session.seeds,
        data="simulated",
        settings=settings,
        extra={"by_decile": np.mean(curves, axis=0).tolist()},
        **of_seeds(found),
    )


def draw(records: Mapping[str, Json], file: Path) -> None:
    """Left: predicted over true rate by decile of the click probability. Right: errors by space."""
    with panels(file, 2, (11, 4.2)) as (left, right):
        there = [name for name in MODELS if name in records]
        for name in there:
            predicted, true = (np.array(values) for values in records[name]["extra"]["by_decile"])
            left.plot(np.arange(1, DECILES + 1), predicted / true, marker="o", label=name)
        left.axhline(1.0, color="grey", linewidth=0.8)
        left.set(
            xlabel="decile of the true click probability (10: most clicked)",
            ylabel="predicted / true conversion rate",
            title="where the bias sits",
        )
        left.legend(fontsize=8)
        width = 0.8 / max(1, len(there))
        for place, name in enumerate(there):
            mean, sd = records[name]["mean"], records[name]["sd"]
            at = np.arange(len(SPACES)) + place * width - 0.4 + width / 2
            heights = [mean[f"rmse/{space}"] for space in SPACES]
            right.bar(at, heights, width, yerr=[sd[f"rmse/{space}"] or 0.0 for space in SPACES], capsize=2, label=name)
        right.set_xticks(np.arange(len(SPACES)), list(SPACES.values()))
        right.set(ylabel="rmse of the conversion rate", title="error against the truth, mean and sd over worlds")


def main() -> None:
    """See the module."""
    options = parser(__doc__ or "", [], seeds="1-5")
    options.add_argument("--users", type=int, default=4000, help="of each world (default: %(default)s)")
    options.add_argument("--items", type=int, default=1000, help="of each world (default: %(default)s)")
    options.add_argument("--sessions", type=int, default=40_000, help="slates of ten shown (default: %(default)s)")
    session = start(options)
    args = session.args
    if args.list:
        print("\n".join(MODELS))
        return
    size = {"users": args.users, "items": args.items, "sessions": args.sessions}
    if session.smoke:
        size = {"users": 200, "items": 100, "sessions": 1200}
    columns = {f"bias/{space}": f"bias, {words}" for space, words in SPACES.items()}
    columns |= {f"excess/{space}": f"excess log-loss, {words}" for space, words in SPACES.items()}
    columns |= {"rmse/all": "rmse, all impressions", "order/all": "rank correlation with the truth"}
    columns |= {"auc/clicked": "AUC on clicks", "seconds": "seconds"}
    about = paragraphs(__doc__)
    title = "Conversion rates against the truth (embedded world)"
    book = Book("esmm-truth", title, about, columns, session.command, folder=args.out, figures=[FIGURE])
    names = pick(dict.fromkeys(MODELS, "models"), args.variants, args.shard)
    done = Done(args.cache / "esmm-truth")
    fill(book, session, names, "simulated", lambda name: record(session, done, name, size))
    draw(book.variants(), args.out / FIGURE)


if __name__ == "__main__":
    run(main)
