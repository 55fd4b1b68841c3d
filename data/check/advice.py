"""Which split suits a log: what a cut in time and what leaving each user's last event out would measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base.arrays import I64, Floats

KNOWN = 0.3
"""Share of the test rows, of users with earlier rows, from which a cut in time measures more than cold starts."""
LONG_ENOUGH = 0.5
"""Share of the users with three rows or more from which leaving their last two out keeps most users."""
TEST = 0.1
"""Share of the rows that the tried cut in time tests on."""


def split_advice(
    users: I64 | None, items: I64 | None, times: Floats | None, *, by_item: bool = False
) -> dict[str, Any]:
    """The split that suits, why, and the figures behind it.

    Args:
        users: int [R] user of each event, in any numbering; None without users.
        items: int [R] item of each event; None without items.
        times: float [R] seconds since 1970; None without times.
        by_item: the rows of each user are sorted by item (`file_order.sorted_by_item`).

    Returns:
        `kind`, the split; `why`, a sentence; where there are times `time`, what a test of the last tenth would hold
        (`rows_of_known_users`, `rows_of_known_items`); and where there are users `leave_last` (`users_long_enough`, and
        with times `later_training_rows`, the share of training rows that lie after a test row, on average).
    """
    timed = times is not None and len(np.unique(times)) > 1
    out: dict[str, Any] = {}
    if timed and times is not None:
        test = times >= np.quantile(times, 1.0 - TEST)
        for name, codes in (("users", users), ("items", items)):
            if codes is not None:
                known = float(np.isin(codes[test], np.unique(codes[~test])).mean())
                out.setdefault("time", {})[f"rows_of_known_{name}"] = known
    if users is not None:
        out["leave_last"] = _leave_last(users, times if timed else None)
    if by_item and not timed:
        why = "the rows have no times, and each user's are sorted by item id, which is no order in which things happen"
        return out | {"kind": "random", "why": why}
    return out | dict(zip(("kind", "why"), _chosen(out, timed, users is not None), strict=True))


def _leave_last(users: I64, times: Floats | None) -> dict[str, float]:
    _, place, count = np.unique(users, return_inverse=True, return_counts=True)
    about = {"users_long_enough": float((count >= 3).mean())}
    if times is not None:
        last = np.full(len(count), -np.inf)
        np.maximum.at(last, place, times)
        tests = last[count >= 3]
        train = np.sort(times)
        if len(tests):
            later = 1.0 - np.searchsorted(train, tests, side="right") / len(train)
            about["later_training_rows"] = float(later.mean())
    return about


def _chosen(about: dict[str, Any], timed: bool, with_users: bool) -> tuple[str, str]:
    if not timed:
        if with_users:
            return "leave_last", "the rows have no times; each user's last row in file order is the nearest to a future"
        return "random", "the rows have neither times nor users; a random split is all that is left"
    known = about.get("time", {}).get("rows_of_known_users", 1.0)
    if known >= KNOWN:
        users = f"; {known:.0%} of the rows of the last tenth are of users with earlier rows" if with_users else ""
        return "time", f"a cut in time is what a deployed model meets{users}"
    last, few = about["leave_last"], f"only {known:.0%} of the rows of the last tenth are of users with earlier rows"
    if last["users_long_enough"] >= LONG_ENOUGH:
        return "leave_last", (
            f"a cut in time would test on strangers ({few}), while {last['users_long_enough']:.0%} of the users have "
            f"three rows or more; beware that {last.get('later_training_rows', 0.0):.0%} of the training rows then lie "
            "after a test row"
        )
    return "time", (
        f"{few}, and most users have fewer than three rows: a cut in time says so honestly, and strangers are what "
        "there is to measure"
    )
