"""Every metric of predicted values, for all draws of a bootstrap at once; the estimates are those of `regression`."""

from __future__ import annotations

import numpy as np

from ...base.arrays import F64, Floats, Ints
from ..metrics.regression import check_values, tie_groups, weighted_spearman
from .bootstrap import UserBootstrap, ratio

VALUE_METRICS = ("rmse", "mae", "r2", "spearman", "predicted_to_observed")


def value_metric_samples(boot: UserBootstrap, labels: Floats, values: Floats, users: Ints) -> dict[str, F64]:
    """The metrics of every draw.

    Args:
        boot: the draws over users.
        labels: float [R].
        values: float [R], predictions in the label's unit.
        users: int [R], user row in [0, U) of each row.

    Returns:
        Metric name of `VALUE_METRICS` -> float64 [draws + 1, 1]; row 0 is the estimate, NaN is undefined. Spearman's
        ranks are those of the rows of each draw, not of the sample.
    """
    check_values(labels, values)
    sums = grouped_value_samples(boot, labels, values, users)
    groups = tie_groups(labels), tie_groups(values)
    correlations = [
        weighted_spearman(*groups, draw[users].astype(np.float64)) for block in boot.weights() for draw in block.T
    ]
    return {name: np.array(correlations)[:, None] if name == "spearman" else sums[name] for name in VALUE_METRICS}


def grouped_value_samples(
    boot: UserBootstrap,
    labels: Floats,
    values: Floats,
    users: Ints,
    groups: Ints | None = None,
    num_groups: int = 1,
) -> dict[str, F64]:
    """The metrics that are made of sums, in each group of rows: all of `VALUE_METRICS` but the rank correlation.

    Args:
        boot: the draws over users.
        labels: float [R].
        values: float [R], predictions in the label's unit.
        users: int [R], user row in [0, U) of each row.
        groups: int [R], group of each row; one group when None.
        num_groups: G.

    Returns:
        Metric name -> float64 [draws + 1, G]; row 0 is the estimate, NaN is undefined.
    """
    centre = float(labels.mean()) if len(labels) else 0.0  # keeps the sum of squares exact far from 0
    centred, error = labels - centre, values - labels
    columns = (np.ones(len(labels)), np.square(error), np.abs(error), centred, np.square(centred), labels, values)
    if groups is None:
        per_user = [np.bincount(users, column, minlength=boot.num_users) for column in columns]
        sums = np.split(boot.sums(np.stack(per_user, axis=1)), len(columns), axis=1)
    else:
        sums = [boot.grouped_sums(groups, users, column, num_groups) for column in columns]
    rows, squares, absolutes, first, second, observed, predicted = sums
    spread = second - ratio(first * first, rows)
    return {
        "rmse": np.sqrt(ratio(squares, rows)),
        "mae": ratio(absolutes, rows),
        "r2": 1.0 - ratio(squares, np.where(spread > 1e-12 * np.maximum(second, 1e-300), spread, 0.0)),
        "predicted_to_observed": ratio(predicted, observed),
    }
