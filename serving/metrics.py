"""Counters of all workers in one block of numbers: each writes its own row, and whoever is asked adds them up.

A worker that starts again goes on with the row of the one before it, so no series ends with a process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from ..base.arrays import F64
from .problems import KINDS

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
ITEM_STATES = ("living", "new", "changed", "hidden")
STATUSES = tuple(sorted({"200", "201", "204", *(str(kind.status) for kind in KINDS.values())}))
OTHER = "other"
RUNGS = ("history", "features", "segment", "popular")


@dataclass(frozen=True)
class Series:
    """A metric with all values that its labels may have.

    Attributes:
        name: without the prefix `recsys_`.
        kind: of Prometheus.
        told: what it counts.
        labels: name -> values.
        buckets: upper bounds of a histogram.
        combine: how the rows of the workers become one number.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    told: str
    labels: Mapping[str, Sequence[str]]
    buckets: tuple[float, ...] = ()
    combine: Literal["sum", "max"] = "sum"

    @property
    def width(self) -> int:
        """Numbers of one combination of labels: one, or the buckets, the rest, and the sum of a histogram."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


def series_of(paths: Sequence[str], runs: Sequence[str]) -> tuple[Series, ...]:
    """Every metric of a service.

    Args:
        paths: templates of its paths.
        runs: names of the runs it serves.
    """
    where = (*paths, OTHER)
    return (
        Series("requests_total", "counter", "Requests answered.", {"path": where, "status": STATUSES}),
        Series("request_seconds", "histogram", "From the first byte to the last.", {"path": where}, BUCKETS),
        Series(
            "stage_seconds",
            "histogram",
            "Of a recommended list: waiting, the block it was in, its share of retrieving and ranking.",
            {"stage": ("wait", "block", "retrieve", "rank")},
            BUCKETS,
        ),
        Series("batch_size", "histogram", "Requests answered as one block.", {}, SIZES),
        Series("connections", "gauge", "Open connections.", {}),
        Series("queue_depth", "gauge", "Requests that wait.", {}),
        Series("queue_rejected_total", "counter", "Requests refused because too many waited.", {}),
        Series("abandoned_total", "counter", "Requests whose connection ended before the answer.", {}),
        Series("loop_lag_seconds", "gauge", "How late the event loop comes to what is due.", {}, combine="max"),
        Series("answers_total", "counter", "Lists by what they rest on.", {"rung": RUNGS, "run": tuple(runs)}),
        Series(
            "events_total", "counter", "What the service was told.", {"result": ("accepted", "duplicate", "refused")}
        ),
        Series("short_total", "counter", "Lists with fewer items than asked for.", {}),
        Series("relaxed_total", "counter", "Lists in which a rule gave way.", {"rule": ("share", "cap")}),
        Series("explored_total", "counter", "Places whose item was drawn.", {}),
        Series("reloads_total", "counter", "Versions published, or refused.", {"result": ("published", "refused")}),
        Series("worker_restarts_total", "counter", "Workers started again after they ended.", {}),
        Series("trimmed_total", "counter", "Old rows of the log that every version knows, deleted.", {}),
        Series("log_position", "gauge", "Of the last row of the log.", {}, combine="max"),
        Series("state_lag_rows", "gauge", "Rows of the log that a worker has not taken in.", {}, combine="max"),
        Series("items", "gauge", "Items by what became of them.", {"state": ITEM_STATES}, combine="max"),
        Series("new_run_due", "gauge", "1 where so many items changed that a new run is due.", {}, combine="max"),
        Series("overlay_bytes", "gauge", "Memory of what workers were told, all of them.", {}),
        Series("workers", "gauge", "Workers that are ready.", {}),
        Series("private_bytes", "gauge", "Memory that workers do not share.", {}),
    )


class Metrics:
    """The rows of all workers, and this process's own.

    Args:
        series: what is counted; the same in every process.
        rows: how many processes write.
        row: that this one writes.
        file: descriptor of the block that the processes share; memory of this process alone when None.
    """

    def __init__(self, series: Sequence[Series], rows: int = 1, row: int = 0, file: int | None = None) -> None:
        self.series, self.row = tuple(series), row
        self._at: dict[tuple[str, ...], int] = {}
        self._buckets = {one.name: one.buckets for one in series if one.buckets}
        size = 0
        for one in series:
            for values in product(*one.labels.values()):
                self._at[(one.name, *values)] = size
                size += one.width
        self.size = size
        if file is None:
            self._rows: F64 = np.zeros((rows, size))
        else:
            self._rows = np.frombuffer(mmap.mmap(file, rows * size * 8), dtype=np.float64).reshape(rows, size)
        self._mine = self._rows[row]

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to a counter; of labels that nobody foresaw nothing is counted."""
        at = self._at.get((name, *labels))
        if at is not None:
            self._mine[at] += by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._mine[self._at[(name, *labels)]] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        at = self._at.get((name, *labels))
        if at is not None:
            buckets = self._buckets[name]
            self._mine[at + bisect_left(buckets, value)] += 1.0
            self._mine[at + len(buckets) + 1] += value

    def value(self, name: str, *labels: str) -> float:
        """The sum of a counter over all workers."""
        return float(self._rows[:, self._at[(name, *labels)]].sum())

    def least_of_others(self, name: str) -> float:
        """The smallest value of a gauge in the rows of the other workers, not of the supervisor, whose row is the last.

        Infinite where there is no other one.
        """
        values = self._rows[:-1, self._at[(name,)]]
        return min((float(value) for row, value in enumerate(values) if row != self.row), default=float("inf"))

    def text(self, more: Sequence[str] = ()) -> str:
        """Everything in Prometheus's text format; labels that never occurred are left out.

        Args:
            more: further lines.
        """
        lines: list[str] = []
        for one in self.series:
            lines += [f"# HELP recsys_{one.name} {one.told}", f"# TYPE recsys_{one.name} {one.kind}"]
            for values in product(*one.labels.values()):
                at = self._at[(one.name, *values)]
                block = self._rows[:, at : at + one.width]
                numbers = block.max(0) if one.combine == "max" else block.sum(0)
                if one.labels and not numbers.any():
                    continue
                labels = [f'{name}="{value}"' for name, value in zip(one.labels, values, strict=True)]
                lines += _lines(one, labels, numbers)
        return "\n".join([*lines, *more, ""])


def _lines(one: Series, labels: Sequence[str], numbers: F64) -> Iterator[str]:
    if one.kind != "histogram":
        yield f"recsys_{one.name}{_braced(labels)} {numbers[0]:.17g}"
        return
    counts = np.cumsum(numbers[:-1])
    for bound, count in zip([*(f"{b:g}" for b in one.buckets), "+Inf"], counts, strict=True):
        bounded = [*labels, f'le="{bound}"']
        yield f"recsys_{one.name}_bucket{_braced(bounded)} {count:.17g}"
    yield f"recsys_{one.name}_sum{_braced(labels)} {numbers[-1]:.17g}"
    yield f"recsys_{one.name}_count{_braced(labels)} {counts[-1]:.17g}"


def _braced(labels: Sequence[str]) -> str:
    return "{" + ",".join(labels) + "}" if labels else ""


def shared_block(series: Sequence[Series], rows: int) -> int:
    """Descriptor of a block of numbers for so many processes; it is gone with the last of them."""
    file, name = tempfile.mkstemp(prefix="recsys-metrics-")
    os.unlink(name)
    os.truncate(file, rows * Metrics(series).size * 8)
    return file


def private_bytes() -> float:
    """Memory that this process shares with nobody (`Private_Dirty`); 0 where the system does not tell."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            return float(next(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty:")))
    except (OSError, StopIteration):
        return 0.0
