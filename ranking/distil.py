"""Learning from teachers: a ranker for all tasks whose training labels are partly what single-task models predict.

A network that shares its layers between tasks can be worse at some of them than a network for that task alone (the
see-saw of Tang et al., RecSys 2020). Here the networks for one task each, trained first and averaged over several
seeds, become its teachers: with share s every training label y turns into `(1 - s) y + s p`, p the teachers' mean
prediction (distillation, Hinton et al., arXiv 1503.02531, section 2, at temperature 1; of single-task teachers into a
multi-task student, Clark et al., arXiv 1907.04829). Boosted trees teach likewise. Validation and test labels stay what
they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from ..base.arrays import F64, Floats
from ..base.settings import Settings
from ..data.dataset import Dataset
from ..data.schema import TaskSpec

Predictions = Mapping[str, Floats]
"""Task -> logits (binary) or values (regression) of the training rows [R]."""


class DistilConfig(Settings):
    """Whether single-task models are trained first, to teach."""

    share: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the teachers' prediction in a training label; 0 trains no teachers. Networks have seen the labels they
    predict, so half is enough of theirs; of trees, which have not, 0.9."""
    by: Literal["networks", "trees"] = "networks"
    """Who teaches. `networks`: single-task ones. `trees`: boosted trees, grown as `[ranking.trees]` says; each training
    row is predicted by trees of the other four fifths. For tables where trees see more than networks do."""
    teachers: int = Field(default=3, ge=1)
    """Teachers per task, which differ in their seed; training them takes this many times as long, or more."""
    hidden: tuple[int, ...] = (256,)
    """Of networks, widths of the layers between input and tower; input, towers and dropout are the ranker's own."""

    @property
    def grows_trees(self) -> bool:
        """Whether boosted trees are grown to teach."""
        return self.share > 0 and self.by == "trees"


def taught(dataset: Dataset, rows: Tensor, teachers: Sequence[Predictions], share: float) -> Dataset:
    """The same data with the teachers' mean prediction mixed into the labels of some rows.

    Args:
        dataset: encoded data.
        rows: int64 [R] training rows.
        teachers: one or more predictions of these rows; logits are averaged before they become probabilities.
        share: s, 0 to 1.
    """
    chosen = rows.numpy()
    labels = dataset.events.labels.astype(np.float32)
    for column, task in enumerate(dataset.config.tasks):
        if all(task.name in teacher for teacher in teachers):
            mean = np.stack([teacher[task.name] for teacher in teachers]).astype(np.float64).mean(0)
            labels[chosen, column] = (1.0 - share) * labels[chosen, column] + share * _as_label(mean, task)
    return replace(dataset, events=replace(dataset.events, labels=labels))


def _as_label(prediction: F64, task: TaskSpec) -> F64:
    """On the scale of the label: a probability, or the value before any logarithm."""
    if task.kind == "binary":
        return np.asarray(1.0 / (1.0 + np.exp(-prediction)))
    return np.expm1(prediction) if task.log1p else prediction
