"""Figures over several folds: mean, spread and interval of each, and the systems compared user by user over all folds.

The folds of a growing window train on overlapping rows, so their spread understates that of independent repetitions
(Bengio and Grandvalet 2004: no unbiased estimate of it exists). The comparison is therefore over users: each user's
difference, averaged over the folds, is one value of the paired bootstrap and of the sign-flip test.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..base.arrays import F64, AnyArray
from ..base.errors import DataError
from .config import EvaluationConfig
from .summary import bootstrap_of
from .uncertainty.compare import Comparison
from .uncertainty.significance import holm, paired_standard_error, permutation_test, smallest_visible_difference

Json = dict[str, Any]


def figures_over_folds(folds: Sequence[Mapping[str, Any]], level: float = 0.95) -> Json:
    """Mean and spread of every number of reports of one shape, groups inside groups included.

    Args:
        folds: a report of each fold.
        level: coverage of the intervals.

    Returns:
        Of each number, under its own name, the mean over the folds that have it; beside it `_ci`, the t interval of the
        mean over folds, `_sd`, the standard deviation between folds, and `_folds`, the value of each, None where it is
        undefined. Counts have a rounded mean and `_folds` only. What is no number, or stands for a part of one fold
        (lists, intervals over users), is left out.
    """
    out: Json = {}
    for name in dict.fromkeys(name for fold in folds for name in fold):
        values = [fold.get(name) for fold in folds]
        there = [value for value in values if value is not None]
        if there and all(isinstance(value, Mapping) for value in there):
            inner = figures_over_folds([value or {} for value in values], level)
            out |= {name: inner} if inner else {}
        elif there and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
            out |= _spread(name, values, level)
    return out


def _spread(name: str, values: Sequence[Any], level: float) -> Json:
    from scipy.stats import t

    known = np.array([value for value in values if value is not None], dtype=np.float64)
    mean = float(known.mean())
    if all(isinstance(value, int) for value in values if value is not None):
        return {name: round(mean), f"{name}_folds": list(values)}
    out: Json = {name: mean, f"{name}_folds": list(values)}
    if len(known) > 1:
        deviation = float(known.std(ddof=1))
        half = float(t.ppf((1 + level) / 2, len(known) - 1)) * deviation / math.sqrt(len(known))
        out |= {f"{name}_ci": [mean - half, mean + half], f"{name}_sd": deviation}
    return out


def slices_over_folds(
    folds: Sequence[Sequence[Mapping[str, Any]]], level: float = 0.95, moving: Collection[str] = ()
) -> list[Json]:
    """The slices of the folds' evaluations, each averaged over the folds that have it.

    A value that only one fold has, such as a range of numbers whose edges moved, is left out.

    Args:
        folds: of each fold every slice, as of `Slice.to_json`.
        level: coverage of the intervals.
        moving: columns whose values have edges of each fold in brackets, such as "light (1 to 7)"; the words before the
            bracket are what the folds have in common.

    Returns:
        Slices of the same shape: means of `estimate`, `size`, `share`, `gap` and `cost`; `low` and `high`, the t
        interval of the estimate over folds; `sd` between folds, and `folds`, the estimate of each, None where it is
        undefined.
    """
    found: dict[tuple[str, str, str], list[Mapping[str, Any] | None]] = {}
    for place, fold in enumerate(folds):
        for one in fold:
            value = str(one["value"])
            value = value.partition(" (")[0] if one["column"] in moving else value
            entries = found.setdefault((one["column"], value, one["metric"]), [None] * len(folds))
            entries[place] = one
    out = []
    for (column, value, metric), entries in found.items():
        there = [one for one in entries if one is not None]
        if len(there) < min(2, len(folds)):
            continue
        estimates = [None if one is None else one["estimate"] for one in entries]
        known = [one for one in estimates if one is not None]
        spread = _spread("estimate", estimates, level) if known else {}
        low, high = spread.get("estimate_ci", (None, None))
        mean = {name: _mean([one[name] for one in there]) for name in ("share", "gap", "cost")}
        about: Json = {"column": column, "value": value, "metric": metric, "estimate": spread.get("estimate")}
        size = round(float(np.mean([one["size"] for one in there])))
        out.append({**about, "low": low, "high": high, "size": size, **mean, "sd": spread.get("estimate_sd"),
                    "folds": estimates})  # fmt: skip
    return out


def worst_of(slices: Sequence[Json], metrics: Sequence[str], limit: int = 10) -> list[Json]:
    """Averaged slices that cost most of each metric, by size x gap; only those worse than the whole."""
    costly = [one for one in slices if (one["cost"] or 0.0) > 0]
    return [
        one
        for metric in metrics
        for one in sorted((s for s in costly if s["metric"] == metric), key=lambda s: -s["cost"])[:limit]
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def compare_over_folds(
    folds: Sequence[Mapping[str, AnyArray]], reference: str, config: EvaluationConfig | None = None
) -> list[Json]:
    """Every system against one, on the metrics both have, paired by user over all folds.

    Args:
        folds: of each fold `users`, int [V] user rows that mean the same users in all folds, and `system/metric`, float
            [V] per-user values.
        reference: the system that the others are compared with.
        config: draws, permutations, level and seed.

    Returns:
        A row for each system and metric: the keys of `Comparison` (`a` is the reference; each fold counts the same),
        `system`, `difference_folds`, `difference_sd` between the folds, and `folds_ahead`, in how many of them the
        system is ahead. Holm's correction runs over all rows.

    Raises:
        DataError: the folds have no metric of the reference in common with another system.
    """
    config = config or EvaluationConfig()
    common = [name for name in folds[0] if "/" in name and all(name in fold for fold in folds)]
    metrics = [name.split("/", 1)[1] for name in common if name.startswith(f"{reference}/")]
    systems = dict.fromkeys(name.split("/", 1)[0] for name in common)
    pairs = [(s, m) for s in systems if s != reference for m in metrics if f"{s}/{m}" in common]
    if not pairs:
        raise DataError(f'no system has a metric in common with "{reference}" in every fold; evaluate all stages')
    differences = [
        np.stack([np.asarray(fold[f"{s}/{m}"], dtype=np.float64) - fold[f"{reference}/{m}"] for s, m in pairs], axis=1)
        for fold in folds
    ]
    by_fold = np.stack([difference.mean(0) for difference in differences])
    per_user = _per_user([fold["users"] for fold in folds], differences)
    boot = bootstrap_of(len(per_user), config)
    intervals = boot.interval(boot.means(per_user))
    p = permutation_test(per_user, config.permutations, config.seed)
    visible = smallest_visible_difference(paired_standard_error(per_user), config.level)
    adjusted = holm(p)
    rows = []
    for one, (system, metric) in enumerate(pairs):
        a, b = (float(np.mean([fold[f"{name}/{metric}"].mean() for fold in folds])) for name in (reference, system))
        low, high = intervals[one] or (None, None)
        difference = float(by_fold[:, one].mean())
        row = Comparison(
            metric=metric,
            a=a,
            b=b,
            difference=difference,
            low=low,
            high=high,
            p=float(p[one]),
            p_holm=float(adjusted[one]),
            smallest_visible=float(visible[one]),
            users=len(per_user),
        )
        rows.append(
            {"system": system}
            | row.to_json()
            | {
                "difference_folds": by_fold[:, one].tolist(),
                "difference_sd": float(by_fold[:, one].std(ddof=1)) if len(folds) > 1 else None,
                "folds_ahead": int((by_fold[:, one] > 0).sum()),
            }
        )
    return rows


def _per_user(users: Sequence[AnyArray], values: Sequence[F64]) -> F64:
    """One value [W, M] per user of any fold, such that their mean over users is the mean of the folds' means."""
    known, places = np.unique(np.concatenate(users), return_inverse=True)
    weight = np.concatenate([np.full(len(fold), len(known) / (len(users) * len(fold))) for fold in users])
    out = np.zeros((len(known), values[0].shape[1]))
    np.add.at(out, places, weight[:, None] * np.concatenate(values))
    return out
