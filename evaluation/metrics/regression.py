"""Metrics of predicted values on labelled rows: RMSE, MAE, R2, Spearman's rank correlation, calibration by decile.

All are in the label's own unit. R2 is 1 - SSE / SST: 0 for always predicting the mean, below 0 for less than that.
Spearman is Pearson's correlation of mid-ranks, so it tells how well the values order the rows, whatever their scale.
"""

from __future__ import annotations

import numpy as np

from ...base.arrays import F64, I64, Floats
from ...base.errors import DataError

DECILES = 10


def check_values(labels: Floats, values: Floats) -> None:
    """Refuse labels and values that are not finite, and columns of different lengths.

    Raises:
        DataError: naming the first bad row.
    """
    if labels.ndim != 1 or values.shape != labels.shape:
        raise DataError(f"columns of shapes {[list(labels.shape), list(values.shape)]}; pass one entry per row")
    for name, column in (("label", labels), ("prediction", values)):
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            raise DataError(f"{name} {column[bad[0]]} in row {bad[0]}; labels and predictions must be finite numbers")


def rmse(labels: Floats, values: Floats) -> float | None:
    """Root of the mean squared error; None without rows."""
    check_values(labels, values)
    return float(np.sqrt(np.square(values - labels).mean())) if len(labels) else None


def mae(labels: Floats, values: Floats) -> float | None:
    """Mean absolute error; None without rows."""
    check_values(labels, values)
    return float(np.abs(values - labels).mean()) if len(labels) else None


def r2(labels: Floats, values: Floats) -> float | None:
    """Share of the labels' variance that is explained; None where the labels do not vary."""
    check_values(labels, values)
    spread = float(np.square(labels - labels.mean()).sum()) if len(labels) else 0.0
    return 1.0 - float(np.square(values - labels).sum()) / spread if spread > 0 else None


def spearman(labels: Floats, values: Floats) -> float | None:
    """Spearman's rank correlation, ties at their mid-rank; None where labels or predictions do not vary."""
    check_values(labels, values)
    groups = tie_groups(labels), tie_groups(values)
    correlation = weighted_spearman(*groups, np.ones(len(labels)))
    return correlation if np.isfinite(correlation) else None


def tie_groups(values: Floats) -> I64:
    """Number of each row's value among the distinct values in ascending order, int64 [R]."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64).reshape(-1)


def weighted_spearman(
    first: I64,
    second: I64,
    weights: Floats,
) -> float:
    """Spearman's correlation of rows that count several times.

    Args:
        first: int64 [R], tie groups of one column.
        second: int64 [R], tie groups of the other.
        weights: float [R], how often each row counts.

    Returns:
        The correlation of the repeated rows; NaN where a column does not vary.
    """
    total = float(weights.sum())
    if total <= 0:
        return float("nan")
    ranks = [_ranks(groups, weights) for groups in (first, second)]
    centred = [column - float(weights @ column) / total for column in ranks]
    variances = [float(weights @ np.square(column)) for column in centred]
    if min(variances) <= 1e-12 * total:
        return float("nan")
    return float(weights @ (centred[0] * centred[1])) / float(np.sqrt(variances[0] * variances[1]))


def _ranks(groups: I64, weights: Floats) -> F64:
    """Mid-rank of each row's tie group when every row counts `weights` times."""
    mass = np.bincount(groups, weights)
    middle = np.cumsum(mass) - 0.5 * (mass - 1.0)
    return np.asarray(middle[groups], dtype=np.float64)


def decile_curve(labels: Floats, values: Floats, num_bins: int = DECILES) -> dict[str, list[float]]:
    """Calibration by decile of the prediction: the mean prediction, the mean label and the rows of each bin.

    Args:
        labels: [R].
        values: [R], predictions; equal ones share a bin.
        num_bins: at most this many bins of equal mass.

    Returns:
        `predicted`, `observed`, `rows`, and `low` and `high`, the 95 % normal interval of the mean label.
    """
    check_values(labels, values)
    first = np.searchsorted(np.sort(values), values, side="left")
    bins = first * num_bins // max(len(values), 1)
    rows = np.bincount(bins, minlength=num_bins).astype(np.float64)
    filled = rows > 0
    rows = rows[filled]
    predicted, observed, squares = (
        np.bincount(bins, column, minlength=num_bins)[filled] / rows for column in (values, labels, np.square(labels))
    )
    half = 1.959964 * np.sqrt(np.maximum(squares - observed**2, 0.0) / rows)
    columns = {
        "predicted": predicted,
        "observed": observed,
        "rows": rows,
        "low": observed - half,
        "high": observed + half,
    }
    return {name: [float(x) for x in column] for name, column in columns.items()}
