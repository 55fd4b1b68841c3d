"""The public data sets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest


class Datasets:
    """Finds public data set files; a missing one skips the test that needs it, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __truediv__(self, relative: str) -> Path:
        path = self.root / relative
        if not path.exists():
            pytest.skip(f"needs the public data file {relative} (set RECSYS_DATASETS to its folder)")
        return path
