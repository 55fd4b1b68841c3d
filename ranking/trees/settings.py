"""Settings of boosted trees: as the ranker, or beside a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...base.settings import Settings
from ...base.tuned import Range
from ..ranker import RankerConfig

TREES = "trees"
"""`ranking.model.kind` of boosted trees alone."""


class TreeSettings(Settings):
    """How trees are grown; every task has trees of its own."""

    tuned = {
        "learning_rate": Range(0.02, 0.2, log=True),
        "leaves": Range(7, 127, log=True),
        "min_rows": Range(20, 500, log=True),
        "columns": Range(0.2, 1.0),
        "sample": Range(0.5, 1.0),
        "l2": Range(0.1, 100.0, log=True),
    }

    rounds: int = Field(default=3000, ge=1)
    """Most trees of a task. Held-out rows say when to stop: by log-loss, squared error, or NDCG@10 for `select`."""
    patience: int = Field(default=50, ge=1)
    """Trees in a row without a better figure there before growing stops."""
    unjudged_rounds: int = Field(default=200, ge=1)
    """Trees of a task that has no held-out rows to stop by."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Share of each tree that counts."""
    leaves: int = Field(default=31, ge=2)
    """Leaves of a tree."""
    min_rows: int = Field(default=100, ge=1)
    """Least rows of a leaf."""
    columns: float = Field(default=0.5, gt=0, le=1)
    """Share of the columns that a tree may read, drawn for each."""
    sample: float = Field(default=0.8, gt=0, le=1)
    """Share of the rows that a tree is grown on, drawn for each."""
    l2: float = Field(default=10.0, ge=0)
    """L2 penalty of the leaves."""
    categories: Literal["native", "ordered"] = "native"
    """`native`: splits into sets of values; `ordered`: codes as numbers, the frequent values first."""
    most_values: int = Field(default=1000, ge=1)
    """Columns of more values, such as ids, are left out: their counts and histories speak of them."""
    bag_values: int = Field(default=50, ge=1)
    """Lists over a vocabulary of at most so many values are a column a value; of longer ones only the length is
    read."""
    requests: int = Field(default=10_000, ge=1)
    """Requests that `select` is learned from, drawn where there are more."""
    candidates: int = Field(default=100, ge=2)
    """Candidates of each: what was taken, at most half of them, and others drawn."""


class TreesConfig(RankerConfig, TreeSettings):
    """Keys of `kind = "trees"`. Trees have no embeddings, layers or dropout: those keys are read by networks alone."""

    tuned = TreeSettings.tuned

    kind: str = TREES
    """Which ranker."""


class BesideConfig(TreeSettings):
    """Boosted trees beside the network of `[ranking.model]`."""

    enabled: bool = False
    """Grow them, and answer with a mix: a task's logit is `(1 - s) network + s trees`, its share s the one of 0, 0.05,
    ..., 1 with the least loss on held-out rows, or requests for `select`."""
