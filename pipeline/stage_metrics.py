"""The figures of each stage on the test part: the retrievers' lists, the index, and the ranker's rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base.arrays import AnyArray, Ints
from ..base.finding import Finding
from ..base.ragged import Ragged
from ..data.split import Part
from ..evaluation.config import EvaluationConfig
from ..evaluation.guards import embeddings_collapsed, index_faults, miscalibrated, worse_than_popularity
from ..evaluation.metrics.lists import UserMetrics, list_metrics
from ..evaluation.summary import combine, ranking_metrics, regression_metrics, retrieval_metrics
from ..funnel.run import TrainedRun
from ..ranking.calibrate import FITTED, sigmoid
from ..retrieval.retriever import TOWER
from .trace import Bench

Json = dict[str, Any]


def retrieval_figures(bench: Bench, values: dict[str, AnyArray]) -> tuple[Json, list[Finding]]:
    """Metrics of each retriever's lists, and what is wrong with them; the values of every user go into `values`."""
    trained, (_, _, truth) = bench.trained, bench.asked
    config = trained.config.evaluation
    reports = {
        name: retrieval_metrics(
            rows,
            truth,
            num_items=trained.dataset.num_catalogue,
            config=config,
            popularity=bench.popularity,
            item_vectors=bench.retriever.likeness(),
        )
        for name, rows in bench.systems.items()
    }
    metrics = {name: remember(name, rows, truth, trained, values) for name, rows in bench.systems.items()}
    findings: list[Finding] = list(embeddings_collapsed(bench.retriever.likeness()))
    if "popularity" in metrics:
        deepest = max(cutoffs(config, bench.systems[TOWER]))
        findings += worse_than_popularity(metrics[TOWER], metrics["popularity"], f"recall@{deepest}", config)
    if bench.retriever.index is not None:
        some = bench.queries[:256].reshape(-1, bench.queries.shape[-1])
        answer = bench.retriever.index.search(some, min(10, trained.dataset.num_catalogue))
        findings += index_faults(some, bench.retriever.item_vectors, answer.rows, answer.scores, tolerance=0.05)
    return combine(reports), findings


def ranking_figures(bench: Bench, values: dict[str, AnyArray]) -> tuple[Json, list[Finding]]:
    """Metrics of each task on the logged rows, and what is wrong with them; every row's values go into `values`."""
    trained = bench.trained
    config = trained.config.evaluation
    rows = trained.dataset.rows(Part.TEST).numpy()
    users = trained.dataset.events.users[rows] if trained.dataset.config.user else np.arange(len(rows))
    values["rows/users"] = users
    out: Json = {}
    findings: list[Finding] = []
    fitted = trained.config.ranking.calibration.kind in FITTED
    for task, (mask, labels, logits) in bench.task_rows().items():
        calibrator = trained.calibrators.get(task)
        before = sigmoid(logits)
        after = calibrator(logits) if calibrator is not None else before
        metrics = ranking_metrics(labels, after, users, mask, config=config)
        if calibrator is not None:
            raw = ranking_metrics(labels, before, users, mask, config=config.model_copy(update={"draws": 0}))
            metrics["reliability_before"], metrics["ece_before"] = raw.get("reliability"), raw.get("ece")
        out[task] = metrics
        findings += miscalibrated(
            task, labels[mask], after[mask], users[mask], config=config, calibrated=fitted and calibrator is not None
        )
        values[f"rows/{task}"] = np.where(mask, after, np.nan).astype(np.float32)
        values[f"rows/{task}/label"] = np.where(mask, labels, np.nan).astype(np.float32)
    for task, (mask, labels, predictions) in bench.value_rows().items():
        out[task] = regression_metrics(labels, predictions, users, mask, config=config)
    return out, findings


def index_figures(trained: TrainedRun) -> Json:
    """What the index measured when it was built."""
    if trained.index_report is None:
        return {"factory": None, "note": "no index yet: recsys build-index; figures above are of exact search"}
    return dict(trained.index_report)


def remember(name: str, rows: Ints, truth: Ragged, trained: TrainedRun, values: dict[str, AnyArray]) -> UserMetrics:
    """Per-user metrics of one system, kept for `recsys compare`."""
    metrics = list_metrics(rows, truth, cutoffs(trained.config.evaluation, rows))
    for metric, per_user in metrics.values.items():
        values[f"{name}/{metric}"] = per_user.astype(np.float32)
    return metrics


def cutoffs(config: EvaluationConfig, rows: Ints) -> list[int]:
    """The configured cut-offs that lists `[U, k]` reach: a small catalogue has no hundred items."""
    return [k for k in config.ks if k <= rows.shape[1]] or [rows.shape[1]]
