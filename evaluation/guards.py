"""Guards: faults that leave every metric computable and every conclusion wrong, found by looking at arrays.

Each guard returns findings, empty when all is well. A "problem" means that numbers of this run must not be believed;
a "warning" means that something deserves a look. Leaks of the answer or the future are in `leaks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from ..base.arrays import F64, AnyArray, Floats, Ints
from ..base.errors import ConfigError
from ..base.finding import Finding, worst_first
from ..base.topk import exact_topk
from .config import EvaluationConfig
from .metrics.lists import UserMetrics
from .summary import bootstrap_of, ranking_metrics

Metric = Literal["ip", "cosine", "l2"]


def worse_than_popularity(
    model: UserMetrics, popularity: UserMetrics, metric: str, config: EvaluationConfig | None = None
) -> list[Finding]:
    """Whether showing everybody the most popular items does as well; both judged on the same users."""
    config = config or EvaluationConfig()
    users, own, other = np.intersect1d(model.users, popularity.users, return_indices=True)
    if len(users) == 0:
        return []
    difference = (model.values[metric][own] - popularity.values[metric][other])[:, None]
    boot = bootstrap_of(len(users), config)
    gain = float(difference.mean())
    interval = boot.interval(boot.means(difference))[0]
    if interval is not None and interval[0] > 0:
        return []
    pair = f"{metric} {model.values[metric][own].mean():.4f} against {popularity.values[metric][other].mean():.4f}"
    if gain <= 0:
        return [
            Finding(
                "problem",
                "worse_than_popularity",
                f"The model is no better than popularity ({pair}): check that ids line up, that the loss falls, and "
                "that the index uses the training metric.",
            )
        ]
    return [
        Finding(
            "warning",
            "not_surely_better_than_popularity",
            f"The model's lead over popularity ({pair}) could be chance on {len(users)} users; test on more.",
        )
    ]


def embeddings_collapsed(vectors: Floats, name: str = "item vectors", limit: float = 0.9) -> list[Finding]:
    """Whether all vectors float [N, D] point the same way: their mean pairwise cosine, over all pairs."""
    norms = np.linalg.norm(vectors, axis=1)
    alive = norms > 1e-12
    unit = vectors[alive] / norms[alive, None]
    count = len(unit)
    if count < 2:
        return [Finding("problem", "embeddings_collapsed", f"The {name} are all zero: the tower learnt nothing.")]
    total = unit.sum(0, dtype=np.float64)
    cosine = (float(total @ total) - count) / (count * (count - 1))
    if cosine < limit and alive.all():
        return []
    if cosine >= limit:
        return [
            Finding(
                "problem",
                "embeddings_collapsed",
                f"The {name} have collapsed (mean pairwise cosine {cosine:.2f}, below {limit:g} is healthy): everybody "
                "gets the same list; check negatives, temperature and learning rate.",
            )
        ]
    return [
        Finding(
            "warning", "zero_vectors", f"{int((~alive).sum())} of {len(vectors)} {name} are zero and cannot be found."
        )
    ]


def index_faults(
    queries: Floats,
    item_vectors: Floats,
    rows: Ints,
    scores: Floats,
    metric: Metric = "ip",
    tolerance: float = 1e-3,
) -> list[Finding]:
    """Whether an index answers with the items, vectors and metric of the model.

    Args:
        queries: float [Q, D], some query vectors.
        item_vectors: float [N, D], the recorded item vectors, in item-row order.
        rows: int [Q, k], item rows the index returned; -1 pads.
        scores: float [Q, k], scores it returned; for "l2" squared distances, smallest first.
        metric: what the model was trained for.
        tolerance: relative error allowed, larger for a quantised index.

    Returns:
        At most one problem: `wrong_metric`, `shuffled_ids` or `stale_vectors`.
    """
    valid = rows >= 0
    if not valid.any():
        return [Finding("problem", "empty_index", "The index returned nothing for any query; rebuild it.")]
    of_rows = {kind: _similarity(queries, item_vectors, rows, kind)[valid] for kind in ("ip", "cosine", "l2")}
    answers = np.asarray(scores, dtype=np.float64)[valid]
    if _same(answers, of_rows[metric], tolerance):
        return []
    for other, values in of_rows.items():
        if other != metric and (
            _same(answers, values, tolerance) or (other == "l2" and _same(-answers, values, tolerance))
        ):
            return [
                Finding(
                    "problem",
                    "wrong_metric",
                    f"The index ranks by {_NAMES[other]} but the model was trained for {_NAMES[metric]}; "
                    "rebuild the index with the training metric.",
                )
            ]
    answered = valid[:, 0]
    best = _similarity(queries, item_vectors, _nearest(queries, item_vectors, metric), metric)[:, 0]
    if _same(np.asarray(scores, dtype=np.float64)[answered, 0], best[answered], tolerance):
        return [
            Finding(
                "problem",
                "shuffled_ids",
                "The index finds the right vectors under the wrong ids: its scores are those of exact search, but not "
                "of the items it names; rebuild the index and its id map together.",
            )
        ]
    return [
        Finding(
            "problem",
            "stale_vectors",
            "The index holds other vectors than the run's item vectors; rebuild it from this run.",
        )
    ]


def filters_drop_relevant(stages: list[dict[str, Any]], limit: float = 0.05) -> list[Finding]:
    """Whether filters remove relevant items that had been retrieved: the stages of `funnel.funnel_metrics`."""
    recall = {stage["stage"]: stage.get("recall") for stage in stages}
    before = recall.get("merge", recall.get("ann", recall.get("retrieval")))
    after = recall.get("filters")
    if not before or after is None or (lost := 1 - after / before) <= limit:
        return []
    return [
        Finding(
            "problem",
            "filters_drop_relevant",
            f"Filters remove {lost:.0%} of the relevant items that were retrieved (recall {before:.3f} before, "
            f"{after:.3f} after); look at what they drop.",
        )
    ]


def miscalibrated(
    task: str,
    labels: Floats,
    probabilities: Floats,
    users: AnyArray,
    limit: float = 0.1,
    config: EvaluationConfig | None = None,
    calibrated: bool = False,
) -> list[Finding]:
    """Whether a task's probabilities are off by more than `limit`, on the whole or in their bins.

    The sum of predictions may miss the number of positives by that share, surely (the interval excludes 1), or the
    calibration error may exceed that share of the positive rate (the interval's lower end does).

    Args:
        task: its name.
        labels: [R], 0 or 1.
        probabilities: [R].
        users: [R], user of each row.
        limit: share that the predictions may be off by.
        config: draws and bins.
        calibrated: whether a calibrator was fitted on the validation part, which the advice depends on.
    """
    metrics = ranking_metrics(labels, probabilities, users, config=config)
    ratio, interval = metrics["predicted_to_observed"], metrics.get("predicted_to_observed_ci")
    if ratio is None:
        return []
    sure = interval is None or not interval[0] <= 1 <= interval[1]
    rate = metrics["positives"] / metrics["rows"]
    bounds = metrics.get("ece_ci")
    low = bounds[0] if bounds else metrics["ece"]
    if not (sure and abs(ratio - 1) > limit) and low <= limit * rate:
        return []
    advice = (
        "its calibrator was fitted on the validation part, and rates or scores have moved since: train on later rows, "
        "or take a later or larger validation part"
        if calibrated
        else "fit a calibrator on the validation part"
    )
    return [
        Finding(
            "warning",
            "miscalibrated",
            f"Task '{task}' is miscalibrated: it predicts {ratio:.2f} positives for every one observed, and is off by "
            f"{metrics['ece']:.4f} on average at a rate of {rate:.4f}; {advice}.",
        )
    ]


_NAMES = {"ip": "inner product", "cosine": "cosine", "l2": "Euclidean distance"}


def _similarity(queries: Floats, vectors: Floats, rows: Ints, metric: str) -> F64:
    """Score of each named row under a metric, float64 [Q, k]."""
    query, items = queries.astype(np.float64), vectors.astype(np.float64)
    inner = np.einsum("qn,qkn->qk", query, items[rows])
    if metric == "ip":
        return np.asarray(inner, dtype=np.float64)
    own, theirs = np.square(query).sum(1)[:, None], np.square(items).sum(1)[rows]
    if metric == "cosine":
        return np.asarray(inner / np.sqrt(np.maximum(own * theirs, 1e-24)), dtype=np.float64)
    if metric == "l2":
        return np.asarray(own + theirs - 2 * inner, dtype=np.float64)
    raise ConfigError(f"metric '{metric}' is unknown; choose ip, cosine or l2")


def _nearest(queries: Floats, vectors: Floats, metric: Metric) -> Ints:
    """The best row of each query by exact search, int [Q, 1]."""
    if metric == "cosine":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    bias = -0.5 * np.square(vectors).sum(1) if metric == "l2" else None
    return exact_topk(queries, vectors, 1, bias=bias)[0]


def _same(a: F64, b: F64, tolerance: float) -> bool:
    scale = max(float(np.abs(b).mean()), 1e-12)
    return float(np.abs(a - b).mean()) <= tolerance * scale


def summary(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as the `findings` of an evaluation: {severity, name, sentence}, errors first."""
    return [
        {
            "severity": "error" if finding.level == "problem" else finding.level,
            "name": finding.about,
            "sentence": finding.sentence,
        }
        for finding in worst_first(findings)
    ]


def summarised(findings: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The findings of which `summary` made these objects."""
    return [
        Finding("problem" if entry["severity"] == "error" else entry["severity"], entry["name"], entry["sentence"])
        for entry in findings
    ]
