"""Who acts how often: entities with one event, how few hold most of the log, and users who do not act like people.

Arrays only: `report.py` joins them to tables and says in sentences what they mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base.arrays import F64, I64, Floats
from .profile import Profile

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the busiest users or items whose share of the events is told."""
HEAVY_EVENTS, HEAVY_DEVIATIONS = 100, 6.0
"""A heavy user has at least so many events, and so many robust deviations of log(1 + events) above the median."""
FAST = 60
"""Events within one minute that are more than a person makes."""
AWAKE = 22
"""Hours of one day with an event that are more than a person is awake."""
CLOCKWORK_GAPS, CLOCKWORK = 50, 0.1
"""From so many gaps on, gaps whose deviation is below this share of their mean are a clock's."""
WORST = 10


def concentration(counts: I64) -> dict[str, Any]:
    """How events fall on users or items.

    Args:
        counts: int [V] events of each, all above 0.

    Returns:
        `single`, how many have one event only; `single_share`, their share of all; `busiest`, pairs of a share of the
        busiest and the share of the events they hold.
    """
    held = np.concatenate([[0], np.cumsum(np.sort(counts)[::-1])]) / max(int(counts.sum()), 1)
    places = [min(int(np.ceil(share * len(counts))), len(counts)) for share in SHARES]
    single = int((counts == 1).sum())
    return {
        "single": single,
        "single_share": single / max(len(counts), 1),
        "busiest": [[share, float(held[place])] for share, place in zip(SHARES, places, strict=True)],
    }


def outlier_users(users: Profile, times: Floats | None) -> dict[str, Any]:
    """Users that may be bots, test accounts or shared accounts.

    Args:
        users: user of each event row.
        times: float [R] seconds since 1970; None leaves out what only times can tell.

    Returns:
        `users`, how many there are; `share`, their share of the events; and `worst`, the busiest with `user`, `events`
        and `why`, a list of reasons.
    """
    counts = np.bincount(users.codes, minlength=len(users.values) + 1)
    why: dict[int, list[str]] = {}

    def add(codes: I64, reason: str, numbers: I64 | F64) -> None:
        for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
            why.setdefault(code, []).append(reason.format(number))

    present = np.flatnonzero(counts[1:] > 0) + 1
    size = np.log1p(counts[present])
    middle = float(np.median(size)) if len(size) else 0.0
    deviation = max(1.4826 * float(np.median(np.abs(size - middle))), 0.25) if len(size) else 1.0
    heavy = present[(size > middle + HEAVY_DEVIATIONS * deviation) & (counts[present] >= HEAVY_EVENTS)]
    add(heavy, "{:,} events where the median user has " + f"{np.expm1(middle):,.0f}", counts[heavy])
    if times is not None and len(times) and (times % 3600 == 0).mean() < 0.9:  # days and hours alone tell no minutes
        order = np.lexsort((times, users.codes))
        code, moment = users.codes[order], times[order].astype(np.float64)
        code, moment = code[code > 0], moment[code > 0]
        for (codes, numbers), reason in (
            (_over(*_most(code, moment // 60), FAST), "{:,} events within a minute"),
            (_over(*_hours(code, moment), AWAKE - 1), "events in {} hours of one day"),
            (_clockwork(code, moment), "an event every {:,.0f} seconds, like a clock"),
        ):
            add(codes, reason, numbers)
    flagged = np.array(sorted(why), dtype=np.int64)
    worst = sorted(why, key=lambda one: (-int(counts[one]), one))[:WORST]
    return {
        "users": len(flagged),
        "share": float(counts[flagged].sum() / max(int(counts[1:].sum()), 1)),
        "worst": [
            {"user": str(users.values[code - 1].as_py()), "events": int(counts[code]), "why": why[code]}
            for code in worst
        ],
    }


def _over(codes: I64, numbers: I64, limit: int) -> tuple[I64, I64]:
    return codes[numbers > limit], numbers[numbers > limit]


def _most(code: I64, slot: F64) -> tuple[I64, I64]:
    """Users, and the most entries each has in one slot; entries are sorted by user and slot."""
    opens = np.flatnonzero(np.r_[True, (code[1:] != code[:-1]) | (slot[1:] != slot[:-1])])
    size = np.diff(np.r_[opens, len(code)])
    owner = code[opens]
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    return owner[first], np.maximum.reduceat(size, first) if len(first) else size


def _hours(code: I64, moment: F64) -> tuple[I64, I64]:
    """Users, and the most different hours of one day (UTC) in which each has an event."""
    hour = moment // 3600
    new = np.r_[True, (code[1:] != code[:-1]) | (hour[1:] != hour[:-1])]
    return _most(code[new], hour[new] // 24)


def _clockwork(code: I64, moment: F64) -> tuple[I64, F64]:
    """Users whose events follow one another at equal gaps, and the mean gap in seconds."""
    same = code[1:] == code[:-1]
    owner, gap = code[1:][same], np.diff(moment)[same]
    number = np.bincount(owner)
    mean = np.bincount(owner, gap) / np.maximum(number, 1)
    spread = np.sqrt(np.maximum(np.bincount(owner, gap**2) / np.maximum(number, 1) - mean**2, 0.0))
    codes = np.flatnonzero((number >= CLOCKWORK_GAPS) & (mean > 0) & (spread < CLOCKWORK * mean))
    return codes, mean[codes]
