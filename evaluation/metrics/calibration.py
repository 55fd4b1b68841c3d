"""Calibration: do things predicted at 5 % happen 5 times in a hundred?

Expected calibration error (Naeini et al. 2015) over bins of equal mass, which rare labels need, or of equal width; the
reliability curve it summarises; and the ratio of predicted to observed positives. Ranking metrics cannot see any of it:
halving every probability changes no AUC.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...base.arrays import F64, Floats, Ints
from ...base.errors import ConfigError
from .rows import check_probabilities

Binning = Literal["mass", "width"]


def assign_bins(probabilities: Floats, num_bins: int = 15, binning: Binning = "mass") -> Ints:
    """The bin of each row, int [R] in [0, num_bins).

    Args:
        probabilities: [R], in [0, 1].
        num_bins: at most this many bins.
        binning: "mass" puts as many rows in each bin, never splitting equal probabilities; "width" cuts [0, 1] evenly.
    """
    if num_bins < 1 or binning not in ("mass", "width"):
        raise ConfigError(f"{num_bins} bins of equal {binning!r}; ask for 1 or more bins of equal 'mass' or 'width'")
    if binning == "width":
        return np.minimum((probabilities * num_bins).astype(np.int64), num_bins - 1)
    ordered = np.sort(probabilities)
    first = np.searchsorted(ordered, probabilities, side="left")  # equal probabilities share their first place
    return first * num_bins // max(len(ordered), 1)


def ece(labels: Floats, probabilities: Floats, num_bins: int = 15, binning: Binning = "mass") -> float | None:
    """Expected calibration error: mean over rows of |predicted - observed| of their bin; None without rows.

    Args:
        labels: [R], 0 or 1.
        probabilities: [R], in [0, 1].
        num_bins: see `assign_bins`.
        binning: see `assign_bins`.
    """
    check_probabilities(labels, probabilities)
    if len(labels) == 0:
        return None
    bins = assign_bins(probabilities, num_bins, binning)
    gaps = np.bincount(bins, probabilities.astype(np.float64) - labels)
    return float(np.abs(gaps).sum() / len(labels))


def reliability_curve(
    labels: Floats, probabilities: Floats, num_bins: int = 15, binning: Binning = "mass"
) -> dict[str, list[float]]:
    """The points of a reliability diagram: per non-empty bin the mean prediction, the observed rate and the rows.

    Returns:
        `predicted`, `observed`, `rows`, and `low` and `high`, the 95 % Wilson interval of the observed rate.
    """
    check_probabilities(labels, probabilities)
    bins = assign_bins(probabilities, num_bins, binning)
    rows = np.bincount(bins, minlength=num_bins).astype(np.float64)
    filled = rows > 0
    rows = rows[filled]
    predicted = np.bincount(bins, probabilities, minlength=num_bins)[filled] / rows
    observed = np.bincount(bins, labels, minlength=num_bins)[filled] / rows
    low, high = wilson_interval(observed, rows)
    columns = {"predicted": predicted, "observed": observed, "rows": rows, "low": low, "high": high}
    return {name: [float(x) for x in column] for name, column in columns.items()}


def predicted_to_observed(labels: Floats, probabilities: Floats) -> float | None:
    """Sum of probabilities over number of positives: 1 is calibrated on the whole; None without a positive."""
    check_probabilities(labels, probabilities)
    positives = float(labels.sum())
    return float(probabilities.sum(dtype=np.float64)) / positives if positives else None


def wilson_interval(rate: Floats, rows: Floats, z: float = 1.959964) -> tuple[F64, ...]:
    """Wilson's interval of a rate observed on `rows` rows: (low, high), each like `rate`."""
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * np.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
