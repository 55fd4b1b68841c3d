"""Versions of a run that are or were served: hard links to their files, so that no training takes them away.

STATE/versions/<version>/...   the files as the manifest names them, and the manifest
STATE/versions/served.json     name of a run -> version served, the one before, and those that were rejected
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts.folder import Run
from ..artifacts.manifest import MANIFEST, read_run_manifest
from ..base.errors import RunError
from ..base.files import replacing
from .problems import ProblemError

SERVED = "served.json"
PASSING = ".served-"
"""How a folder of versions is called that ends with its service; the number of the process follows."""
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Version:
    """A version of a run.

    Attributes:
        name: twelve digits, of the manifest and of the rules.
        folder: where its files lie.
    """

    name: str
    folder: Path


def version_name(run: Run, rules: Path | None) -> str:
    """Twelve digits that name what a run answers with these rules."""
    if rules is None:
        return run.version
    return hashlib.sha256(run.version.encode() + rules.read_bytes()).hexdigest()[:12]


class Shelf:
    """Where the files of served versions stay.

    Args:
        folder: `STATE/versions`, or a folder beside the runs where nothing else is kept.
        lasting: whether it outlives the service.
    """

    def __init__(self, folder: Path, lasting: bool) -> None:
        self.folder, self.lasting = folder, lasting
        self.folder.mkdir(parents=True, exist_ok=True)
        file = folder / SERVED
        self._told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if lasting and file.is_file() else {}

    def keep(self, source: Path, rules: Path | None = None) -> Version:
        """Link the files of a run as it is now. They are not verified here.

        Raises:
            RunError: the folder is no run, or its files cannot be linked.
        """
        for _ in range(3):
            run = Run(source, read_run_manifest(source))
            version = Version(version_name(run, rules), self.folder / version_name(run, rules))
            if (version.folder / MANIFEST).is_file():
                return version
            fresh = self.folder / f".{version.name}.{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                for entry in run.manifest.files.values():
                    target = fresh / entry.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(source / entry.path, target)
            except FileNotFoundError:  # another version took its place meanwhile
                continue
            (fresh / MANIFEST).write_text(run.manifest.dumps(), encoding="utf-8")
            shutil.rmtree(version.folder, ignore_errors=True)
            os.rename(fresh, version.folder)
            return version
        raise RunError(f"{source} lacks files that its manifest lists; train the run again")

    def served(self, name: str, version: Version, before: Version | None) -> None:
        """Remember what a named run serves, and forget files that no rollback needs."""
        rejected = self._told.get(name, {}).get("rejected", [])
        self._told[name] = {
            "version": version.name,
            "before": before.name if before is not None else None,
            "rejected": rejected,
        }
        self._write()
        self.forget_others()

    def forget_others(self) -> None:
        """Delete the files of versions that are neither served nor the ones before."""
        kept = {told[key] for told in self._told.values() for key in ("version", "before")}
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def reject(self, name: str, version: str) -> None:
        """Never take up a version by itself again."""
        told = self._told.setdefault(name, {"version": None, "before": None, "rejected": []})
        told["rejected"] = [*told["rejected"], version][-16:]
        self._write()

    def is_rejected(self, name: str, version: str) -> bool:
        """Whether somebody rolled a version back."""
        return version in self._told.get(name, {}).get("rejected", [])

    def before(self, name: str) -> Version | None:
        """The version that a named run served before, where its files are still there."""
        return self._kept(self._told.get(name, {}).get("before"))

    def last(self, name: str) -> Version | None:
        """The version that a named run served last."""
        return self._kept(self._told.get(name, {}).get("version"))

    def close(self) -> None:
        """Delete what does not last."""
        if not self.lasting:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self, version: str | None) -> Version | None:
        there = version is not None and (self.folder / version / MANIFEST).is_file()
        return Version(version, self.folder / version) if version is not None and there else None

    def _write(self) -> None:
        if self.lasting:
            with replacing(self.folder / SERVED) as fresh:
                fresh.write_text(json.dumps(self._told, indent=1), encoding="utf-8")


def forget_dead(folder: Path) -> None:
    """Delete what services left in a folder that were killed."""
    for left in folder.glob(f"{PASSING}*"):
        number = left.name.removeprefix(PASSING)
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)


def beside(source: Path, name: str) -> Path:
    """The run of a given name in the folder that a served run stands in.

    Raises:
        ProblemError: it is no name, or there is no such run.
    """
    place = source.parent / name
    inside = place.resolve().parent == source.parent.resolve()
    if not _NAME.fullmatch(name) or not inside or not (place / MANIFEST).is_file():
        raise ProblemError("not-found", "there is no run of this name beside the one that is served")
    return place


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
