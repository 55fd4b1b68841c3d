"""Tables on disk: Parquet, CSV or JSON lines by the suffix, whole or absent, and made of parts that outlive a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ..base.errors import ConfigError
from ..base.files import locked, replacing, write_whole

Write = Callable[[pa.Table], None]
MARK = "made-of.txt"
"""File of a folder of parts that says what they are parts of."""


def check_table_path(file: Path) -> None:
    """Refuse a file that no table can be written to, before any work is done.

    Raises:
        ConfigError: its suffix names no format, or its folder does not exist.
    """
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"{file} has no suffix of a table; name a file that ends with one of {', '.join(FORMATS)}")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write {file.name} to; make it first")
    if file.is_dir():
        raise ConfigError(f"{file} is a folder; name a file to write the table to")


def write_table(file: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema one behind the other into a file, whole or not at all.

    Args:
        file: its suffix is the format; an earlier file is replaced.
        schema: of every table.
        tables: held one at a time.

    Returns:
        Rows written.

    Raises:
        ConfigError: see `check_table_path`.
    """
    check_table_path(file)
    rows = 0
    with replacing(file) as partial, FORMATS[file.suffix.lower()](partial, schema) as write:
        for table in tables:
            write(table)
            rows += len(table)
    return rows


@contextmanager
def _parquet(file: Path, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(file, schema) as writer:
        yield writer.write_table


@contextmanager
def _csv(file: Path, schema: pa.Schema) -> Iterator[Write]:
    with pacsv.CSVWriter(file, schema) as writer:
        yield writer.write_table


@contextmanager
def _json_lines(file: Path, schema: pa.Schema) -> Iterator[Write]:
    with file.open("w", encoding="utf-8") as stream:

        def write(table: pa.Table) -> None:
            for row in table.to_pylist():
                stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


FORMATS: dict[str, Callable[[Path, pa.Schema], AbstractContextManager[Write]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
}
"""Suffix -> what writes such a file."""


class Parts:
    """Numbered parts of a table that is being made, in a hidden folder beside its file.

    A part is whole or absent, so whoever is killed leaves parts that a later call of the same question takes up.

    Args:
        file: the table that is being made.
        identity: whatever the content depends on; parts of another identity are deleted.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self.folder = file.with_name(f".{file.name}.parts")
        self.identity = identity

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other writers; it is deleted where the block ends well, and kept where it raises.

        Raises:
            RunError: another process makes the same table.
        """
        with locked(self.folder, create=True, shown=self.file):
            mark = self.folder / MARK
            if not mark.exists() or mark.read_text(encoding="utf-8") != self.identity:
                self._clear()
                write_whole(mark, self.identity)
            yield
            self._clear()
            self.folder.rmdir()

    def _clear(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()

    def __contains__(self, number: int) -> bool:
        return self._file(number).exists()

    def write(self, number: int, table: pa.Table) -> None:
        """Keep a part."""
        with replacing(self._file(number)) as partial, pa.ipc.new_file(str(partial), table.schema) as writer:
            writer.write_table(table)

    def read(self, number: int) -> pa.Table:
        """A part that was kept."""
        with pa.memory_map(str(self._file(number))) as source:
            return pa.ipc.open_file(source).read_all()

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.arrow"
