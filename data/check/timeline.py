"""The log over time: events and label rates in equal steps, and stretches in which next to nothing was logged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...base.arrays import Bool, Floats

STEPS = (("hour", 3600.0), ("day", 86400.0), ("week", 7 * 86400.0), ("30 days", 30 * 86400.0))
MOST_STEPS = 120
FEWEST_DAYS = 3
"""Days from which a log is told by days; a shorter one by hours."""
USUAL_EVENTS = 20
"""Events of the median step from which an empty step says something."""
SHORT_HOURS = 12
"""Empty hours that are only a night."""
THIN = 0.1
"""Share of the median step below which a step is thin."""


def timeline(times: Floats, labels: Mapping[str, Floats]) -> dict[str, Any]:
    """Events and label means in steps of an hour, a day, a week or 30 days, whichever gives at most 120.

    Args:
        times: float [R] seconds since 1970.
        labels: task -> float [R], NaN where unobserved.

    Returns:
        `unit`; `from`, the start of the first step; `seconds` of a step; `events` of each step; `rates`, task -> mean
        label of each step, None without one; `gaps`, stretches of empty steps, and of thin ones with less than a tenth
        of the median, each with `from`, `to`, `steps` and `events`. The first and the last step are cut short by the
        log's ends, and judged by none.
    """
    span = float(times.max() - times.min())
    fitting = [step for step in STEPS if span / step[1] <= MOST_STEPS] or [STEPS[-1]]
    unit, seconds = next((step for step in fitting if step[0] != "hour" or span < FEWEST_DAYS * 86400), fitting[-1])
    first = float(times.min() // seconds * seconds)
    step = ((times - first) // seconds).astype(np.int64)
    events = np.bincount(step)
    rates: dict[str, list[float | None]] = {}
    for task, values in labels.items():
        seen = ~np.isnan(values)
        number = np.bincount(step[seen], minlength=len(events))
        total = np.bincount(step[seen], values[seen], minlength=len(events))
        rates[task] = [float(t / n) if n else None for t, n in zip(total, number, strict=True)]
    usual = float(np.median(events[events > 0]))
    gaps = []
    if usual >= USUAL_EVENTS:
        for start, stop in _runs(events < THIN * usual):
            if start == 0 or stop == len(events) or (unit == "hour" and stop - start <= SHORT_HOURS):
                continue
            at = [_iso(first + place * seconds) for place in (start, stop)]
            gaps.append({"from": at[0], "to": at[1], "steps": stop - start, "events": int(events[start:stop].sum())})
    return {
        "unit": unit,
        "from": _iso(first),
        "seconds": seconds,
        "events": events.tolist(),
        "rates": rates,
        "gaps": gaps,
    }


def _runs(marks: Bool) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, marks, False].astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")
