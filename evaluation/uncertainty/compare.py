"""Two runs on the same users: how large the difference is, whether it is real, and what could have been seen at all.

Pairing removes what the users bring: two runs whose own intervals overlap widely may still differ for certain.
P-values of per-user metrics are those of the sign-flip test; the metrics of tasks, which have no per-user value, take
theirs from the paired bootstrap. Holm's correction runs over all metrics of one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...base.arrays import Floats, Ints
from ...base.errors import DataError
from ..config import EvaluationConfig
from ..metrics.lists import UserMetrics
from ..summary import bootstrap_of
from .row_samples import row_metric_samples
from .significance import bootstrap_p_value, holm, paired_standard_error, permutation_test, smallest_visible_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of two runs.

    Attributes:
        metric: its name, with the task before it for ranking metrics.
        a: value of the first run.
        b: value of the second.
        difference: b - a.
        low: lower end of the paired interval of the difference.
        high: upper end.
        p: two-sided p-value.
        p_holm: the same after correction for all metrics compared.
        smallest_visible: the true difference that this test set would find 80 times in a hundred.
        users: how many users both runs were judged on.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    p: float
    p_holm: float
    smallest_visible: float
    users: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 5 %."""
        return self.p_holm < 0.05

    def to_json(self) -> dict[str, Any]:
        """The row as a flat object."""
        return asdict(self) | {"significant": self.significant}


@dataclass(frozen=True)
class TaskRows:
    """One task's test rows with the predictions of both runs: `labels`, `a`, `b` and `users`, each [R]."""

    labels: Floats
    a: Floats
    b: Floats
    users: Ints


def compare(
    lists: tuple[UserMetrics, UserMetrics] | None = None,
    tasks: Mapping[str, TaskRows] | None = None,
    config: EvaluationConfig | None = None,
) -> list[Comparison]:
    """Compare run B with run A on every metric both have.

    Args:
        lists: per-user metrics of A and of B; they are paired by user row, so rows must mean the same users.
        tasks: task name -> rows with the predictions of both.
        config: draws, permutations, level and seed.

    Returns:
        One row per metric, with Holm's correction over all of them.

    Raises:
        DataError: no user or no metric in common.
    """
    config = config or EvaluationConfig()
    rows = _compare_lists(*lists, config) if lists is not None else []
    for task, table in (tasks or {}).items():
        rows += _compare_task(task, table, config)
    adjusted = holm(np.array([row.p for row in rows]))
    return [Comparison(**{**asdict(row), "p_holm": float(p)}) for row, p in zip(rows, adjusted, strict=True)]


def _compare_lists(a: UserMetrics, b: UserMetrics, config: EvaluationConfig) -> list[Comparison]:
    users, in_a, in_b = np.intersect1d(a.users, b.users, return_indices=True)
    names = [name for name in a.values if name in b.values]
    if len(users) == 0 or not names:
        raise DataError(
            f"the runs have {len(users)} evaluated users and {len(names)} metrics in common; "
            "evaluate both on the same test part and cut-offs"
        )
    value_a = np.stack([a.values[name][in_a] for name in names], axis=1)
    value_b = np.stack([b.values[name][in_b] for name in names], axis=1)
    difference = value_b - value_a
    boot = bootstrap_of(len(users), config)
    intervals = boot.interval(boot.means(difference))
    p = permutation_test(difference, config.permutations, config.seed)
    visible = smallest_visible_difference(paired_standard_error(difference), config.level)
    rows = []
    for column, name in enumerate(names):
        low, high = intervals[column] or (None, None)
        rows.append(
            Comparison(
                metric=name,
                a=float(value_a[:, column].mean()),
                b=float(value_b[:, column].mean()),
                difference=float(difference[:, column].mean()),
                low=low,
                high=high,
                p=float(p[column]),
                p_holm=1.0,
                smallest_visible=float(visible[column]),
                users=len(users),
            )
        )
    return rows


def _compare_task(task: str, table: TaskRows, config: EvaluationConfig) -> list[Comparison]:
    if len(table.labels) == 0:
        raise DataError(f"task '{task}' has no rows to compare; evaluate both runs on a part that has some")
    _, user = np.unique(table.users, return_inverse=True)
    boot = bootstrap_of(int(user.max()) + 1, config)
    labels = table.labels.astype(np.float64)
    first = row_metric_samples(boot, labels, table.a.astype(np.float64), user, num_bins=config.num_bins)
    second = row_metric_samples(boot, labels, table.b.astype(np.float64), user, num_bins=config.num_bins)
    rows = []
    for name, samples in first.items():
        difference = second[name] - samples
        if not np.isfinite(difference[0, 0]):
            continue
        low, high = boot.interval(difference)[0] or (None, None)
        error = np.nanstd(difference[1:], axis=0) if boot.draws else np.array([np.nan])
        rows.append(
            Comparison(
                metric=f"{task} {name}",
                a=float(samples[0, 0]),
                b=float(second[name][0, 0]),
                difference=float(difference[0, 0]),
                low=low,
                high=high,
                p=float(bootstrap_p_value(difference)[0]),
                p_holm=1.0,
                smallest_visible=float(smallest_visible_difference(error, config.level)[0]),
                users=boot.num_users,
            )
        )
    return rows
