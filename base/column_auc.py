"""How well a single column alone separates a binary label: the sign of a column that was written after the event."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .arrays import F64, I64, AnyArray, Bool, Floats

SUSPICIOUS = 0.95
"""AUC of a single column from which it is suspected of knowing the label."""
CERTAIN_ERRORS = 4.0
"""Standard errors between an AUC and 0.5 from which it is no chance, however many columns are looked at."""
_PRIOR_ROWS = 10
"""Rows of the mean rate that every value of a column starts with."""


def coded(column: AnyArray) -> tuple[I64, F64 | None]:
    """A column as codes, as `column_auc` takes it.

    Args:
        column: [R], numbers or categories; numbers that are not finite are missing, None is a category.

    Returns:
        Codes int64 [R], 0 for missing, and the numbers float64 [V] of codes 1 to V, rising; None for categories.
    """
    if column.dtype.kind not in "fiub":
        text = column.astype(str) if column.dtype == object else column
        return np.unique(text, return_inverse=True)[1].astype(np.int64) + 1, None
    finite = np.isfinite(column)
    codes = np.zeros(len(column), dtype=np.int64)
    numbers, place = np.unique(column[finite], return_inverse=True)
    codes[finite] = place + 1
    return codes, numbers.astype(np.float64)


def column_auc(codes: I64, numbers: F64 | None, label: Floats) -> float:
    """AUC of the best simple rule on one column, at least 0.5.

    Numbers are taken as they are, without the missing ones. Every column is also scored by the label's rate of its
    value, missing being one, fitted on one half of the rows and judged on the other, so that a value seen once tells
    nothing.

    Args:
        codes: int64 [R], 0 for missing, c for the c-th distinct value.
        numbers: float64 [V], the distinct values, rising; None where they are no numbers.
        label: float [R], 0 or 1, NaN where unobserved.
    """
    seen = np.flatnonzero(~np.isnan(label))
    codes, truth = codes[seen], label[seen] > 0
    size = max(int(codes.max(initial=0)), 0 if numbers is None else len(numbers)) + 1
    best = 0.5
    if numbers is not None:
        there = codes > 0
        as_is = _auc_of_codes(codes[there], truth[there], np.arange(size, dtype=np.float64))
        best = max(best, as_is, 1 - as_is)
    half = _half(len(codes))
    folds = []
    for fit in (half, ~half):
        rows, positives = (np.bincount(codes[fit], weights=w, minlength=size) for w in (None, truth[fit]))
        rate = (positives + _PRIOR_ROWS * (truth[fit].mean() if fit.any() else 0)) / (rows + _PRIOR_ROWS)
        folds.append(_auc_of_codes(codes[~fit], truth[~fit], rate))
    return max(best, float(np.mean(folds)))


def beyond_chance(auc: float, label: Floats) -> bool:
    """Whether an AUC could hardly have come about without a relation: four standard errors from 0.5 or more.

    Of three rows of each class every tenth ordering is perfect; a handful of rows proves no leak. The standard error of
    no relation is that of the Mann-Whitney statistic, `sqrt((P + N + 1) / (12 P N))`.

    Args:
        auc: of one column.
        label: float [R], 0 or 1, NaN where unobserved.
    """
    positives, negatives = int((label > 0).sum()), int((label == 0).sum())
    if not positives or not negatives:
        return False
    error = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    return abs(auc - 0.5) >= CERTAIN_ERRORS * error


@lru_cache(maxsize=4)
def _half(rows: int) -> Bool:
    """A fixed random half of the rows; every other row would not do, logs of pairs alternate.

    The seed is one that labels are hardly drawn with: a half that holds all positives would say nothing of the other.
    """
    return np.random.default_rng([8191, rows]).random(rows) < 0.5


def _auc_of_codes(codes: I64, truth: Bool, score: F64) -> float:
    """AUC (ties count half) when a row's score is that of its code."""
    _, tie = np.unique(score, return_inverse=True)
    positives = np.bincount(tie, weights=np.bincount(codes, weights=truth, minlength=len(score)))
    negatives = np.bincount(tie, weights=np.bincount(codes, weights=~truth, minlength=len(score)))
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return 0.5
    return float((positives * (np.cumsum(negatives) - negatives / 2)).sum() / pairs)
