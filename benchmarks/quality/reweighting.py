"""Sample reweighting and its correction: likes that weigh ten, on KuaiRand.

A shared bottom by the recipe of the ranking tables, trained with `positive_weight = { like = 10 }`, and without. What
its probabilities of a like are worth on the unweighted test rows: as they are, and with the weight taken out by the
closed form (`ranking.calibration.kind = "reweighting"`), which reads it from the training.

    python benchmarks/quality/reweighting.py --seeds 1,2,3
"""

from __future__ import annotations

import time

import numpy as np

from recsys.base.arrays import Floats
from recsys.benchmarks.harness.finished import Arrays, Done, of_seeds
from recsys.benchmarks.harness.provenance import Json
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import Session, parser, run, say, start
from recsys.benchmarks.harness.sources import load
from recsys.benchmarks.quality.ranking import SOURCES, TITLES, few_rows
from recsys.benchmarks.quality.ranking_variants import RECIPES, Table, Variant, bottom, ranking_config
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.evaluation.metrics.calibration import ece, predicted_to_observed
from recsys.evaluation.metrics.rows import auc, logloss
from recsys.ranking.scoring import score_rows
from recsys.ranking.train import train_ranker

TASK = "like"
WEIGHT = 10.0
ROWS: dict[str, tuple[str, float]] = {
    "unweighted": ("likes weigh 1", 1.0),
    "weighted": ("likes weigh 10, probabilities as they come", WEIGHT),
    "corrected": ("the same network, the weight taken out in closed form", WEIGHT),
}


def judged(labels: Floats, probabilities: Floats) -> dict[str, float]:
    """Log-loss, AUC, calibration error, and mean prediction over base rate."""
    values = {
        "test/logloss": logloss(labels, probabilities),
        "test/auc": auc(labels, probabilities),
        "test/ece": ece(labels, probabilities),
        "test/ratio": predicted_to_observed(labels, probabilities),
    }
    return {name: value for name, value in values.items() if value is not None}


def train(dataset: Dataset, weight: float, seed: int, session: Session) -> tuple[dict[str, float], Arrays, Json]:
    """One training: metrics without and with the correction."""
    started = time.perf_counter()
    loss: Table = {"loss": {"positive_weight": {TASK: weight}}} if weight != 1.0 else {}
    config = ranking_config(
        Variant("reweighting", "", bottom, train=loss, matched=False), RECIPES["kuairand"], dataset.task_names, 256
    )
    closed = config.calibration.model_copy(update={"kind": "reweighting"})
    config = config.model_copy(update={"calibration": closed})
    trained = train_ranker(dataset, config, session.runtime(seed), seed)
    rows = dataset.rows(Part.TEST)
    logits = score_rows(trained.ranker, dataset, rows)[TASK].astype(np.float64)
    labels = dataset.events.labels[rows.numpy(), dataset.task_names.index(TASK)].astype(np.float64)
    metrics = {f"plain/{name}": value for name, value in judged(labels, 1 / (1 + np.exp(-logits))).items()}
    metrics |= {f"corrected/{name}": value for name, value in judged(labels, trained.calibrators[TASK](logits)).items()}
    return metrics | {"seconds": time.perf_counter() - started}, {}, config.model_dump(mode="json")


def main() -> None:
    """See the module."""
    session = start(parser(__doc__ or "", []))
    dataset = load(SOURCES["kuairand"])[1]
    if session.smoke:
        dataset = few_rows(dataset, 3000)
    columns = {
        "test/logloss": f"log-loss {TASK}",
        "test/ece": "calibration error",
        "test/ratio": "mean prediction / base rate",
        "test/auc": "AUC",
    }
    about = [" ".join((__doc__ or "").split("\n\n")[1].split())]
    book = Book(
        "reweighting-kuairand",
        f"Reweighting: {TITLES['kuairand']}",
        about,
        columns,
        session.command,
        folder=session.args.out,
    )
    done = Done(session.args.cache / "reweighting")
    for name, (line, weight) in ROWS.items():
        seen: dict[int, tuple[Json, Arrays]] = {}
        for seed in session.seeds:
            settings: Json = {"weight": weight, "task": TASK}

            def measure(weight: float = weight, seed: int = seed) -> tuple[dict[str, float], Arrays]:
                return train(dataset, weight, seed, session)[:2]

            about_seed, arrays = done.seed(f"weight-{weight:g}", seed, settings, measure, session.args.again)
            side = "corrected/" if name == "corrected" else "plain/"
            every = about_seed["metrics"]
            metrics = {key.removeprefix(side): every[key] for key in every if key.startswith(side)}
            seen[seed] = ({**about_seed, "metrics": metrics}, arrays)
            say(f"  {name}, seed {seed}: " + " ".join(f"{key} {value:.5f}" for key, value in metrics.items()))
        record = Record(
            variant=name,
            group="likes that weigh ten",
            about=line,
            command=session.command_of(name),
            seeds=session.seeds,
            data=dataset.fingerprint,
            settings={"weight": weight, "task": TASK},
            **of_seeds(seen),
        )
        book.add(record)


if __name__ == "__main__":
    run(main)
