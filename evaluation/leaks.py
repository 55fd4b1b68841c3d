"""Leak guards: columns that know the answer or the future, statistics fitted on the test part, time travel.

Everything here reads arrays and returns findings; a leak is a problem, for no metric survives it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..base.arrays import AnyArray, Floats, Ints
from ..base.column_auc import SUSPICIOUS, beyond_chance, coded, column_auc
from ..base.finding import Finding
from ..base.ragged import Ragged


def leak_suspects(
    columns: Mapping[str, AnyArray],
    labels: Mapping[str, Floats],
    *,
    suspicious: float = SUSPICIOUS,
    certain: float = 0.99,
) -> list[Finding]:
    """Single columns that separate a label far too well.

    Args:
        columns: column name -> [R], numbers or categories; NaN and None are a value like any other.
        labels: task name -> [R], 0 or 1, NaN where unobserved.
        suspicious: AUC, either way round, from which a column is a warning.
        certain: AUC from which it is a problem.
    """
    findings: list[Finding] = []
    codes = {name: coded(column) for name, column in columns.items()}
    for task, label in labels.items():
        for name in columns:
            best = column_auc(*codes[name], label)
            if best < suspicious or not beyond_chance(best, label):
                continue
            findings.append(
                Finding(
                    "problem" if best >= certain else "warning",
                    "leaking_column",
                    f"Column '{name}' alone separates '{task}' with AUC {best:.3f}: it was probably recorded after the "
                    "fact; leave it out, or make it as of an earlier time.",
                )
            )
    return findings


def counts_from_future(
    name: str,
    counts: Floats,
    keys: Ints,
    times: Floats | Ints,
    known_before: Ints | None = None,
) -> list[Finding]:
    """Whether a count per key exceeds the rows that had happened by then.

    Args:
        name: the column, for the sentence.
        counts: [R], the feature: how often the key had occurred.
        keys: int [R], the key (user, item, author, ...) of each row.
        times: [R], when the row happened.
        known_before: int [K], occurrences of each key before the first row; by default none.
    """
    order = np.lexsort((times, keys))
    key, time = keys[order], times[order]
    fresh = np.r_[True, key[1:] != key[:-1]] if len(key) else np.empty(0, dtype=bool)
    moment = fresh | np.r_[True, time[1:] != time[:-1]] if len(key) else fresh
    place = np.arange(len(key))
    start_of_key = np.maximum.accumulate(np.where(fresh, place, 0))
    start_of_moment = np.maximum.accumulate(np.where(moment, place, 0))
    earlier = (start_of_moment - start_of_key).astype(np.float64)  # rows of the key strictly before this one
    if known_before is not None:
        earlier += known_before[key]
    excess = np.asarray(counts, dtype=np.float64)[order] > earlier + 1e-6
    if not excess.any():
        return []
    row = int(order[np.flatnonzero(excess)[0]])
    return [
        Finding(
            "problem",
            "knows_the_future",
            f"Column '{name}' knows the future: in {int(excess.sum())} rows, first row {row}, it counts "
            f"{counts[row]:g} events where only {earlier[np.flatnonzero(excess)[0]]:g} had happened; "
            "compute it from strictly earlier rows.",
        )
    ]


def statistics_from_outside(name: str, fitted: Ints, train: Ints) -> list[Finding]:
    """Whether fitted statistics (counts, vocabularies, normalisers) saw more rows than the training part has.

    Args:
        name: what was fitted, for the sentence.
        fitted: int [K], rows each key was fitted on.
        train: int [K], rows the key has in the training part.
    """
    excess = fitted > train
    if not excess.any():
        return []
    extra = int((fitted - train)[excess].sum())
    return [
        Finding(
            "problem",
            "fitted_on_test",
            f"{name} was fitted on {extra} rows outside the training part ({int(excess.sum())} of {len(fitted)} keys, "
            f"first key row {int(np.flatnonzero(excess)[0])}); fit it on the training part only.",
        )
    ]


def time_travel(histories: Ragged, history_times: Floats | Ints, row_times: Floats | Ints) -> list[Finding]:
    """Whether a history holds an event that is not strictly earlier than the row it belongs to.

    Args:
        histories: events of each of the R rows.
        history_times: [E], time of each event, in the layout of `histories.items`.
        row_times: [R], time of each row.
    """
    row = histories.users
    late = history_times >= np.asarray(row_times)[row]
    if not late.any():
        return []
    first = int(np.flatnonzero(late)[0])
    return [
        Finding(
            "problem",
            "time_travel",
            f"{int(late.sum())} events in the histories of {len(np.unique(row[late]))} rows are not from before the "
            "row: "
            f"row {int(row[first])} of time {row_times[row[first]]} holds an event of time {history_times[first]}; "
            "cut histories strictly before the row.",
        )
    ]


def overlapping_time(train_times: Floats | Ints, test_times: Floats | Ints) -> list[Finding]:
    """Whether training rows are as late as test rows under a split by time."""
    if len(train_times) == 0 or len(test_times) == 0 or train_times.max() < test_times.min():
        return []
    late = int((train_times >= test_times.min()).sum())
    return [
        Finding(
            "problem",
            "parts_overlap",
            f"{late} training rows are not earlier than the first test row; split by one moment of time.",
        )
    ]
