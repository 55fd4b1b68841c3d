"""Numbers -> (bucket, scaled number), fitted on training rows only.

Equal-frequency buckets, but the most frequent value (zero, for most columns) has a bucket of its own: plain quantiles
collapse on zero-inflated columns, where nearly all edges are equal. The scaled number is standardised, with or without
a logarithm before, or equal-frequency normalised as in Meituan's ranker (2018): value in bin b of n -> b/n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...base.arrays import F32, F64, I64
from ...base.cited import cited
from ..feature_spec import Scale
from ..vocabulary import FIRST, UNKNOWN

EQUAL_FREQUENCY_BINS = 100
"""n of the equal-frequency normaliser."""


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
        seen = values[~np.isnan(values)].astype(np.float64)
        if not len(seen):
            return cls(
                mode=0.0,
                edges=np.empty(0),
                log=False,
                mean=0.0,
                deviation=1.0,
                quantiles=np.empty(0) if scale == "equal_frequency" else None,
            )
        distinct, counts = np.unique(seen, return_counts=True)
        mode = float(distinct[counts.argmax()])
        rest = np.sort(seen[seen != mode])
        edges = np.empty(0)
        if len(rest) and bins > 1:
            positions = (np.arange(1, bins) * len(rest)) // bins
            edges = np.unique(rest[positions])
        quantiles = None
        if scale == "equal_frequency":
            quantiles = np.sort(seen)[(np.arange(1, EQUAL_FREQUENCY_BINS) * len(seen)) // EQUAL_FREQUENCY_BINS]
        log = bool(distinct[0] >= 0) and scale != "standard"
        scaled = np.log1p(seen) if log else seen
        deviation = float(scaled.std())
        return cls(
            mode=mode,
            edges=edges,
            log=log,
            mean=float(scaled.mean()),
            deviation=deviation if deviation > 1e-12 else 1.0,
            quantiles=quantiles,
        )

    def buckets(self, values: F32) -> I64:
        """bucket rows, int64 [n]: 1 missing, 2 the mode, 3.. the others; values out of range fall in the end ones."""
        rows = FIRST + 1 + np.searchsorted(self.edges, values.astype(np.float64), side="right")
        rows = np.where(values.astype(np.float64) == self.mode, FIRST, rows)
        return np.where(np.isnan(values), UNKNOWN, rows).astype(np.int64)

    def scaled(self, values: F32) -> F32:
        """Scaled numbers, float32 [n], NaN where missing: standardised, clipped to 8 deviations, or shares of bins."""
        if self.quantiles is not None:
            return equal_frequency(values, self.quantiles)
        x = values.astype(np.float64)
        x = np.log1p(np.maximum(x, 0.0)) if self.log else x
        return np.clip((x - self.mean) / self.deviation, -8.0, 8.0).astype(np.float32)

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


@cited("Meituan technology blog 2018")
def equal_frequency(values: F32, edges: F64) -> F32:
    """Meituan's equal-frequency normaliser: a value in bin b of n equally full ones, b = 0..n-1, becomes b/n.

    Args:
        values: float [m]; NaN stays NaN; values outside the fitted range clamp to the end bins.
        edges: ascending inner edges [n - 1], from training quantiles; a value equal to several of them counts as above
            all of these.
    """
    share = np.searchsorted(edges, values, side="right") / (len(edges) + 1)
    return np.where(np.isnan(values), np.nan, share).astype(np.float32)
