"""What every data source promises: tables of text columns, the same each time, and a sentence where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from ..base.errors import ConfigError, RecsysError
from ..data.reading.sources import load
from ..data.reading.tables import BadRows
from .contract import Contract


class SourceContract(Contract):
    """Every data source, each with several tables of `data.options`."""

    paths: ClassVar[Mapping[str, Path]] = {}
    """Where the data of each lies."""

    def load(self, kind: str, path: Path | None = None, **options: Any) -> Any:
        """The tables at its path, or at another one."""
        return load(kind, path or self.paths[kind], bad=BadRows("error"), **options)

    def test_it_reads_events(self, kind: str, keys: Mapping[str, Any]) -> None:
        tables = self.load(kind, **keys)
        assert tables.events.num_rows > 0
        for name in ("events", "users", "items"):
            table = getattr(tables, name)
            if table is not None:
                assert table.num_rows > 0
                assert isinstance(table, pa.Table)
                assert len(set(table.column_names)) == len(table.column_names)

    def test_it_reads_the_same_each_time(self, kind: str, keys: Mapping[str, Any]) -> None:
        first, again = self.load(kind, **keys), self.load(kind, **keys)
        assert first.fingerprint
        assert first.fingerprint == again.fingerprint
        assert first.events.equals(again.events)

    def test_a_path_where_nothing_lies_is_told_in_a_sentence(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(RecsysError, match="absent"):
            self.load(kind, tmp_path / "absent")

    def test_an_option_that_it_does_not_know_is_refused(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            self.load(kind, no_such_option=1)
