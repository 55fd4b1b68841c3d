"""A run folder on disk: written whole or not at all, checked when opened, changed only by replacing its manifest.

The manifest maps the logical name of every file (`retrieval/index.faiss`) to the file that holds it, with size and
sha256. A file is therefore part of a run only once the manifest says so, and replacing the manifest (one atomic
rename) is the only moment at which a run changes: a process killed before it leaves the previous state, after it the
new one. Later versions of a file, or of a folder such as `retrieval/index`, get a name with their hash in it, so that
both states can lie side by side.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..base.errors import RunError
from ..base.files import empty, locked, sha256, sync, visible_files, write_synced
from ..base.machine import machine_class
from ..base.package import package_version
from .manifest import MANIFEST, FileEntry, RunManifest, read_run_manifest
from .provenance import git_commit

HASHED_NAME = re.compile(r"\.[0-9a-f]{12}(\.[^./]*)?$")


class Run:
    """A complete run folder, as its manifest described it when it was opened."""

    def __init__(self, folder: Path, manifest: RunManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {len(self.manifest.files)} files, created {self.manifest.created})"

    @property
    def version(self) -> str:
        """Twelve digits that name what the run holds: another training, index or evaluation is another version."""
        return hashlib.sha256(self.manifest.dumps().encode()).hexdigest()[:12]

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def has_directory(self, name: str) -> bool:
        """Whether the run has a folder called `name`, e.g. `retrieval/index`."""
        return any(inner.startswith(f"{name}/") for inner in self.manifest.files)

    def file(self, name: str, mend: str = "train the run again") -> Path:
        """Path of the file called `name`, e.g. `retrieval/model.safetensors`.

        Args:
            name: logical name; the path may carry a hash.
            mend: what to do when the run has no such file, for the message.

        Raises:
            RunError: the run has none.
        """
        if name not in self.manifest.files:
            raise RunError(f"{self.folder} has no {name}; {mend}")
        return self.folder / self.manifest.files[name].path

    def directory(self, name: str, mend: str = "train the run again") -> Path:
        """Path of the folder called `name`, e.g. `retrieval/index`, with its files under their own names.

        Args:
            name: logical name, two deep; the path may carry a hash.
            mend: what to do when the run has no such folder, for the message.

        Raises:
            RunError: the run has none.
        """
        for inner, entry in self.manifest.files.items():
            if inner.startswith(f"{name}/"):
                return self.folder / _unit(entry.path)
        raise RunError(f"{self.folder} has no {name}; {mend}")

    def read_json(self, name: str, mend: str = "train the run again") -> Any:
        """Parsed content of the JSON file called `name`."""
        return json.loads(self.file(name, mend).read_text(encoding="utf-8"))

    def read_lines(self, name: str) -> list[Any]:
        """Parsed lines of the JSON-lines file called `name`."""
        return [json.loads(line) for line in self.file(name).read_text(encoding="utf-8").splitlines()]

    @contextlib.contextmanager
    def add_files(self, remove: Iterable[str] = ()) -> Iterator[Path]:
        """Add or replace files: yields an empty folder to write them in, published together when the block ends.

        A process killed at any moment leaves the run as it was before or as it is after. When the block raises,
        nothing changes. A folder two deep, such as `retrieval/index`, is replaced as a whole.

        Args:
            remove: logical names (or folders, ending in `/`) that stop being part of the run, e.g. an index made
                stale by the files written here. What is written in the block stays.

        Raises:
            RunError: another process is changing the run.
        """
        with locked(self.folder):
            current = read_run_manifest(self.folder)
            gone = tuple(remove)
            kept = {
                name: entry
                for name, entry in current.files.items()
                if not any(name == part or (part.endswith("/") and name.startswith(part)) for part in gone)
            }
            staging = self.folder / ".adding"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                yield staging
                self.manifest = _adopt(staging, self.folder, current.model_copy(update={"files": kept}))
            finally:
                shutil.rmtree(staging, ignore_errors=True)


_READABLE = (".toml", ".json", ".jsonl")
"""Ends of the names of files that people open."""


class RunWriter:
    """Writes a run: a context manager whose `folder` becomes the run when the block ends without an error.

    Until then the folder is a hidden sibling (`runs/.name.writing`). An error removes it; a killed process leaves it
    behind, invisible to `find_run`, and the next writer of that run empties it. An existing run of the same name stays
    as it was until the new one is complete, and then changes in one step.

    Args:
        path: where the run will be, e.g. `runs/movielens-1m`.
        seed: of everything random in it.
        config_hash: sha256 of the resolved configuration.
        data_fingerprint: of the rows; may be set later, as an attribute, before the block ends.

    Raises:
        RunError: another process is writing the run, or something that is no run is in its place.
    """

    def __init__(self, path: Path, *, seed: int, config_hash: str, data_fingerprint: str = "") -> None:
        self.path = path if path.name else path.resolve()
        self.seed = seed
        self.config_hash = config_hash
        self.data_fingerprint = data_fingerprint
        self.folder = self.path.parent / f".{self.path.name}.writing"
        self._locks = contextlib.ExitStack()
        self._replaces = False

    def file(self, name: str) -> Path:
        """Path to write the file called `name` at; its folders exist."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def __enter__(self) -> Self:
        self._replaces = (self.path / MANIFEST).exists()
        if not self._replaces and self.path.exists() and not _is_empty_folder(self.path):
            raise RunError(f"{self.path} exists and is no run; choose another --run, or move it away")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as locks:
            locks.enter_context(locked(self.folder, create=True))
            if self._replaces:
                locks.enter_context(locked(self.path))
            empty(self.folder)
            self._locks = locks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._locks:
            moved = False
            try:
                moved = kind is None and self._publish()
            finally:
                if not moved:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self) -> bool:
        """Make the folder the run; whether the folder itself was moved there."""
        manifest = RunManifest(
            package_version=package_version(),
            created=datetime.now(UTC).isoformat(),
            seed=self.seed,
            config_hash=self.config_hash,
            data_fingerprint=self.data_fingerprint,
            git_commit=git_commit(),
            machine=machine_class(),
            files={},
        )
        if self._replaces:
            _adopt(self.folder, self.path, manifest)
            return False
        entries = {name: _entry(self.folder, name) for name in visible_files(self.folder)}
        write_synced(self.folder / MANIFEST, manifest.model_copy(update={"files": entries}).dumps())
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            sync(folder)
        try:
            os.rename(self.folder, self.path)  # replaces an empty folder, never a full one
        except OSError as error:
            raise RunError(f"{self.path} appeared while the run was being written; choose another --run") from error
        sync(self.path.parent)
        return True


def open_run(folder: Path) -> Run:
    """The run in `folder`, after checking its version and that every file is present, whole and unchanged.

    Raises:
        RunError: it is not; the message names the file at fault.
    """
    manifest = read_run_manifest(folder)
    try:
        _check(folder, manifest)
    except RunError:
        again = read_run_manifest(folder)
        if again == manifest:
            raise
        manifest = again  # another process replaced files between the two reads
        _check(folder, manifest)
    return Run(folder, manifest)


def _check(folder: Path, manifest: RunManifest) -> None:
    mend = "restore it, or train the run again"
    for name, entry in manifest.files.items():
        file = folder / entry.path
        if not file.is_file():
            raise RunError(f"{file} is missing, though the manifest lists it ({name}); {mend}")
        size = file.stat().st_size
        if size != entry.size:
            fault = "truncated" if size < entry.size else "longer than it was written"
            raise RunError(f"{file} is {fault}: found {size} bytes, expected {entry.size}; {mend}")
        if sha256(file) != entry.sha256:
            raise RunError(f"{file} was changed after it was written: its sha256 is not the manifest's; {mend}")


def _adopt(staging: Path, folder: Path, manifest: RunManifest) -> RunManifest:
    """Move staged files into `folder` under hashed names, publish them, then delete what they replace.

    Args:
        staging: holds the new files; on the same disk as `folder`.
        folder: the run.
        manifest: of the state after the change, without the staged files.

    Returns:
        The published manifest.
    """
    before = read_run_manifest(folder).files
    units: dict[str, list[FileEntry]] = {}
    for name in visible_files(staging):
        units.setdefault(_unit(name), []).append(_entry(staging, name))
    entries = {name: entry for name, entry in manifest.files.items() if _unit(name) not in units}
    taken = {_unit(entry.path) for entry in before.values()}
    for unit, parts in units.items():
        place = _hashed_name(unit, parts, taken)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        _remove(folder / place)  # left there by a process that died before it could publish it
        os.replace(staging / unit, folder / place)
        sync((folder / place).parent)
        entries |= {part.path: part.model_copy(update={"path": place + part.path.removeprefix(unit)}) for part in parts}
    manifest = manifest.model_copy(update={"files": dict(sorted(entries.items()))})
    write_synced(staging / MANIFEST, manifest.dumps())
    os.replace(staging / MANIFEST, folder / MANIFEST)
    sync(folder)
    _sweep(folder, manifest, {_unit(name) for name in before})
    _link_plain_names(folder, manifest)
    return manifest


def _sweep(folder: Path, manifest: RunManifest, before: set[str]) -> None:
    """Delete earlier versions of the run's units, including those left by killed processes; nothing else.

    Args:
        folder: the run.
        manifest: its present state.
        before: units it had earlier.
    """
    present = {_unit(entry.path) for entry in manifest.files.values()}
    known = before | {_unit(name) for name in manifest.files}
    for place in {_unit(path) for path in visible_files(folder)} - present:
        if HASHED_NAME.search(place) or place in known:
            _remove(folder / place)


def _link_plain_names(folder: Path, manifest: RunManifest) -> None:
    """Keep `config.toml` and the like under their own names, for people: links to the files that replaced them.

    The manifest lists the hashed names alone, so that a run is whole at every moment.
    """
    for name, entry in manifest.files.items():
        if entry.path != name and _unit(name) == name and name.endswith(_READABLE):
            (folder / name).unlink(missing_ok=True)
            try:
                (folder / name).symlink_to(Path(entry.path).name)
            except (OSError, NotImplementedError):
                shutil.copyfile(folder / entry.path, folder / name)


def _unit(name: str) -> str:
    """What is replaced as a whole: a file, or a folder two deep, such as `retrieval/index` with all its files."""
    return "/".join(name.split("/")[:2])


def _hashed_name(unit: str, parts: list[FileEntry], taken: set[str]) -> str:
    """`retrieval/index` -> `retrieval/index.1f0c8a2be9d4`: a name for this content that is not in use."""
    digest = hashlib.sha256("".join(f"{part.path} {part.sha256}\n" for part in parts).encode())
    plain = Path(unit)
    while True:
        place = str(plain.with_name(f"{plain.stem}.{digest.hexdigest()[:12]}{plain.suffix}"))
        if place not in taken:
            return place
        digest.update(b"again")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _entry(folder: Path, name: str) -> FileEntry:
    sync(folder / name)
    return FileEntry(path=name, size=(folder / name).stat().st_size, sha256=sha256(folder / name))


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
