"""What the evaluation is asked for: cut-offs, draws, bins."""

from __future__ import annotations

from pydantic import Field

from ..base.settings import Settings


class EvaluationConfig(Settings):
    """How runs are judged."""

    ks: tuple[int, ...] = Field(default=(10, 50, 100), min_length=1)
    """Cut-offs of the retrieval metrics."""

    list_k: int = Field(default=10, ge=1)
    """Length of the final list: the cut-off of the funnel metrics and of the loss attribution."""

    draws: int = Field(default=1000, ge=0)
    """Bootstrap draws over users behind each 95 % interval; 0 leaves the intervals out."""

    permutations: int = Field(default=10_000, ge=100)
    """Random sign flips behind each p-value of a comparison."""

    level: float = Field(default=0.95, gt=0, lt=1)
    """Coverage of the intervals."""

    seed: int = Field(default=0, ge=0)
    """Seed of the draws; runs to be compared must share it."""

    num_bins: int = Field(default=15, ge=1)
    """Bins of equal mass for the calibration error and the reliability curves."""

    slices: tuple[str, ...] = ()
    """Columns that the test part is also sliced by, beside the usual ones: a feature, an attribute or id of the items,
    the id of the users, `hour` or `weekday`."""

    max_slices: int = Field(default=20, ge=2)
    """Values of a column that get a slice of their own, the most frequent first; the rest are gathered in one."""
