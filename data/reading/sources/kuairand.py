"""KuaiRand-Pure (Kuaishou and USTC; Gao et al., CIKM 2022): exposures of short videos with many kinds of feedback.

events: the official log columns, keyed user_id and video_id, time in `time_ms`. users: user_id and 30 more; with a
`user_history*` file also the videos seen before the log begins. items: video_id and 11 more. All values are text.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ....base.errors import DataError
from ..readers import concatenate
from ..tables import BadRows, RawTable, Tables, quote
from .files import SourceFiles

OFFICIAL = "KuaiRand-Pure of its authors (KuaiRand-Pure.tar.gz, unpacked)"
LEAK_NOTE = (
    "video statistics are totals over the whole month and know the future: a score on a time split that uses them "
    "is not to be believed"
)
_HISTORY = ("watch_seq", "like_seq", "long_watch_seq", "history_len", "last_time_ms")


def load(
    path: str | Path,
    *,
    include_random: bool = False,
    include_statistics: bool = False,
    bad: BadRows | None = None,
) -> Tables:
    """Load KuaiRand from the folder (or zip) of its csv files, plain or gzipped.

    Args:
        path: folder or zip; the files may lie in a subfolder such as `data/`.
        include_random: also read `log_random*`, the exposures chosen at random.
        include_statistics: also read `video_features_statistic*`; they leak the future, and the notes say so.
        bad: where ragged lines go; by default the first of them is an error.

    Returns:
        Several log files follow each other by the time of their first row; rows keep their file's order.

    Raises:
        DataError: a file is missing or unreadable, or a log does not begin with a time.
    """
    files = SourceFiles(path, "KuaiRand", OFFICIAL)
    files.need("log_standard_*.csv", "user_features*.csv", "video_features_basic*.csv")
    names = files.find("log_standard_*.csv")
    if include_random:
        names += [files.need("log_random_*.csv")[0], *files.find("log_random_*.csv")[1:]]
    logs = sorted((files.parse(name, bad=bad) for name in names), key=_first_time)
    events = concatenate(logs)
    users = files.parse(files.find("user_features*.csv")[0], table="users", bad=bad)
    items = files.parse(files.find("video_features_basic*.csv")[0], table="items", bad=bad)
    origin = {"events": events.origin, "users": users.origin, "items": items.origin}
    user_table, item_table = users.table, items.table
    notes = []
    if histories := files.find("user_history*.csv"):
        history = files.parse(histories[0], table="users", bad=bad)
        columns = [name for name in _HISTORY if name in history.table.column_names]
        user_table = _joined(user_table, history.table, "user_id", columns)
    if include_statistics:
        statistics = files.parse(*files.need("video_features_statistic*.csv"), table="items", bad=bad)
        extra = [name for name in statistics.table.column_names if name not in item_table.column_names]
        item_table = _joined(item_table, statistics.table, "video_id", extra)
        notes.append(LEAK_NOTE)
    return Tables(
        events=events.table,
        users=user_table,
        items=item_table,
        origin=origin,
        fingerprint=files.fingerprint(),
        notes=tuple(notes),
    )


def _first_time(log: RawTable) -> int:
    first = log.table["time_ms"][0].as_py() if "time_ms" in log.table.column_names else None
    if first is None or not first.isdigit():
        file, place = log.origin.find(0)
        raise DataError(
            f'{file}, {place}, column "time_ms": found {quote(first)}, expected a time in milliseconds; '
            "use the official file"
        )
    return int(first)


def _joined(left: pa.Table, right: pa.Table, key: str, columns: list[str]) -> pa.Table:
    """`left` with `columns` of `right` looked up by `key`; null where `right` has no such row. Order is kept."""
    at = pc.index_in(left[key], value_set=right[key])
    for name in columns:
        left = left.append_column(name, right[name].take(at))
    return left
