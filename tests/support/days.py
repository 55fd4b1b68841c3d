"""The tiny world in two days, for runs that continue another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recsys.configs.run import RunConfig
from recsys.data.build import load_dataset
from recsys.data.dataset import Dataset
from recsys.pipeline.continuation import SourceRun
from recsys.tests.support.tiny import TinyRun

LATE_ITEMS, LATE_USERS = range(61, 81), range(100, 121)
"""Ids that nobody met on the first day."""


@dataclass(frozen=True)
class Days:
    """The tiny world in two days, each a folder of its own, and a run of the first."""

    tiny: TinyRun
    first: Path
    second: Path
    run: Path

    def dataset(self, config: RunConfig | None = None) -> Dataset:
        """The second day on the first."""
        data = (config or self.tiny.config()).data
        return load_dataset(data, self.second, 1, source=SourceRun.open(self.run).trained.dataset)
