"""Metrics of logged rows per task, and the difference of two models with its interval over users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.base.arrays import F64, I64, AnyArray, Bool
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.evaluation.metrics.rows import auc, gauc, logloss, user_auc
from recsys.evaluation.uncertainty.bootstrap import UserBootstrap, auc_samples, ratio

Logits = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Labelled:
    """What is known of the rows of a part.

    Attributes:
        tasks: reported tasks.
        labels: float64 [R, T].
        mask: bool [R, T].
        users: int64 [R], numbered from 0; each row its own where the data has no users.
        has_users: whether it has.
    """

    tasks: tuple[str, ...]
    labels: F64
    mask: Bool
    users: I64
    has_users: bool

    @classmethod
    def of(cls, dataset: Dataset, part: Part) -> Labelled:
        """The rows of a part in the order of `Dataset.rows`."""
        rows = dataset.rows(part).numpy()
        events, has_users = dataset.events, bool(dataset.config.user)
        users = np.unique(events.users[rows], return_inverse=True)[1] if has_users else np.arange(len(rows))
        return cls(
            dataset.task_names,
            events.labels[rows].astype(np.float64),
            events.mask[rows],
            users.astype(np.int64),
            has_users,
        )


def row_metrics(rows: Labelled, logits: Logits) -> dict[str, float]:
    """`auc/<task>`, `gauc/<task>` (with users), `logloss/<task>`, and their means over the tasks."""
    found: dict[str, float] = {}
    for column, task in enumerate(rows.tasks):
        mask = rows.mask[:, column]
        labels, scores = rows.labels[mask, column], np.asarray(logits[task], dtype=np.float64)[mask]
        values = {"auc": auc(labels, scores), "logloss": logloss(labels, 1.0 / (1.0 + np.exp(-scores)))}
        if rows.has_users:
            values["gauc"] = gauc(labels, scores, rows.users[mask])
        found |= {f"{name}/{task}": value for name, value in values.items() if value is not None}
    for name in ("auc", "gauc", "logloss"):
        several = [value for key, value in found.items() if key.startswith(f"{name}/")]
        if several:
            found[name] = float(np.mean(several))
    return found


def difference(
    rows: Labelled,
    pairs: Mapping[str, tuple[Sequence[AnyArray], Sequence[AnyArray]]],
    draws: int,
    prefix: str,
) -> dict[str, dict[str, float]]:
    """Mean metric of one model's seeds minus that of another's, with the interval over users.

    Args:
        rows: the rows.
        pairs: task -> (logits of each seed of the model, logits of each seed of the other), each [R].
        draws: bootstrap draws; the same users are drawn for both.
        prefix: of the keys.

    Returns:
        `<prefix>auc/<task>` and `<prefix>gauc/<task>` -> difference, low, high.
    """
    boot = UserBootstrap(int(rows.users.max()) + 1, draws, seed=0)
    found: dict[str, dict[str, float]] = {}
    for column, task in enumerate(rows.tasks):
        mask = rows.mask[:, column]
        labels, users = rows.labels[mask, column], rows.users[mask]
        metrics = {"auc": _auc, **({"gauc": _gauc} if rows.has_users else {})}
        for name, samples in metrics.items():
            own, other = (
                np.mean([samples(boot, labels, np.asarray(logits, np.float64)[mask], users) for logits in side], axis=0)
                for side in pairs[task]
            )
            gap = own - other
            interval = boot.interval(gap)[0]
            if interval is not None:
                low, high = interval
                found[f"{prefix}{name}/{task}"] = {"difference": float(gap[0, 0]), "low": low, "high": high}
    return found


def _auc(boot: UserBootstrap, labels: AnyArray, scores: AnyArray, users: I64) -> F64:
    return auc_samples(boot, labels, scores, users)


def _gauc(boot: UserBootstrap, labels: AnyArray, scores: AnyArray, users: I64) -> F64:
    each = user_auc(labels, scores, users)
    columns = np.zeros((boot.num_users, 2))
    columns[each.users] = np.stack([each.values * each.rows, each.rows], axis=1)
    sums = boot.sums(columns)
    return ratio(sums[:, :1], sums[:, 1:])


def half_interval(runs: F64) -> float:
    """Half the 95 % interval of the mean of a few runs, by Student's t (five runs are no normal sample); 0 for one."""
    if len(runs) < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs)))
