"""The manifest of a run: what its folder holds, with size and hash, and where it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from ..base.errors import RunError
from ..base.package import package_version
from ..base.settings import Settings

FORMAT = "recsys-run"
FORMAT_VERSION = 2
READABLE = (1, FORMAT_VERSION)
"""Versions that are read: of version 1 the data set is laid out otherwise."""
MANIFEST = "manifest.json"


class FileEntry(Settings):
    """One file of a run."""

    path: str
    """Where it lies, relative to the run folder."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its content."""


class RunManifest(Settings):
    """What a run folder holds and where it came from."""

    format: str = FORMAT
    """Always `recsys-run`."""
    format_version: int = FORMAT_VERSION
    """Raised whenever an older program could misread the folder."""
    package_version: str
    """Version of recsys that wrote it."""
    created: str
    """When the run was first written, ISO 8601 in UTC."""
    seed: int
    """Of everything random in its training."""
    config_hash: str
    """sha256 of the resolved configuration."""
    data_fingerprint: str
    """Hash of the rows it was trained on."""
    git_commit: str
    """Commit of the program, with `+changes` when files differed from it; empty outside a checkout."""
    machine: str
    """Kind of machine, never its name: processor, cores, torch version."""
    files: dict[str, FileEntry]
    """Logical name -> file."""

    def dumps(self) -> str:
        """JSON text with a checksum of everything else, so that a changed manifest is noticed too."""
        content = self.model_dump()
        return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"

    @staticmethod
    def loads(text: str, file: Path) -> RunManifest:
        """The manifest in `text`, read from `file`.

        Raises:
            RunError: it is no manifest, of another version, truncated or changed by hand.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise RunError(f"{file} is truncated or damaged ({error}); restore it, or train the run again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(f'{file} is no run manifest: found no "format": "{FORMAT}"; point --run at a run folder')
        version = content.get("format_version")
        if version not in READABLE:
            raise RunError(
                f"{file} has format version {version}, this recsys {package_version()} reads versions {READABLE[0]} to "
                f"{FORMAT_VERSION}; train the run again, or use the recsys that wrote it "
                f"({content.get('package_version', 'unknown version')})"
            )
        checksum = content.pop("checksum", None)
        if checksum != _checksum(content):
            raise RunError(
                f"{file} was changed after it was written (its checksum differs); restore it, or train again"
            )
        try:
            return RunManifest.model_validate(content)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise RunError(f'{file}: "{where}" is not what a manifest holds; restore it, or train again') from error


def read_run_manifest(folder: Path) -> RunManifest:
    """The manifest of the run in `folder`.

    Raises:
        RunError: the folder is no run, or its manifest is not readable, of another version, or changed.
    """
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise RunError(f"there is no run at {folder}; train one with `recsys train CONFIG`") from error
        raise RunError(
            f"{folder} has no {MANIFEST}: it is no run, or was copied in part; point --run at a run folder"
        ) from error
    except (NotADirectoryError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error}); point --run at a run folder") from error
    return RunManifest.loads(text, file)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
