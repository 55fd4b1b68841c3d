"""Every metric of predicted probabilities, for all draws of a bootstrap and all slices of a column at once.

The estimates are those of `row_metrics` and `calibration`; what this adds is that one call gives them for every draw of
users and every group of rows.
"""

from __future__ import annotations

import numpy as np

from ...base.arrays import F64, Floats, Ints
from ..metrics.calibration import assign_bins
from ..metrics.rows import row_logloss, user_auc
from .bootstrap import UserBootstrap, auc_samples, ratio

ROW_METRICS = ("auc", "gauc", "logloss", "ece", "predicted_to_observed")
PIVOTAL = frozenset({"ece"})
"""Metrics that sampling noise can only raise, whose intervals are reflected about the estimate."""


def row_metric_samples(
    boot: UserBootstrap,
    labels: Floats,
    probabilities: Floats,
    users: Ints,
    *,
    groups: Ints | None = None,
    num_groups: int = 1,
    num_bins: int = 15,
) -> dict[str, F64]:
    """The row metrics of every draw, of all rows or within each group of rows.

    Args:
        boot: the draws over users.
        labels: [R], 0 or 1.
        probabilities: [R], in [0, 1].
        users: int [R], user row in [0, U) of each row.
        groups: int [R] in [0, G), group of each row, such as the slice it belongs to; by default one group.
        num_groups: G.
        num_bins: bins of equal mass within each group for the calibration error.

    Returns:
        Metric name of `ROW_METRICS` -> float64 [draws + 1, G]; row 0 is the estimate, NaN is undefined.
    """
    loss = row_logloss(labels, probabilities)
    group = np.zeros(len(labels), dtype=np.int64) if groups is None else groups.astype(np.int64)
    by_user = user_auc(labels, probabilities, group * boot.num_users + users)
    owner, user = by_user.users // boot.num_users, by_user.users % boot.num_users

    # All that is a sum over rows or users of a group goes through one product.
    columns = [
        (group, users, np.ones(len(labels))),
        (group, users, labels),
        (group, users, probabilities),
        (group, users, loss),
        (owner, user, by_user.rows),
        (owner, user, by_user.values * by_user.rows),
    ]
    place = np.concatenate([part + num_groups * index for index, (part, _, _) in enumerate(columns)])
    who, value = (np.concatenate([column[part] for column in columns]) for part in (1, 2))
    sums = boot.grouped_sums(place, who, value, num_groups * len(columns))
    rows, positives, predicted, losses, user_rows, user_aucs = np.split(sums, len(columns), axis=1)

    bins = group * num_bins
    for number in range(num_groups):
        inside = group == number
        bins[inside] += assign_bins(probabilities[inside], num_bins)
    gaps = [
        np.abs(block).reshape(num_groups, num_bins, -1).sum(1).T
        for block in boot.grouped(bins, users, probabilities - labels, num_groups * num_bins)
    ]
    return {
        "auc": auc_samples(boot, labels, probabilities, users, groups=group, num_groups=num_groups),
        "gauc": ratio(user_aucs, user_rows),
        "logloss": ratio(losses, rows),
        "ece": ratio(np.concatenate(gaps), rows),
        "predicted_to_observed": ratio(predicted, positives),
    }
