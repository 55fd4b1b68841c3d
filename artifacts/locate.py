"""Finding runs: the `latest` pointer, and which run a user means."""

from __future__ import annotations

import os
from pathlib import Path

from ..base.errors import RunError
from .manifest import MANIFEST, RunManifest

RUNS = Path("runs")
LATEST = "latest"


def point_latest(run: Path, base: Path = RUNS) -> None:
    """Make `base/latest` name `run`: a symbolic link replaced in one step, or a text file where links are refused."""
    base.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(run.resolve(), base.resolve())
    fresh = base / f".{LATEST}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(target, target_is_directory=True)
    except (OSError, NotImplementedError):
        fresh.write_text(target + "\n", encoding="utf-8")
    os.replace(fresh, base / LATEST)


def find_run(run: Path | None = None, base: Path = RUNS) -> Path:
    """Folder of the run a user means.

    Args:
        run: a run folder, or the name of one in `base`; None means the newest.
        base: folder that holds runs and the `latest` pointer.

    Returns:
        The folder; its manifest exists, nothing else has been checked (`open_run` does).

    Raises:
        RunError: there is none; the message lists the runs there are.
    """
    if run is None:
        pointed = _pointed(base / LATEST)
        if pointed is not None and (pointed / MANIFEST).is_file():
            return pointed
        newest = max(complete_runs(base), key=_age, default=None)
        if newest is None:
            raise RunError(f"there is no run in {base}; train one with `recsys train CONFIG`, or name one with --run")
        return newest
    for folder in (run, base / run):
        followed = _pointed(folder) if folder.name == LATEST else folder
        if followed is not None and (followed / MANIFEST).is_file():
            return followed
    if run.is_dir():
        raise RunError(f"{run} has no {MANIFEST}: it is no run, or was copied in part; point --run at a run folder")
    there = ", ".join(folder.name for folder in complete_runs(base)) or "none"
    raise RunError(f"there is no run at {run}; runs in {base}: {there}")


def _pointed(pointer: Path) -> Path | None:
    if pointer.is_symlink():
        return pointer.parent / os.readlink(pointer)
    if pointer.is_file():
        return pointer.parent / pointer.read_text(encoding="utf-8").strip()
    return pointer if pointer.is_dir() else None


def complete_runs(base: Path) -> list[Path]:
    """Folders of the complete runs in a folder, by name."""
    folders = sorted(base.iterdir()) if base.is_dir() else []
    return [f for f in folders if not f.name.startswith(".") and f.name != LATEST and (f / MANIFEST).is_file()]


def _age(folder: Path) -> str:
    try:
        return RunManifest.loads((folder / MANIFEST).read_text(encoding="utf-8"), folder / MANIFEST).created
    except (RunError, OSError, UnicodeDecodeError):
        return ""  # a damaged run is never the newest; opening it by name says what is wrong
