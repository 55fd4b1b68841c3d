"""The sections of what is published: a last fit on more rows, and several seeds as one model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..base.settings import Settings


class FinalConfig(Settings):
    """A last fit before publishing: as many epochs as validation chose, on more rows, without looking at a metric."""

    rows: Literal["none", "valid", "all", "auto"] = Field(default="none")
    """`valid`: also the validation rows, and the test rows still judge the run; `all`: every row, as after `--final`,
    and the figures of the run that was chosen are kept instead; `none`: no last fit. `auto`: `valid` where both stages
    begin anew from their tables and without boosted trees, else `none`."""

    @property
    def is_made(self) -> bool:
        """Whether there is a last fit; of `auto` a training says so when it begins (`pipeline.final.settled_final`)."""
        return self.rows in ("valid", "all")


class EnsembleConfig(Settings):
    """Several trainings that differ in their seed, served as one model.

    Towers stand side by side: an index holds vectors of `seeds` times the width. Rankers are averaged: training, size
    and the time of ranking are those of `seeds` models.
    """

    seeds: int = Field(default=1, ge=1)
    """How many: `seed`, `seed + 1`, ...; 1 is a single model."""
