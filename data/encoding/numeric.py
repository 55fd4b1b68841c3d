"""Numbers -> (bucket, scaled number), fitted on training rows only.

Equal-frequency buckets, but the most frequent value (zero, for most columns) has a bucket of its own: plain quantiles
collapse on zero-inflated columns, where nearly all edges are equal. The scaled number is standardised, with or without
a logarithm before, or equal-frequency normalised as in Meituan's ranker (2018): value in bin b of n -> b/n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...base.arrays import F32, F64, I64, Ints
from ...base.cited import cited
from ..feature_spec import Scale
from ..vocabulary import FIRST, UNKNOWN

EQUAL_FREQUENCY_BINS = 100
"""n of the equal-frequency normaliser."""
BLOCK = 1 << 16
"""Values encoded together: what is worked out on the way stays in the processor's cache."""
COUNTED = 1 << 20
"""Whole numbers below it, such as counts, are counted and not sorted."""
COMPARED = 32
"""Up to so many edges, a comparison of all values with each edge is faster than a binary search of each value."""


@dataclass(frozen=True, kw_only=True)
class NumericEncoder:
    """Bucket edges and scaling of one numeric column.

    Attributes:
        mode: the most frequent training value; it has bucket row 2. NaN where the edges were chosen: no value has it.
        edges: ascending float64 [b - 1] inner edges of the remaining values' equal-frequency buckets.
        log: whether the number is log1p-ed before standardising (asked for, and training values are never negative).
        mean: of the (logged) training values.
        deviation: of the (logged) training values; 1 for a constant column.
        quantiles: ascending float64 [n - 1] inner edges of n bins of equal mass over all values, some equal where a
            value is frequent; None where the number is standardised.
    """

    mode: float
    edges: F64
    log: bool
    mean: float
    deviation: float
    quantiles: F64 | None = None

    @property
    def size(self) -> int:
        """Bucket rows, padding (0) and missing (1) included."""
        return FIRST + 1 + len(self.edges) + 1

    @classmethod
    def fit(cls, values: F32, bins: int, scale: Scale = "log", chosen: Sequence[float] = ()) -> NumericEncoder:
        """Learn edges and scale from training values.

        Args:
            values: float [n]; NaN is missing and ignored.
            bins: most buckets besides the mode's.
            chosen: edges of the buckets, which leave nothing to learn of the buckets.
            scale: see `FeatureSpec.scale`; `none` is fitted like `log`, for nobody reads its scaled number.
        """
        if chosen:
            learned = cls.fit(values, 1, scale)
            return replace(learned, mode=math.nan, edges=np.array(chosen, dtype=np.float64))
        missing = np.isnan(values)
        seen = values[~missing] if missing.any() else values
        if not len(seen):
            return cls(
                mode=0.0,
                edges=np.empty(0),
                log=False,
                mean=0.0,
                deviation=1.0,
                quantiles=np.empty(0) if scale == "equal_frequency" else None,
            )
        log = float(seen.min()) >= 0 and scale != "standard"
        mean, deviation = _moments(seen, log)
        distinct, counts = _distinct(seen)
        most = int(counts.argmax())
        mode = float(distinct[most])
        edges = np.empty(0)
        rest = np.delete(counts, most)
        if len(rest) and bins > 1:
            edges = np.unique(_at_shares(np.delete(distinct, most), rest, bins))
        quantiles = _at_shares(distinct, counts, EQUAL_FREQUENCY_BINS) if scale == "equal_frequency" else None
        return cls(
            mode=mode,
            edges=edges,
            log=log,
            mean=mean,
            deviation=deviation if deviation > 1e-12 else 1.0,
            quantiles=quantiles,
        )

    def buckets(self, values: F32) -> Ints:
        """Bucket rows [n]: 1 missing, 2 the mode, 3.. the others; values out of range fall in the end ones.

        uint8 where that holds them, else int32.
        """
        rows: Ints = np.empty(len(values), dtype=np.uint8 if self.size <= 256 else np.int32)
        edges = _as_float32(self.edges)
        for start in range(0, len(values), BLOCK):
            part, found = values[start : start + BLOCK], rows[start : start + BLOCK]
            found[:] = FIRST + 1
            if len(edges) <= COMPARED:
                for edge in edges:
                    np.add(found, part >= edge, out=found)
            else:
                np.add(found, np.searchsorted(edges, part, side="right"), out=found, casting="unsafe")
            found[part == self.mode] = FIRST
            found[np.isnan(part)] = UNKNOWN
        return rows

    def scaled(self, values: F32) -> F32:
        """Scaled numbers, float32 [n], NaN where missing: standardised, clipped to 8 deviations, or shares of bins."""
        if self.quantiles is not None:
            return equal_frequency(values, self.quantiles)
        found = np.empty(len(values), dtype=np.float32)
        for start in range(0, len(values), BLOCK):
            x = values[start : start + BLOCK].astype(np.float64)
            if self.log:
                np.log1p(np.maximum(x, 0.0, out=x), out=x)
            x -= self.mean
            x /= self.deviation
            found[start : start + BLOCK] = np.clip(x, -8.0, 8.0, out=x)
        return found

    def unscaled(self, scaled: F32) -> F64:
        """The numbers behind scaled ones, float64 [n]: up to the clipping, or the lower edge of their bin."""
        x = scaled.astype(np.float64)
        if self.quantiles is None:
            x = x * self.deviation + self.mean
            return np.expm1(x) if self.log else x
        below = np.nan_to_num(np.round(x * (len(self.quantiles) + 1)) - 1).astype(np.int64)
        return np.where(np.isnan(x), np.nan, self.quantiles[np.maximum(below, 0)])

    def state(self) -> dict[str, object]:
        """As JSON."""
        return {
            "mode": self.mode,
            "edges": self.edges.tolist(),
            "log": self.log,
            "mean": self.mean,
            "deviation": self.deviation,
            **({} if self.quantiles is None else {"quantiles": self.quantiles.tolist()}),
        }

    @classmethod
    def from_state(cls, state: dict[str, object]) -> NumericEncoder:
        """From JSON."""
        edges = np.asarray(state["edges"], dtype=np.float64)
        quantiles = np.asarray(state["quantiles"], dtype=np.float64) if "quantiles" in state else None
        return cls(
            mode=float(str(state["mode"])),
            edges=edges,
            log=bool(state["log"]),
            mean=float(str(state["mean"])),
            deviation=float(str(state["deviation"])),
            quantiles=quantiles,
        )


def _distinct(values: F32) -> tuple[F32, I64]:
    """The distinct values, ascending, and how often each is there: small whole numbers are counted, others sorted."""
    counts = np.zeros(COUNTED, dtype=np.int64)
    for start in range(0, len(values), BLOCK):
        part = values[start : start + BLOCK]
        whole = part.astype(np.int32) if part.min() >= 0 and part.max() < COUNTED else None
        if whole is None or (whole != part).any():
            break
        np.add.at(counts, whole, 1)
    else:
        there = np.flatnonzero(counts)
        return there.astype(np.float32), counts[there]
    ordered = np.sort(values)
    begins = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)
    return ordered[begins], np.diff(np.append(begins, len(ordered)))


def _at_shares(distinct: F32, counts: I64, shares: int) -> F64:
    """Values at 1/n, 2/n, ... of a column, given its distinct values, float64 [n - 1]."""
    ends = np.cumsum(counts)
    places = (np.arange(1, shares) * ends[-1]) // shares
    found: F64 = distinct[np.searchsorted(ends, places, side="right")].astype(np.float64)
    return found


def _moments(values: F32, log: bool) -> tuple[float, float]:
    """Mean and deviation of the (logged) values, to the last bit those that numpy gives for the whole column."""

    def numbers(start: int, count: int) -> F64:
        part = values[start : start + count].astype(np.float64)
        return np.log1p(part, out=part) if log else part

    mean = pairwise_sum(numbers, 0, len(values)) / len(values)

    def squares(start: int, count: int) -> F64:
        part = numbers(start, count)
        part -= mean
        return np.multiply(part, part, out=part)

    return mean, math.sqrt(pairwise_sum(squares, 0, len(values)) / len(values))


def pairwise_sum(numbers: Callable[[int, int], F64], start: int, count: int) -> float:
    """Sum of a column that is worked out part by part: numpy cuts a long sum in two in just these places.

    Args:
        numbers: the column's numbers from a row on, given that row and their count.
        start: first row.
        count: rows.
    """
    if count <= BLOCK:
        return float(np.sum(numbers(start, count)))
    half = count // 2
    half -= half % 8
    return pairwise_sum(numbers, start, half) + pairwise_sum(numbers, start + half, count - half)


def _as_float32(edges: F64) -> F32:
    """The smallest float32 at or above each edge: a float32 is at or above both or neither."""
    near = edges.astype(np.float32)
    return np.where(near < edges, np.nextafter(near, np.float32(np.inf)), near)


@cited("Meituan technology blog 2018")
def equal_frequency(values: F32, edges: F64) -> F32:
    """Meituan's equal-frequency normaliser: a value in bin b of n equally full ones, b = 0..n-1, becomes b/n.

    Args:
        values: float [m]; NaN stays NaN; values outside the fitted range clamp to the end bins.
        edges: ascending inner edges [n - 1], from training quantiles; a value equal to several of them counts as above
            all of these.
    """
    found, bounds = np.empty(len(values), dtype=np.float32), _as_float32(edges)
    for start in range(0, len(values), BLOCK):
        part = values[start : start + BLOCK].astype(np.float32, copy=False)
        share = np.searchsorted(bounds, part, side="right") / (len(edges) + 1)
        found[start : start + BLOCK] = np.where(np.isnan(part), np.nan, share)
    return found
