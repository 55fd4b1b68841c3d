"""A Parquet file as a table whose columns are read when they are asked for, part by part, and not kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...base.arrays import Bool
from ...base.errors import DataError
from .one_type import plain_types


class StoredTable:
    """What `pa.Table` offers of a file that need not fit into memory.

    Args:
        path: the Parquet file.
        kept: bool [rows] rows that count; all when None.

    Raises:
        DataError: it is no complete Parquet file; also when a column turns out to be damaged.
    """

    def __init__(self, path: Path, kept: Bool | None = None) -> None:
        self._path, self._kept = path, kept
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise _incomplete(path, error) from None
        self.schema: pa.Schema = self._file.schema_arrow
        self.column_names: list[str] = self.schema.names
        self.num_columns = len(self.column_names)
        self.num_rows: int = self._file.metadata.num_rows if kept is None else int(kept.sum())

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        parts = list(self.parts(name, 1 << 20))
        return pa.chunked_array(parts, parts[0].type if parts else self.schema.field(name).type)

    def parts(self, name: str, rows: int) -> Iterator[pa.Array]:
        """A column in parts of at most so many rows."""
        at = 0
        try:
            for batch in self._file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
                table = pa.Table.from_batches([batch])
                if self._kept is not None:
                    table = table.filter(pa.array(self._kept[at : at + len(batch)]))
                at += len(batch)
                yield from plain_types(table).column(0).chunks
        except (pa.ArrowInvalid, OSError) as error:
            raise _incomplete(self._path, error) from None

    def filter(self, mask: Any) -> StoredTable:
        """The rows that a mask keeps."""
        return StoredTable(self._path, mask.to_numpy(zero_copy_only=False))


def _incomplete(path: Path, error: Exception) -> DataError:
    return DataError(f"{path.name} is no complete Parquet file ({str(error).splitlines()[0]}); write or copy it again")
