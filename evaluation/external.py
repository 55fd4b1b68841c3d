"""Bring your own recommender: the metrics of lists that another system made.

Predictions are rows (user, item, rank) or (user, item, score); the truth is rows (user, item) or (user, item,
relevance). Equal scores are ordered by item, the later in id order first, which is what trec_eval does, so that results
agree with the libraries built on it whatever order a file is in. Tables become rows and numbers in `pipeline.external`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import F64, I64, AnyArray
from ..base.finding import Finding
from ..base.ragged import Ragged, offsets
from .config import EvaluationConfig
from .guards import summary
from .metrics.coverage import coverage
from .metrics.lists import LIST_METRICS, UserMetrics, graded_ndcg, list_metrics
from .summary import name_sample, user_metrics_json

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExternalLists:
    """Two tables as arrays: users are those of the truth, items those of either table, both in text order.

    Attributes:
        user_ids: str [U].
        item_ids: str [N].
        ranked: int [U, k], each user's items best first, -1 pads.
        truth: judged items of each user.
        gains: float [E], their relevance.
        unjudged_users: users with predictions but no truth; they are not evaluated.
        unanswered_users: users with truth but no prediction; they count as 0.
        findings: about ids that only one of the tables has.
    """

    user_ids: AnyArray
    item_ids: AnyArray
    ranked: I64
    truth: Ragged
    gains: F64
    unjudged_users: int
    unanswered_users: int
    findings: tuple[Finding, ...] = ()


def external_metrics(lists: ExternalLists, config: EvaluationConfig) -> UserMetrics:
    """Per-user metrics of the lists, such as `compare` wants for two systems."""
    metrics = list_metrics(lists.ranked, lists.truth.select(lists.gains > 0), config.ks, LIST_METRICS)
    if np.any((lists.gains != 0) & (lists.gains != 1)):
        metrics.values.update(graded_ndcg(lists.ranked, lists.truth, lists.gains, config.ks).values)
    return metrics


def external_json(
    lists: ExternalLists, config: EvaluationConfig, num_items: int | None = None, sampled: int | None = None
) -> Json:
    """Metrics of the lists with intervals, coverage, and how many users either table lacks.

    Args:
        lists: what was recommended and what was relevant.
        config: cut-offs and draws. Lists shorter than a cut-off are taken as they are.
        num_items: size of the catalogue, for coverage; by default the items named in either table.
        sampled: number of negatives each list was drawn from, when it was not the whole catalogue.

    Returns:
        As `summary.retrieval_metrics`, with `users_without_predictions`, `predictions_without_truth` and `findings`.
    """
    out = user_metrics_json(external_metrics(lists, config), config)
    out["users_without_predictions"] = lists.unanswered_users
    out["predictions_without_truth"] = lists.unjudged_users
    out["findings"] = summary(lists.findings)
    size = num_items or len(lists.item_ids)
    for k in config.ks:
        out[f"coverage@{k}"] = coverage(lists.ranked, size, k) if size else None
    return out if sampled is None else name_sample(out, sampled)


def truth_lists(users: I64, items: I64, gains: F64, num_users: int) -> tuple[Ragged, F64]:
    """Rows of the truth by user and item, and their relevance, 0 where it was below.

    Args:
        users: int [E].
        items: int [E].
        gains: float64 [E].
        num_users: U.
    """
    order = np.lexsort((items, users))
    return Ragged(items[order], offsets(np.bincount(users, minlength=num_users))), np.maximum(gains[order], 0.0)


def best_first(users: I64, items: I64, priority: F64, num_users: int, k: int) -> I64:
    """The k items of least priority number of each user, int64 [U, k]; -1 pads, ties go to the later item.

    Args:
        users: int [E].
        items: int [E], in id order.
        priority: float64 [E], ranks or negated scores.
        num_users: U.
        k: items kept of each list.
    """
    order = np.lexsort((-items, priority, users))
    user, item = users[order], items[order]
    rank = np.arange(len(user)) - np.searchsorted(user, user)
    inside = rank < k
    ranked = np.full((num_users, k), -1, dtype=np.int64)
    ranked[user[inside], rank[inside]] = item[inside]
    return ranked
