"""What one input of the models is: whose property, of which kind, read from which column, encoded in which way.

One `[[data.features]]` entry of a run's configuration. `schema.DataConfig` checks entries against one another.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ..base.settings import Settings

Side = Literal["user", "item", "context"]
Kind = Literal["categorical", "multi", "numeric", "sequence", "vector"]
Scale = Literal["log", "standard", "equal_frequency", "none"]


class FeatureSpec(Settings):
    """One input of the models."""

    name: str
    """How the feature is called in configs, vocabularies and reports."""
    side: Side
    """Whose property it is: of the `user`, of the `item`, or of the moment (`context`: a column of the events)."""
    kind: Kind = "categorical"
    """`categorical` (one value), `multi` (several: a list column, or text with a separator), `numeric`, `sequence` (the
    user's earlier items), or `vector` (a fixed-width vector computed elsewhere, such as a text embedding)."""
    column: str = ""
    """Column it is read from; the feature's own name when empty. Sequences have none: they come from the events."""
    separator: str = "|"
    """Between the values of a `multi` column of text, or the numbers of a `vector` column of text."""
    after_event: bool = False
    """A `context` column known only after the event (a rating, a play time): it may describe past events in a user's
    history, and is never an input of its own row."""
    min_count: int = Field(default=0, ge=0)
    """Values seen in fewer training rows share the 'unknown' row, which is thereby trained. 0: every value of a
    training row has a row of its own, unless there are more than a million; of so many, those of one row share it."""
    max_rows: int = Field(default=0, ge=0)
    """Most values that have a row of their own, the most frequent; the others share the 'unknown' row. 0: no limit. In
    a training --from another run, new values take the rows of those that were last seen the longest ago."""
    shared_with: str = ""
    """Another `categorical` or `multi` feature, of any side, whose values are of the same kind (a user's favourite
    category and an item's): the two have one vocabulary, learned from both, and one embedding per value."""
    hash_buckets: int = Field(default=0, ge=0)
    """Rows of the table of a `categorical` or `multi` feature whose values are too many for a row each, or never end:
    the hash of a value names its row, and values share rows. With `min_count`, rarer values have the 'unknown' row;
    without it every value has a row, new ones too. 0: a row per value."""
    hashes: Literal[1, 2] = 1
    """Rows of a value of a `categorical` feature with `hash_buckets`: with 2, a second hash names a second row, the
    embedding is the mean of both, and two values are the same only where both of their rows are. Such a feature
    describes no element of a `sequence`, and no past event."""
    fill: float | str | None = None
    """What a missing value counts as, in training and in an answer: a number for a `numeric` column, text for a
    `categorical` or `multi` one. Without it absence is a value of its own, whose embedding or number is learned."""
    max_length: int = Field(default=8, ge=1)
    """Most values kept of a `multi` column."""
    bins: int = Field(default=64, ge=0)
    """Equal-frequency buckets of a `numeric` column, its most frequent value apart; each bucket has an embedding.
    0 keeps the scaled number only."""
    edges: tuple[float, ...] = ()
    """Edges of the buckets of a `numeric` column where you choose them, ascending: a value belongs to the bucket that
    begins with the last edge at or below it. They take the place of `bins`."""
    scale: Scale = "log"
    """How a `numeric` column is also fed as a number: `log`: log1p where it is never negative in the training rows,
    then standardised; `standard`: standardised; `equal_frequency`: b/100 for a value in bin b of 100 that hold equally
    many training rows (Meituan 2018); `none`: not at all, by its buckets alone."""
    of: tuple[str, ...] = ()
    """Item features that describe each element of a `sequence`; they share the rows of those features' tables."""
    where: str = ""
    """A binary task: only events with label 1 enter the `sequence`. Empty: every event does."""
    length: int = Field(default=20, ge=1)
    """Most recent elements kept of a `sequence`."""
    properties: tuple[str, ...] = ()
    """What is known of each element of a `sequence` besides its item: `gap` (log2 seconds since the element before)
    and binary tasks (the label the event had)."""
    matches: tuple[str, ...] = ()
    """Some of `of`: how many elements of a `sequence` share the candidate's value becomes a number of the pair."""
    pretrained: str = ""
    """File of vectors computed elsewhere, by raw value, relative to the configuration file: a table (CSV or Parquet) of
    values and their numbers, or an .npy array with the values beside it, one a line, in a .txt file of the same name. A
    `vector` looks its column's value up in it. The rows of a `categorical` or `multi` feature start from it, reduced to
    their principal components where they are wider than the embeddings."""
    frozen: bool = False
    """Leave rows that start from `pretrained` where they are; the others, and what reads them, are trained."""
    prior: str = ""
    """Column of the users table with item ids from before the log begins, oldest first, separated by spaces."""

    @property
    def in_bag(self) -> bool:
        """Whether its rows stand in a bag: several values, or one value of several rows."""
        return self.kind == "multi" or self.hashes > 1

    @property
    def source(self) -> str:
        """Column the feature is read from."""
        return self.column or self.name

    @field_validator("scale", mode="before")
    @classmethod
    def _scale_of_earlier_versions(cls, value: object) -> object:
        """Kept runs of earlier versions say true or false."""
        return {True: "log", False: "none"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.edges and (self.kind != "numeric" or not self.bins or list(self.edges) != sorted(set(self.edges))):
            raise ValueError(
                f'"{self.name}": edges are ascending numbers of a numeric feature with bins above 0; found '
                f"{list(self.edges)} of a {self.kind} one"
            )
        if self.kind == "numeric" and self.scale == "none" and not self.bins:
            raise ValueError(f'"{self.name}": bins = 0 and scale = "none" leave nothing of the number; set one of them')
        if self.kind == "sequence" and (self.side != "user" or not self.of):
            raise ValueError(
                f'sequence "{self.name}" needs side = "user" and of = [item features]; '
                f"found side = {self.side!r}, of = {list(self.of)}"
            )
        if self.after_event and (self.side != "context" or self.kind != "categorical"):
            raise ValueError(
                f'"{self.name}": after_event is for categorical context features, found {self.side} {self.kind}'
            )
        if self.shared_with and (self.pretrained or self.min_count > 1 or self.max_rows or self.hash_buckets):
            raise ValueError(
                f'"{self.name}" has the table of "{self.shared_with}": set min_count, max_rows, hash_buckets and '
                "pretrained there, not here"
            )
        if self.hash_buckets and (self.kind not in ("categorical", "multi") or self.pretrained):
            raise ValueError(
                f'"{self.name}": hash_buckets is for categorical and multi features without pretrained vectors'
            )
        if self.hashes == 2 and (not self.hash_buckets or self.kind != "categorical" or self.after_event):
            raise ValueError(
                f'"{self.name}": hashes = 2 is for categorical features with hash_buckets, of no past event'
            )
        if self.max_rows and (self.kind not in ("categorical", "multi") or self.hash_buckets):
            raise ValueError(f'"{self.name}": max_rows is for categorical and multi features without hash_buckets')
        if self.fill is not None:
            self._fits(self.fill)
        if self.pretrained and self.kind not in ("categorical", "multi", "vector"):
            raise ValueError(f'"{self.name}" is {self.kind}: pretrained is for categorical, multi and vector features')
        if self.frozen and (not self.pretrained or self.kind == "vector"):
            raise ValueError(
                f'"{self.name}": frozen is for categorical and multi features with pretrained vectors (a vector never '
                "moves); leave it out"
            )
        if self.kind != "sequence" and (self.of or self.where or self.prior):
            raise ValueError(f'"{self.name}" is {self.kind}: only a sequence takes of, where or prior')
        return self

    def _fits(self, fill: float | str) -> None:
        """Refuse a fill value that is none of the column's own values."""
        if self.kind not in ("categorical", "multi", "numeric"):
            raise ValueError(f'"{self.name}" is {self.kind}: fill is for categorical, multi and numeric features')
        if self.kind == "numeric" and not (isinstance(fill, float) and math.isfinite(fill)):
            raise ValueError(f'"{self.name}" is numeric: found fill = {fill!r}, expected a finite number')
        if fill == "":
            raise ValueError(f'"{self.name}": fill = "" fills nothing, for empty text is missing; leave it out')
