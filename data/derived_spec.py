"""Features that are computed from columns of users, items and events, and from the moment: `[[data.derived]]`.

Where a derived feature stands follows from its inputs: with one of the item it describes the pair, otherwise the query.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from ..base.settings import Settings
from .feature_spec import FeatureSpec, Scale, Side

DerivedKind = Literal["hour", "weekday", "since", "ratio", "cross"]
INPUTS: dict[str, tuple[int, int]] = {
    "hour": (0, 1),
    "weekday": (0, 1),
    "since": (0, 1),
    "ratio": (2, 2),
    "cross": (2, 8),
}
"""Least and most inputs of each kind."""


class DerivedSpec(Settings):
    """One computed input of the ranker; the towers read none.

    In a row of the log the moment is the row's time. A request of an evaluation stands at the user's first event of the
    part that is judged, and an answer is given now.
    """

    name: str
    """How the feature is called in reports; no feature may have the same name."""
    kind: DerivedKind
    """`hour` of the day (0-23) and `weekday` (0 is Monday), of the moment or of a time column; `since`: seconds from a
    time column to the moment, without inputs from the user's row before; `ratio` of two numbers, missing where the
    second is 0; `cross`: each combination of two or more columns' values, by its hash."""
    inputs: tuple[str, ...] = ()
    """Columns, each with its side: `user.city`, `item.released`, `context.tab`. They need not be features."""
    utc_offset: float = Field(default=0.0, ge=-14, le=14)
    """Hours that the clock of `hour` and `weekday` is ahead of UTC."""
    hash_buckets: int = Field(default=10_000, ge=1)
    """Rows of a `cross`; its values share rows, see `data.features.hash_buckets`."""
    min_count: int = Field(default=1, ge=1)
    """Combinations of fewer training rows share the 'unknown' row of a `cross`."""
    bins: int = Field(default=64, ge=0)
    """Buckets of a number, as for numeric features."""
    edges: tuple[float, ...] = ()
    """Edges of a number's buckets, as for numeric features."""
    scale: Scale = "log"
    """How a number is also fed as a number, as for numeric features."""
    fill: float | None = None
    """What a missing number counts as, as for numeric features."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fewest, most = INPUTS[self.kind]
        if not fewest <= len(self.inputs) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise ValueError(f'derived "{self.name}": {self.kind} takes {wanted} inputs, found {len(self.inputs)}')
        for given in self.inputs:
            side, _, column = given.partition(".")
            if side not in get_args(Side) or not column:
                raise ValueError(
                    f'derived "{self.name}": found input "{given}", expected a side and a column, such as "user.city", '
                    '"item.released" or "context.tab"'
                )
        _ = self.feature  # its own rules about bins, edges, scale and fill
        return self

    @property
    def sources(self) -> tuple[tuple[Side, str], ...]:
        """Side and column of each input."""
        parted = (given.partition(".") for given in self.inputs)
        return tuple((next(s for s in get_args(Side) if s == side), column) for side, _, column in parted)

    @property
    def of_pair(self) -> bool:
        """Whether it describes the (query, item) pair; otherwise the query alone."""
        return any(side == "item" for side, _ in self.sources)

    @property
    def reads(self) -> Literal["time", "number", "text"]:
        """What its input columns hold."""
        return "number" if self.kind == "ratio" else "text" if self.kind == "cross" else "time"

    @property
    def feature(self) -> FeatureSpec:
        """How its values are encoded once they are computed."""
        if self.kind == "cross":
            return FeatureSpec(name=self.name, side="context", hash_buckets=self.hash_buckets, min_count=self.min_count)
        return FeatureSpec(
            name=self.name,
            side="context",
            kind="numeric",
            bins=self.bins,
            edges=self.edges,
            scale=self.scale,
            fill=self.fill,
        )
