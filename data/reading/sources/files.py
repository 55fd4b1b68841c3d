"""Finding the files of a public data set: in a folder, a zip, or a folder that holds just that zip."""

from __future__ import annotations

import fnmatch
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ....base.errors import DataError
from ..packed import unpacked
from ..readers import combined_digest, file_bytes
from ..tables import RawTable
from ..text import parse_text


class SourceFiles:
    """The files under `path`, found by name wherever the official archive puts them, gzipped or not.

    Args:
        path: a folder, or a .zip.
        what: the data set's name, for messages.
        official: what its download is called, for messages.
    """

    def __init__(self, path: str | Path, what: str, official: str) -> None:
        self.path = Path(path)
        self.what = what
        self._digests: list[str] = []
        self._zip: zipfile.ZipFile | None = None
        if not self.path.exists():
            raise DataError(
                f"{self.path}: no such file or folder, expected {what}; download {official}, and say where it is with "
                "--set data.path=PATH"
            )
        if self.path.is_dir():
            archives = sorted(self.path.glob("*.zip"))
            files = sorted(file for file in self.path.rglob("*") if file.is_file())
            if len(archives) == 1 and not any(_is_data(file.name) for file in files if file not in archives):
                self.path = archives[0]
        if self.path.is_dir():
            self._names = [file.relative_to(self.path).as_posix() for file in files]
        else:
            self._open_zip()

    def _open_zip(self) -> None:
        data = file_bytes(self.path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise DataError(
                f"{self.path.name} is no complete zip archive, expected {self.what} as a folder or .zip; "
                "download it again"
            ) from None
        self._names = self._zip.namelist()
        self._digests.append(hashlib.sha256(data).hexdigest())

    def find(self, pattern: str) -> list[str]:
        """The names that match, with or without .gz, nearest to the top first, then by name; one of each base name."""
        found: dict[str, str] = {}
        for name in sorted(self._names, key=lambda n: (n.count("/"), n)):
            base = PurePosixPath(name).name.removesuffix(".gz")
            if fnmatch.fnmatchcase(base, pattern):
                found.setdefault(base, name)
        return list(found.values())

    def need(self, *patterns: str) -> list[str]:
        """The first match of each pattern; a DataError that lists all that are missing and where was looked."""
        found = [self.find(pattern)[:1] for pattern in patterns]
        missing = [pattern for pattern, names in zip(patterns, found, strict=True) if not names]
        if missing:
            seen = [PurePosixPath(name).name for name in self._names if not name.endswith("/")]
            shown = ", ".join(seen[:8]) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
            raise DataError(
                f"{self.path}: {self.what} needs {' and '.join(missing)} (plain or .gz), not found among "
                f"{shown or 'no files at all'}; give the folder or zip of the official download"
            )
        return [names[0] for names in found]

    def bytes_of(self, name: str) -> bytes:
        """One file's bytes, unpacked."""
        if self._zip is None:
            data = file_bytes(self.path / name)
            self._digests.append(hashlib.sha256(data).hexdigest())
            return unpacked(data, name)
        try:
            return unpacked(self._zip.read(name), f"{self.path.name}/{name}")
        except (zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{self.path.name}: {name} in it is damaged ({error}); download it again") from None

    def parse(self, name: str, header: Sequence[str] | None = None, **options: Any) -> RawTable:
        """One file as a table of strings; `options` as in `readers.parse_text`."""
        shown = name if self._zip is None else f"{self.path.name}/{name}"
        return parse_text(self.bytes_of(name), shown, header=header, **options)

    def fingerprint(self) -> str:
        """sha256 over the bytes of every source file read so far (of a zip: the zip)."""
        return self._digests[0] if len(self._digests) == 1 else combined_digest(self._digests)


def _is_data(name: str) -> bool:
    return name.removesuffix(".gz").rpartition(".")[2] in ("dat", "data", "test", "item", "user") or (
        name.removesuffix(".gz").endswith(".csv") and not name.startswith("estimated_timestamps")
    )
