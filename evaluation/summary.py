"""Metrics in the shape people and scripts read: flat names, each rate with its 95 % interval beside it.

`{"ndcg@10": 0.21, "ndcg@10_ci": [0.20, 0.22]}`. A metric computed against sampled negatives carries the sample in its
name, `ndcg@10_sampled@100`, and `combine` refuses to set it beside a full-ranking one, for the two are not comparable
(Krichene and Rendle 2020).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.arrays import F64, Bool, Floats, Ints
from ..base.errors import ConfigError, DataError
from ..base.ragged import Ragged
from .config import EvaluationConfig
from .metrics.calibration import reliability_curve
from .metrics.coverage import average_popularity, coverage, coverage_interval, diversity, gini, item_exposure, novelty
from .metrics.lists import LIST_METRICS, UserMetrics, list_metrics
from .metrics.regression import decile_curve
from .metrics.rows import check_probabilities
from .uncertainty.bootstrap import UserBootstrap
from .uncertainty.row_samples import PIVOTAL, row_metric_samples
from .uncertainty.value_samples import VALUE_METRICS, value_metric_samples

Json = dict[str, Any]

_SAMPLED = re.compile(r"_sampled@(\d+)$")


def bootstrap_of(num_users: int, config: EvaluationConfig) -> UserBootstrap:
    """The draws of a configuration over this many users."""
    return UserBootstrap(num_users, config.draws, config.seed, config.level)


def with_intervals(names: list[str], samples: F64, boot: UserBootstrap) -> Json:
    """Estimates (row 0) and intervals of samples [draws + 1, M] under `name` and `name_ci`; undefined is None."""
    out: Json = {}
    pivotal, plain = boot.interval(samples, pivotal=True), boot.interval(samples)
    for column, name in enumerate(names):
        estimate = samples[0, column]
        out[name] = float(estimate) if np.isfinite(estimate) else None
        interval = (pivotal if name in PIVOTAL else plain)[column]
        if boot.draws:
            out[f"{name}_ci"] = None if interval is None else list(interval)
    return out


def user_metrics_json(metrics: UserMetrics, config: EvaluationConfig) -> Json:
    """Means and intervals of per-user values, and how many users they come from."""
    out: Json = {"users": len(metrics.users), "users_without_truth": metrics.skipped}
    if len(metrics.users) == 0:
        return out | dict.fromkeys(metrics.values)
    boot = bootstrap_of(len(metrics.users), config)
    return out | with_intervals(list(metrics.values), boot.means(metrics.matrix()), boot)


def retrieval_metrics(
    ranked: Ints,
    truth: Ragged,
    *,
    num_items: int,
    config: EvaluationConfig | None = None,
    popularity: Ints | None = None,
    item_vectors: Floats | None = None,
    sampled: int | None = None,
) -> Json:
    """Everything said of one retriever's or recommender's lists.

    Args:
        ranked: int [U, k], item rows best first; -1 pads a short list. Cut-offs beyond k are left out.
        truth: relevant items of each user.
        num_items: N, size of the catalogue.
        config: cut-offs and draws.
        popularity: int [N], training events of each item; adds `novelty@k` and `popularity@k` (mean percentile).
        item_vectors: float [N, D]; adds `diversity@k`.
        sampled: number of negatives each list was drawn from, when it was not the whole catalogue.

    Returns:
        `recall@10`, `recall@10_ci`, ... , `coverage@10`, `gini@10`, `users`, `users_without_truth`; the beyond-accuracy
        numbers are over all users, the others over users with a relevant item.

    Raises:
        ConfigError: no cut-off fits the lists.
    """
    config = config or EvaluationConfig()
    ks = [k for k in config.ks if k <= ranked.shape[1]]
    if not ks:
        raise ConfigError(f"cut-offs {list(config.ks)} all exceed the lists of {ranked.shape[1]} items; lower one")
    out = user_metrics_json(list_metrics(ranked, truth, ks, LIST_METRICS), config)
    out |= beyond_accuracy(
        ranked, ks, num_items=num_items, config=config, popularity=popularity, item_vectors=item_vectors
    )
    return out if sampled is None else name_sample(out, sampled)


def beyond_accuracy(
    ranked: Ints,
    ks: Sequence[int],
    *,
    num_items: int,
    config: EvaluationConfig,
    popularity: Ints | None = None,
    item_vectors: Floats | None = None,
) -> Json:
    """What lists look like, whoever likes them; over all users. See `metrics.coverage`.

    Args:
        ranked: int [U, k], item rows best first; -1 pads a short list.
        ks: cut-offs, none beyond k.
        num_items: N, size of the catalogue.
        config: draws and level of the intervals.
        popularity: int [N], training events of each item; adds `novelty@k` and `popularity@k` (mean percentile).
        item_vectors: float [N, D]; adds `diversity@k`.
    """
    out: Json = {}
    values: dict[str, F64] = {}
    for k in ks:
        out[f"coverage@{k}"] = coverage(ranked, num_items, k)
        if config.draws:
            out[f"coverage@{k}_ci"] = list(coverage_interval(ranked, num_items, k, config.level))
        out[f"gini@{k}"] = gini(item_exposure(ranked, num_items, k))
        if popularity is not None:
            values[f"novelty@{k}"] = novelty(ranked, popularity, k)
            values[f"popularity@{k}"] = average_popularity(ranked, popularity, k)
        if item_vectors is not None:
            values[f"diversity@{k}"] = diversity(ranked, item_vectors, k)
    if values and len(ranked):
        boot = bootstrap_of(len(ranked), config)
        out |= with_intervals(list(values), boot.means(np.stack(list(values.values()), axis=1)), boot)
    return out


def ranking_metrics(
    labels: Floats,
    probabilities: Floats,
    users: Ints,
    mask: Bool | None = None,
    *,
    config: EvaluationConfig | None = None,
) -> Json:
    """Everything said of one task's predicted probabilities.

    Args:
        labels: [R], 0 or 1; anything where `mask` is false.
        probabilities: [R], in [0, 1].
        users: [R], user of each row, in any numbering.
        mask: bool [R], rows whose label was observed; by default all.
        config: draws and bins.

    Returns:
        `auc`, `gauc`, `logloss`, `ece`, `predicted_to_observed` with intervals, `gauc_users` and
        `users_of_one_class`, `rows`, `positives`, `base_logloss` (of always predicting the rate) and `reliability`
        (see `calibration.reliability_curve`). Undefined numbers are None.
    """
    config = config or EvaluationConfig()
    if mask is not None:
        if mask.shape != labels.shape:
            raise DataError(f"a mask of shape {list(mask.shape)} for {len(labels)} rows; pass one entry per row")
        labels, probabilities, users = labels[mask], probabilities[mask], users[mask]
    labels, probabilities = labels.astype(np.float64), probabilities.astype(np.float64)
    check_probabilities(labels, probabilities)
    out: Json = {"rows": len(labels), "positives": int(labels.sum())}
    if len(labels) == 0:
        return out | dict.fromkeys(("auc", "gauc", "logloss", "ece", "predicted_to_observed"))
    _, user = np.unique(users, return_inverse=True)
    num_users = int(user.max()) + 1
    boot = bootstrap_of(num_users, config)
    samples = row_metric_samples(boot, labels, probabilities, user, num_bins=config.num_bins)
    out |= with_intervals(list(samples), np.concatenate(list(samples.values()), axis=1), boot)
    positives = np.bincount(user, labels, minlength=num_users)
    both = (positives > 0) & (positives < np.bincount(user, minlength=num_users))
    out["gauc_users"], out["users_of_one_class"] = int(both.sum()), int(num_users - both.sum())
    rate = float(labels.mean())
    out["base_logloss"] = float(-sum(p * np.log(p) for p in (rate, 1 - rate) if p > 0))
    out["reliability"] = reliability_curve(labels, probabilities, config.num_bins)
    return out


def regression_metrics(
    labels: Floats,
    values: Floats,
    users: Ints,
    mask: Bool | None = None,
    *,
    config: EvaluationConfig | None = None,
) -> Json:
    """Everything said of one regression task's predicted values.

    Args:
        labels: [R], in the label's unit; anything where `mask` is false.
        values: [R], predictions in the same unit.
        users: int [R], user of each row, in any numbering.
        mask: bool [R], rows whose label was observed; by default all.
        config: draws.

    Returns:
        `rmse`, `mae`, `r2`, `spearman`, `predicted_to_observed` (sum over sum) with intervals, `rows`, `base_rmse` (of
        always predicting the mean) and `reliability` by decile (see `regression.decile_curve`). Undefined numbers are
        None.
    """
    config = config or EvaluationConfig()
    if mask is not None:
        if mask.shape != labels.shape:
            raise DataError(f"a mask of shape {list(mask.shape)} for {len(labels)} rows; pass one entry per row")
        labels, values, users = labels[mask], values[mask], users[mask]
    labels, values = labels.astype(np.float64), values.astype(np.float64)
    out: Json = {"rows": len(labels)}
    if len(labels) == 0:
        return out | dict.fromkeys(VALUE_METRICS)
    _, user = np.unique(users, return_inverse=True)
    boot = bootstrap_of(int(user.max()) + 1, config)
    samples = value_metric_samples(boot, labels, values, user)
    out |= with_intervals(list(samples), np.concatenate(list(samples.values()), axis=1), boot)
    out["base_rmse"] = float(labels.std())
    out["reliability"] = decile_curve(labels, values)
    return out


def name_sample(metrics: Json, sampled: int) -> Json:
    """The same metrics with `_sampled@n` in the name of every one that has a cut-off."""
    out: Json = {"sampled_negatives": sampled}
    for name, value in metrics.items():
        base, ci = (name[: -len("_ci")], "_ci") if name.endswith("_ci") else (name, "")
        out[f"{base}_sampled@{sampled}{ci}" if "@" in base else name] = value
    return out


def combine(reports: Mapping[str, Json]) -> dict[str, Json]:
    """Set the metrics of several recommenders beside each other.

    Args:
        reports: recommender name -> its metrics, as of `retrieval_metrics`.

    Raises:
        ConfigError: some are over sampled negatives and others are not, or the samples differ.
    """
    samples: dict[str, str] = {}
    for who, metrics in reports.items():
        for name in metrics:
            base = name.removesuffix("_ci")
            if "@" in base:
                match = _SAMPLED.search(base)
                samples[f"{match[1]} sampled negatives" if match else "the full catalogue"] = who
    if len(samples) > 1:
        (first, first_who), (second, second_who) = list(samples.items())[:2]
        raise ConfigError(
            f"{first_who} was ranked against {first} and {second_who} against {second}; "
            "such numbers are not comparable: evaluate both on the full catalogue"
        )
    return {who: dict(metrics) for who, metrics in reports.items()}
