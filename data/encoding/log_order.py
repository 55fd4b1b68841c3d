"""The rows of a log from the earliest to the latest."""

from __future__ import annotations

import numpy as np

from ...base.arrays import Ints
from ...base.counting import STEP, counting_order, rises
from ..log import EventLog
from ..shelf import Shelf


def in_time_order(events: EventLog, shelf: Shelf) -> Ints:
    """Rows of the log by time, those of one moment in the order of their file: int [R], kept by `shelf`.

    Carried rows stand in no file and are the first of their moment. A file in time order needs no sort.
    """
    rows, source = len(events), events.source_rows
    by_file: Ints = shelf.empty((rows,), np.int32 if rows < 2**31 else np.int64)
    if (source < 0).any():  # carried rows
        by_file[:] = counting_order(source + 1, int(source.max()) + 2)
    else:
        for start in range(0, rows, STEP):
            part = source[start : start + STEP]
            by_file[part] = np.arange(start, start + len(part), dtype=by_file.dtype)
    shelf.rest(source)
    if not rises(events.times, by_file):
        by_file[:] = by_file[np.argsort(events.times[by_file], kind="stable")]
    shelf.rest(by_file)
    return by_file
