"""What a trained ranker says of the validation part: logits of logged rows and of requests, and their metrics."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..base.arrays import F32, I64, Bool, Floats
from ..base.device import device_of, to_host
from ..base.ragged import Ragged
from ..data.dataset import Dataset
from ..evaluation.metrics.lists import rank_metrics
from ..evaluation.metrics.regression import mae, r2, rmse, spearman
from ..evaluation.metrics.rows import auc, gauc, logloss
from ..training.loop import evaluation_mode
from .labels import label_values
from .losses import query_losses
from .ranker import Ranker
from .requests import SELECT, RequestSet

SCORE_ROWS = 8192
"""Logged rows scored at once."""
TOP = 10
"""Length of the list that NDCG judges."""


def score_rows(ranker: Ranker, dataset: Dataset, rows: Tensor) -> dict[str, F32]:
    """Logit (or value) of every task on logged rows, task -> float32 [R]."""
    parts: dict[str, list[F32]] = {}
    device = device_of(ranker)
    with evaluation_mode(ranker):
        for start in range(0, len(rows), SCORE_ROWS):
            for name, logits in ranker(dataset.batch(rows[start : start + SCORE_ROWS]).to(device)).items():
                parts.setdefault(name, []).append(to_host(logits))
    return {name: np.concatenate(found) for name, found in parts.items()}


def row_metrics(ranker: Ranker, dataset: Dataset, rows: Tensor) -> dict[str, float]:
    """`auc/<task>`, `gauc/<task>`, `logloss/<task>` of binary tasks on logged rows, and their means.

    Of regression tasks `rmse/<task>`, `mae/<task>`, `r2/<task>` and `spearman/<task>` in the label's unit, and the mean
    of the last, which alone does not hang on the unit. What is undefined on these rows is left out; only Spearman's
    correlation is NaN where labels vary and predictions do not.
    """
    logits = score_rows(ranker, dataset, rows)
    events, chosen = dataset.events, rows.numpy()
    metrics: dict[str, float] = {}
    for column, task in enumerate(dataset.config.tasks):
        mask = events.mask[chosen, column]
        if not mask.any():
            continue
        labels = events.labels[chosen, column][mask].astype(np.float64)
        scores = logits[task.name][mask].astype(np.float64)
        of_task: dict[str, float | None]
        if task.kind == "binary":
            of_task = {
                "auc": auc(labels, scores),
                "gauc": gauc(labels, scores, events.users[chosen][mask]) if dataset.config.user else None,
                "logloss": logloss(labels, 1.0 / (1.0 + np.exp(-scores))),
            }
        else:
            predictions = label_values(task, scores)
            order = spearman(labels, predictions)
            undefined = float("nan") if labels.min() < labels.max() else None
            of_task = {
                "rmse": rmse(labels, predictions),
                "mae": mae(labels, predictions),
                "r2": r2(labels, predictions),
                "spearman": undefined if order is None else order,
            }
        metrics |= {f"{name}/{task.name}": value for name, value in of_task.items() if value is not None}
    for name in ("auc", "gauc", "logloss", "spearman"):
        values = [value for key, value in metrics.items() if key.startswith(f"{name}/")]
        if values:
            metrics[name] = float(np.mean(values))
    return metrics


def request_logits(model: nn.Module, requests: RequestSet, block: int = 64) -> dict[str, F32]:
    """Logits of all requests' candidates, task -> float32 [Q, C], `select` among them."""
    parts: dict[str, list[F32]] = {}
    device = device_of(model)
    with evaluation_mode(model):
        for start in range(0, len(requests), block):
            chosen = torch.arange(start, min(start + block, len(requests)))
            for name, logits in model(requests.batch(chosen).to(device)).items():
                parts.setdefault(name, []).append(to_host(logits.view(len(chosen), -1)))
    return {name: np.concatenate(found) for name, found in parts.items()}


def select_metrics(model: nn.Module, requests: RequestSet) -> dict[str, float]:
    """How the requests' candidates are ordered by `select`.

    Returns:
        `select_ndcg@10`, in which what the retriever missed counts as not found; and `select_loss`, the softmax
        cross-entropy of what was taken among what was not, where anything was found: it hears every rank, and so tells
        epochs apart with fewer requests.
    """
    scores = request_logits(model, requests)[SELECT]
    return {
        f"select_ndcg@{TOP}": request_ndcg(scores, requests.taken, requests.wanted),
        "select_loss": request_loss(scores, requests.taken),
    }


def request_loss(scores: Floats, taken: Bool) -> float:
    """Mean softmax cross-entropy of what was taken, see `losses.listwise_loss`; 0 where nothing was.

    Args:
        scores: float [Q, C], -inf at pads.
        taken: bool [Q, C] candidates that the requests ask for.
    """
    owner = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
    flat = torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float64).reshape(-1))
    losses, present = query_losses(flat, owner, torch.from_numpy(taken.reshape(-1)), len(scores))
    return float(losses.sum() / present.sum().clamp(min=1))


def request_ndcg(scores: Floats, taken: Bool, wanted: I64) -> float:
    """Mean NDCG@10 of what is asked for; what the retriever missed counts as not found.

    Args:
        scores: float [Q, C], -inf at pads; ties keep the order of the columns, as in service.
        taken: bool [Q, C] candidates that the requests ask for.
        wanted: int64 [Q] items that each asks for, those that are no candidates included.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    owner, place = np.nonzero(np.take_along_axis(taken, order, axis=1))
    found = rank_metrics(Ragged.from_pairs(owner, place + 1, len(scores)), wanted, [TOP], ["ndcg"]).means()
    return float(found[f"ndcg@{TOP}"] or 0.0)
