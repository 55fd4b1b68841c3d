"""Which split suits a log: by time where its last tenth holds users that training knows, else each user's last."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..split_spec import SplitSpec

_SHARE = 0.1
_KNOWN_USERS = 20
"""Fewest users with events before and after a cut in time that a figure can rest on."""
_KNOWN_SHARE = 0.05
"""Share of all users that they must be at least."""
_FEWEST = 10
"""Rows of a log under which a tenth of them is none."""


def choose_split(
    times: NDArray[np.float64] | None,
    users: pa.ChunkedArray | None,
    rows: int,
    stratify: str,
    by_item: bool = False,
) -> tuple[SplitSpec, str]:
    """A split with something to train on and something to judge by, and the sentence that says why.

    Args:
        times: seconds [rows], None where there are none.
        users: user of each row, None where rows have none.
        rows: of the log.
        stratify: label column of a log without users.
        by_item: rows without times, of which each user's are sorted by item.
    """
    share = _SHARE if rows >= 5 * _FEWEST else 0.25
    codes = None if users is None else _codes(users)
    cut = None if times is None else _known_after(times, codes, share)
    enough = 0.0 if codes is None else max(_KNOWN_USERS, _KNOWN_SHARE * (int(codes.max()) + 1))
    if cut is not None and cut >= enough:
        spec = SplitSpec(kind="time", valid=share, test=share)
        whom = f"{cut:,} users of them are known from before; " if codes is not None else ""
        return spec, f'the last {share:.0%} of the time tests, the {share:.0%} before validates ({whom}kind = "time")'
    if codes is not None and not by_item and (long := int((np.bincount(codes) >= 3).sum())):
        why = "" if times is None else f"only {cut or 0} users have events before and after a cut in time, so "
        return SplitSpec(kind="leave_last"), (
            f"{why}each user's last event tests and the one before validates, of {long:,} users with three or more"
        )
    spec = SplitSpec(kind="random", valid=share, test=share, stratify=stratify)
    why = "no user has three events" if codes is not None else "there are no times"
    if by_item:
        why = "there are no times, and each user's rows are sorted by item id, which is no order in which things happen"
    return spec, f"{why}, so rows are parted at random, {share:.0%} to validate and {share:.0%} to test"


def _known_after(times: NDArray[np.float64], users: NDArray[np.int64] | None, share: float) -> int | None:
    """Users of the test part that training knows (rows, where there are no users); None where a part is empty."""
    start, end = np.quantile(times, 1.0 - 2 * share), np.quantile(times, 1.0 - share)
    train, valid, test = times < start, (times >= start) & (times < end), times >= end
    if not valid.any() or train.sum() < 0.5 * len(times):
        return None
    if users is None:
        return int(test.sum())
    return len(np.intersect1d(users[train], users[test]))


def _codes(users: pa.ChunkedArray) -> NDArray[np.int64]:
    encoded = users.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    codes: NDArray[np.int64] = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
