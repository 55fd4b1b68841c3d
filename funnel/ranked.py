"""Candidates with the ranker's verdict, and the weights that make one score of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..base.arrays import F32, F64, I64, Bool
from ..ranking.blend import BlendConfig
from ..ranking.blend_search import searches
from ..ranking.requests import SELECT, RequestRanker
from .arrange.stage import by_score
from .run import TrainedRun


@dataclass(frozen=True)
class Ranked:
    """Candidates of B requests with the ranker's verdict.

    Attributes:
        rows: int64 [B, C] item rows, -1 pads, in the retriever's order.
        scores: float64 [B, C] blended score, -inf at pads; higher is better.
        tasks: task -> float32 [B, C] probability (value for regression tasks, in the label's own unit; share of the
            request for `select`).
    """

    rows: I64
    scores: F64
    tasks: Mapping[str, F32]

    def top(self, k: int) -> I64:
        """Item rows of the best k, int64 [B, k], -1 pads; ties keep the retriever's order."""
        return by_score(self.rows, self.scores, k).rows


def places_by_score(scores: F64, columns: I64, inside: Bool) -> I64:
    """Place of candidates by score alone, from 1: int64 [B, k].

    Args:
        scores: float64 [B, C].
        columns: int64 [B, k] candidates.
        inside: bool [B, k]; the place is 0 where this is False.
    """
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(-scores, axis=1, kind="stable"), np.arange(scores.shape[1])[None, :], axis=1)
    return np.where(inside, np.take_along_axis(ranks, columns, axis=1) + 1, 0)


def effective_blend(trained: TrainedRun) -> BlendConfig:
    """The configured weights; else those found by search; else `select` alone where the run learned it."""
    config, search = trained.config.blend, trained.found_blend
    if search is not None and searches(config):
        return config.model_copy(update={"weights": dict(search.weights)})
    selects = trained.model is None or isinstance(trained.model, RequestRanker)
    if config.kind != "task" and not config.weights and selects:
        return config.model_copy(update={"weights": {SELECT: 1.0}})
    return config
