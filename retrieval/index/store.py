"""The index on disk: content-named files and one sidecar, `index.json`, whose renaming publishes them all at once.

A data file carries its own hash in its name, so a new save never touches the files of the old one; the old index is
complete until the sidecar is replaced, and the new one from then on. Whatever moment the process is killed at, what
`index.json` names is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ...base.arrays import AnyArray
from ...base.errors import RunError
from ...base.files import partial_path, sha256, sync, write_whole
from .base import METRIC, IndexReport, SearchPlan

SIDECAR = "index.json"
FORMAT_VERSION = 1


class StoredFile(BaseModel):
    """A file that belongs to the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    bytes: int


class IndexManifest(BaseModel):
    """The sidecar: everything that must agree before an index may answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    kind: Literal["exact", "faiss", "sharded", "store"]
    metric: str
    dim: int
    size: int
    num_rows: int
    deleted: int
    """Tombstones: rows that are reserved and not returned (listed in the `slots` or `alive` file)."""
    normalised: bool
    """Whether every item vector has length 1, so that the inner product is the cosine."""
    factory: str
    plan: SearchPlan
    vectors_sha256: str | None
    """Fingerprint of the matrix that the index was built from; null once items were upserted."""
    files: dict[str, StoredFile]
    report: IndexReport | None
    shards: tuple[IndexManifest, ...] = ()
    """The parts of a sharded index, whose files lie beside each other."""
    address: str = ""
    """Where the vectors of an index in a vector database lie."""

    def all_files(self) -> tuple[StoredFile, ...]:
        """Its files and those of its shards."""
        return (*self.files.values(), *(file for shard in self.shards for file in shard.all_files()))


class Described(Protocol):
    """What every kind of index says of itself in its sidecar."""

    normalised: bool
    vectors_sha256: str | None
    report: IndexReport | None

    @property
    def size(self) -> int:
        """Number of items that can be returned."""

    @property
    def num_rows(self) -> int:
        """Number of item rows, deleted ones included."""

    @property
    def dim(self) -> int:
        """Width D of the vectors."""

    @property
    def factory(self) -> str:
        """How it searches, in a word."""

    @property
    def plan(self) -> SearchPlan:
        """How hard it looks."""


def manifest_of(
    index: Described,
    kind: Literal["exact", "faiss", "sharded", "store"],
    files: dict[str, StoredFile],
    shards: tuple[IndexManifest, ...] = (),
    address: str = "",
) -> IndexManifest:
    """The sidecar of an index whose files are staged."""
    return IndexManifest(
        kind=kind,
        metric=METRIC,
        dim=index.dim,
        size=index.size,
        num_rows=index.num_rows,
        deleted=index.num_rows - index.size,
        normalised=index.normalised,
        factory=index.factory,
        plan=index.plan,
        vectors_sha256=index.vectors_sha256,
        files=files,
        report=index.report,
        shards=shards,
        address=address,
    )


def staged_array(folder: Path, stem: str, array: AnyArray) -> StoredFile:
    """Write one array as `staged` does."""

    def write(path: Path) -> None:
        with path.open("wb") as out:
            np.save(out, array, allow_pickle=False)

    return staged(folder, stem, ".npy", write)


def staged(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> StoredFile:
    """Write one data file under a name that carries its hash; nothing refers to it until `commit`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = partial_path(folder / f"{stem}{suffix}")
    try:
        write(partial)
        sync(partial)
        digest, size = sha256(partial), partial.stat().st_size
        name = f"{stem}-{digest[:12]}{suffix}"
        os.replace(partial, folder / name)
    finally:
        partial.unlink(missing_ok=True)
    return StoredFile(name=name, sha256=digest, bytes=size)


def commit(folder: Path, manifest: IndexManifest) -> None:
    """Publish the staged files by replacing the sidecar, then remove the files of the index that it replaced."""
    before = _named_files(folder)
    left_out = {name for name in ("shards", "address") if not getattr(manifest, name)}  # earlier releases read the rest
    write_whole(folder / SIDECAR, manifest.model_dump_json(indent=2, exclude=left_out) + "\n")
    for old in before - {stored.name for stored in manifest.all_files()}:
        (folder / old).unlink(missing_ok=True)


def read_index_manifest(folder: Path, kind: str | None = None, verify: bool = True) -> IndexManifest:
    """Read the sidecar and check the files that it names.

    Args:
        folder: where the index was saved.
        kind: the kind that the caller can load; any when None.
        verify: hash every file (a twentieth of a second per 70 MB); sizes are compared in any case.

    Returns:
        The checked sidecar.

    Raises:
        RunError: the sidecar or a file is missing, truncated, altered, of another version or of another metric.
    """
    path = folder / SIDECAR
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} holds no index ({SIDECAR} is missing); build one with `recsys build-index`") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is no readable JSON ({error}); rebuild the index") from error
    if not isinstance(document, dict) or document.get("format_version") != FORMAT_VERSION:
        version = document.get("format_version") if isinstance(document, dict) else None
        raise RunError(f"{path} has format version {version}, this release reads {FORMAT_VERSION}; rebuild the index")
    if document.get("metric") != METRIC:
        raise RunError(
            f"{path} is an index of the metric {document.get('metric')!r}; the towers are trained for "
            f"{METRIC!r} and only that is searched; rebuild the index"
        )
    try:
        manifest = IndexManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{path} is damaged at {where!r} ({first['msg']}); rebuild the index") from error
    if kind is not None and manifest.kind != kind:
        raise RunError(f"{path} is an index of kind {manifest.kind!r}, expected {kind!r}; load it with load_index")
    for stored in manifest.all_files():
        _check_file(folder, stored, verify)
    return manifest


def check_expected(
    folder: Path, manifest: IndexManifest, dim: int | None, normalised: bool | None, vectors_sha256: str | None
) -> None:
    """Refuse an index that does not belong to the model or the vectors that the caller uses."""
    path = folder / SIDECAR
    if dim is not None and dim != manifest.dim:
        raise RunError(f"{path} indexes vectors of width {manifest.dim}, the model makes {dim}; rebuild the index")
    if normalised is not None and normalised != manifest.normalised:
        said = ("unit", "other") if manifest.normalised else ("other", "unit")
        raise RunError(f"{path} indexes {said[0]} vectors, the model makes {said[1]} ones; rebuild the index")
    if vectors_sha256 is not None and manifest.vectors_sha256 not in (None, vectors_sha256):
        raise RunError(f"{path} was built from other item vectors than the run holds; rebuild the index")


def _check_file(folder: Path, stored: StoredFile, verify: bool) -> None:
    path = folder / stored.name
    if Path(stored.name).name != stored.name:
        raise RunError(f"{folder / SIDECAR} names a file outside its folder ({stored.name}); rebuild the index")
    try:
        size = path.stat().st_size
        if size != stored.bytes:
            raise RunError(f"{path} has {size} bytes, expected {stored.bytes}: it is truncated; rebuild the index")
        if verify and sha256(path) != stored.sha256:
            raise RunError(f"{path} is not the file that {SIDECAR} describes (its sha256 differs); rebuild the index")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); rebuild the index") from error


def _named_files(folder: Path) -> set[str]:
    """The data files that the present sidecar names, and none when it cannot be read."""
    try:
        document = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        parts = [document, *document.get("shards", ())]
        return {Path(entry["name"]).name for part in parts for entry in part["files"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
