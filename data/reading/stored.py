"""Tables in files whose columns are read when they are asked for, part by part, and not kept.

A Parquet file stays where it is. A text is parsed once into a file of Arrow columns, which has no name and is gone with
the table: its values stay the texts they are, so that a message quotes what stands in the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...base.arrays import Bool
from ...base.errors import DataError
from .one_type import plain_types


class StoredFile(Protocol):
    """One file of a table."""

    name: str
    schema: pa.Schema
    num_rows: int

    def batches(self, column: str, rows: int) -> Iterator[pa.RecordBatch]:
        """A column in parts of at most so many rows."""


class StoredParquet:
    """A Parquet file.

    Raises:
        DataError: it is no complete Parquet file; also when a column turns out to be damaged.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._incomplete(error) from None
        self.schema: pa.Schema = self._file.schema_arrow
        self.num_rows: int = self._file.metadata.num_rows

    def batches(self, column: str, rows: int) -> Iterator[pa.RecordBatch]:
        """A column in parts of at most so many rows."""
        try:
            yield from self._file.iter_batches(batch_size=rows, columns=[column], use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._incomplete(error) from None

    def _incomplete(self, error: Exception) -> DataError:
        what = str(error).splitlines()[0]
        return DataError(f"{self.name} is no complete Parquet file ({what}); write or copy it again")


class StoredBatches:
    """Record batches that were written into a file without a name, in the folder for temporary files (`TMPDIR`).

    Args:
        name: of the file they were made of.
        schema: of the batches.
        batches: what it holds.
    """

    def __init__(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        self.name, self.schema, self.num_rows = name, schema, 0
        self._handle = tempfile.TemporaryFile(prefix="recsys-text-")  # noqa: SIM115
        with pa.ipc.new_file(pa.PythonFile(_Unclosed(self._handle), mode="w"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                self.num_rows += len(batch)
        self._handle.flush()

    def batches(self, column: str, rows: int) -> Iterator[pa.RecordBatch]:
        """A column in parts of at most so many rows."""
        options = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index(column)], use_threads=False)
        self._handle.seek(0)
        reader = pa.ipc.open_file(pa.PythonFile(_Unclosed(self._handle), mode="r"), options=options)
        for place in range(reader.num_record_batches):
            batch = reader.get_batch(place)
            for start in range(0, len(batch), rows):
                yield batch.slice(start, rows)


class _Unclosed:
    """A file that outlives those who read and write it."""

    def __init__(self, handle: Any) -> None:
        self.read, self.write, self.seek, self.tell, self.flush = (
            handle.read,
            handle.write,
            handle.seek,
            handle.tell,
            handle.flush,
        )
        self.closed = False

    def close(self) -> None:
        """Leave it open."""


class StoredTable:
    """What `pa.Table` offers of files that need not fit into memory, one after the other.

    Args:
        files: of the same columns in the same types.
        kept: bool [rows] rows that count; all when None.
        named: a column that says which file a row is of; none when empty.
    """

    def __init__(self, files: Sequence[StoredFile], kept: Bool | None = None, named: str = "") -> None:
        self._files, self._kept, self._named = tuple(files), kept, named
        self.schema: pa.Schema = self._files[0].schema
        if named:
            self.schema = self.schema.append(pa.field(named, _NAMES))
        self.column_names: list[str] = self.schema.names
        self.num_columns = len(self.column_names)
        self.num_rows = sum(file.num_rows for file in self._files) if kept is None else int(kept.sum())

    @classmethod
    def joined(cls, tables: Sequence[StoredTable]) -> StoredTable | None:
        """Tables as one; None where a column stands in them in several types."""
        first, *others = tables
        types = {field.name: field.type for field in first.schema}
        alike = all({field.name: field.type for field in table.schema} == types for table in others)
        return cls([file for table in tables for file in table._files]) if alike else None

    def with_names(self, column: str) -> StoredTable:
        """The table with a column that says which file a row is of."""
        return StoredTable(self._files, self._kept, column)

    def whole(self) -> pa.Table:
        """The table in memory."""
        return pa.table({name: self.column(name) for name in self.column_names})

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        parts = list(self.parts(name, 1 << 20))
        return pa.chunked_array(parts, parts[0].type if parts else self.schema.field(name).type)

    def parts(self, name: str, rows: int) -> Iterator[pa.Array]:
        """A column in parts of at most so many rows."""
        at = 0
        for file in self._files:
            for batch in _names(file, name, rows) if name == self._named else file.batches(name, rows):
                table = pa.Table.from_batches([batch])
                if self._kept is not None:
                    table = table.filter(pa.array(self._kept[at : at + len(batch)]))
                at += len(batch)
                yield from plain_types(table).column(0).chunks

    def filter(self, mask: Any) -> StoredTable:
        """The rows that a mask keeps."""
        kept = mask.to_numpy(zero_copy_only=False)
        if self._kept is not None:
            both = self._kept.copy()
            both[self._kept] = kept
            kept = both
        return StoredTable(self._files, kept, self._named)


_NAMES = pa.dictionary(pa.int32(), pa.string())


def _names(file: StoredFile, column: str, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, file.num_rows, rows):
        codes = pa.array(np.zeros(min(rows, file.num_rows - start), dtype=np.int32))
        yield pa.record_batch([pa.DictionaryArray.from_arrays(codes, pa.array([file.name]))], names=[column])
