"""What labels of logged rows say before training: their unit, where a task starts, which metric can pick an epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..base.arrays import F64, Floats
from ..data.dataset import Dataset
from ..data.schema import TaskSpec

log = logging.getLogger(__name__)


def label_values(task: TaskSpec, outputs: Floats) -> F64:
    """Outputs of a regression task in the unit of its label, float64 of the same shape."""
    values = outputs.astype(np.float64)
    return np.expm1(values) if task.log1p else values


def base_rates(dataset: Dataset, rows: Tensor, positive_weight: Mapping[str, float] | None = None) -> dict[str, float]:
    """Task -> the mean of its labels on logged rows, of a `log1p` task the mean logarithm, as its output is trained.

    Rows that weigh differently count by their weights, as in the loss, so that a weighted task starts at the weighted
    rate that its output is trained to.

    Args:
        dataset: encoded data.
        rows: int64 [R] event rows.
        positive_weight: see `LossConfig.positive_weight`.
    """
    events, chosen = dataset.events, rows.numpy()
    labels, mask = events.labels[chosen], events.mask[chosen]
    count = np.maximum(mask.sum(0), 1)
    rates = {}
    for i, task in enumerate(dataset.config.tasks):
        inside, positive = mask[:, i], (positive_weight or {}).get(task.name, 1.0)
        weights = events.weights_of(i)[chosen]
        targets = np.where(inside, np.log1p(labels[:, i]), 0.0) if task.log1p else labels[:, i]
        if (weights != 1.0).any() or positive != 1.0:
            own, seen = weights[inside].astype(np.float64), targets[inside].astype(np.float64)
            # a label between 0 and 1 (a teacher's) is partly of either class, as in `task_loss`
            total = (own * (1.0 + (positive - 1.0) * seen)).sum()
            rates[task.name] = float(positive * (own * seen).sum() / total) if total > 0 else float("nan")
        else:
            rates[task.name] = float(targets.sum() / count[i])
    return rates


def row_metric(dataset: Dataset, valid_rows: Tensor) -> str:
    """The metric of logged validation rows that picks the epoch; empty where their labels allow none.

    AUC where a binary task has both classes there, else the log-loss of binary tasks, else Spearman's correlation of
    regression tasks.
    """
    labels, mask = dataset.events.labels[valid_rows.numpy()], dataset.events.mask[valid_rows.numpy()]
    observed = {
        kind: [labels[mask[:, i], i] for i, task in enumerate(dataset.config.tasks) if task.kind == kind]
        for kind in ("binary", "regression")
    }
    varied = {kind: any(len(np.unique(column)) > 1 for column in columns) for kind, columns in observed.items()}
    if varied["binary"]:
        return "auc"
    if any(len(column) for column in observed["binary"]):
        log.warning("no binary task has both classes among the validation rows: the least log-loss picks the epoch")
        return "logloss"
    return "spearman" if varied["regression"] else ""
