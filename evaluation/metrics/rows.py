"""Metrics of predicted probabilities on labelled rows: AUC, AUC per user (GAUC), log-loss.

AUC is the Mann-Whitney statistic with ties counted half. GAUC is the mean of the users' own AUCs weighted by their rows
(Zhou et al. 2018, Deep Interest Network, eq. 6), over the users who have both classes. Both come from one sort. How far
probabilities are from the observed rates is `calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...base.arrays import F64, Floats, Ints
from ...base.errors import DataError

EPSILON = 1e-7
"""Probabilities are clipped to [EPSILON, 1 - EPSILON] before their logarithm is taken."""


@dataclass(frozen=True, slots=True)
class UserAuc:
    """AUC of each user who has rows of both classes.

    Attributes:
        users: int [V], these users.
        values: float64 [V], their AUCs.
        rows: float64 [V], how many rows (or what weight of rows) each has.
        skipped: users of one class only.
    """

    users: Ints
    values: F64
    rows: F64
    skipped: int

    @property
    def mean(self) -> float | None:
        """GAUC: the mean weighted by rows; None when no user has both classes."""
        return float(np.average(self.values, weights=self.rows)) if len(self.values) else None


def check_rows(labels: Floats, scores: Floats, users: Ints | None = None) -> None:
    """Refuse labels that are not 0 or 1, scores that are not finite, and columns of different lengths.

    Raises:
        DataError: naming the first bad row.
    """
    if labels.ndim != 1 or scores.shape != labels.shape or (users is not None and users.shape != labels.shape):
        shapes = [list(column.shape) for column in (labels, scores, users) if column is not None]
        raise DataError(f"columns of shapes {shapes}; labels, scores and users must be one entry per row")
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise DataError(f"label {labels[bad[0]]} in row {bad[0]}; labels are 0 or 1, mask the unobserved ones")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(f"score {scores[bad[0]]} in row {bad[0]}; scores must be finite: did the model diverge?")


def auc(labels: Floats, scores: Floats, weights: Floats | None = None) -> float | None:
    """Area under the ROC curve: how often a positive row outranks a negative one, ties counting half.

    Args:
        labels: [R], 0 or 1.
        scores: [R], any monotone score.
        weights: [R], weight of each row; by default 1.

    Returns:
        A number in [0, 1], or None when only one class has weight.
    """
    check_rows(labels, scores)
    areas = user_auc(labels, scores, np.zeros(len(labels), dtype=np.int64), weights)
    return float(areas.values[0]) if len(areas.values) else None


def user_auc(labels: Floats, scores: Floats, users: Ints, weights: Floats | None = None) -> UserAuc:
    """AUC within each user's own rows, for all users at once.

    Args:
        labels: [R], 0 or 1.
        scores: [R].
        users: int [R], user of each row, in any numbering.
        weights: [R], weight of each row; by default 1.
    """
    check_rows(labels, scores, users)
    if len(labels) == 0:
        return UserAuc(np.empty(0, np.int64), np.empty(0), np.empty(0), 0)
    order = np.lexsort((scores, users))
    label, score, user = labels[order], scores[order], users[order]
    weight = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    new_user = np.r_[True, user[1:] != user[:-1]]
    new_tie = new_user | np.r_[True, score[1:] != score[:-1]]
    tie_start, user_start = np.flatnonzero(new_tie), np.flatnonzero(new_user)
    positive = np.add.reduceat(weight * (label == 1), tie_start)
    negative = np.add.reduceat(weight * (label == 0), tie_start)
    below = np.cumsum(negative) - 0.5 * negative  # negatives ranked below each tie, over all users so far
    first_tie = np.searchsorted(tie_start, user_start)
    total_positive = np.add.reduceat(positive, first_tie)
    total_negative = np.add.reduceat(negative, first_tie)
    earlier = np.cumsum(total_negative) - total_negative  # negatives of the users sorted before
    wins = np.add.reduceat(positive * below, first_tie) - total_positive * earlier
    both = (total_positive > 0) & (total_negative > 0)
    values = np.clip(wins[both] / (total_positive[both] * total_negative[both]), 0.0, 1.0)
    rows = (total_positive + total_negative)[both]
    return UserAuc(user[user_start][both], values, rows, int(len(both) - both.sum()))


def gauc(labels: Floats, scores: Floats, users: Ints) -> float | None:
    """Mean AUC within users, weighted by their rows; None when no user has both classes. See `user_auc`."""
    return user_auc(labels, scores, users).mean


def row_logloss(labels: Floats, probabilities: Floats) -> F64:
    """Negative log-likelihood of each row in nats, float64 [R]; probabilities are clipped by `EPSILON`.

    Raises:
        DataError: a probability outside [0, 1].
    """
    check_probabilities(labels, probabilities)
    p = np.clip(probabilities.astype(np.float64), EPSILON, 1.0 - EPSILON)
    return -np.log(np.where(labels == 1, p, 1.0 - p))


def logloss(labels: Floats, probabilities: Floats) -> float | None:
    """Mean negative log-likelihood in nats; None without rows."""
    return float(row_logloss(labels, probabilities).mean()) if len(labels) else None


def check_probabilities(labels: Floats, probabilities: Floats) -> None:
    """`check_rows`, and every probability in [0, 1].

    Raises:
        DataError: naming the first bad row.
    """
    check_rows(labels, probabilities)
    bad = np.flatnonzero((probabilities < 0) | (probabilities > 1))
    if len(bad):
        raise DataError(
            f"probability {probabilities[bad[0]]} in row {bad[0]}; probabilities lie in [0, 1]: "
            "were logits passed without the sigmoid?"
        )
