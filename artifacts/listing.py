"""The runs of a folder: which there are, what they measured, which are kept, and how one is removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import RunError
from ..base.files import locked, waiting, write_whole
from .locate import RUNS, complete_runs, find_run
from .manifest import RunManifest, read_run_manifest
from .names import EVALUATION, RANKING_HISTORY, RETRIEVAL_HISTORY, TUNING

KEPT = ".kept.json"
"""Names of the runs that are not removed, beside them."""
HISTORIES = {"retrieval": RETRIEVAL_HISTORY, "ranking": RANKING_HISTORY}
Json = dict[str, Any]


def listed(base: Path = RUNS) -> list[Json]:
    """Every complete run of a folder, the newest first.

    Returns:
        `name`, `created`, `seed`, `bytes`, `kept`, `latest`, `version` of the package, `stages` that were trained, `of`
        (`train` or `search`), `test` (figures of its evaluation by dotted name, empty without one) and `validation`
        (metrics of the last epoch of each stage); of a damaged run `name` and `fault`.
    """
    kept = kept_names(base)
    newest = _newest(base)
    found = [_described(folder, folder.name in kept, folder.resolve() == newest) for folder in complete_runs(base)]
    return sorted(found, key=lambda one: str(one.get("created", "")), reverse=True)


def kept_names(base: Path = RUNS) -> set[str]:
    """Names of the runs that are kept."""
    file = base / KEPT
    return set(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else set()


def keep_run(run: Path, kept: bool = True, base: Path = RUNS) -> Path:
    """Mark a run as one that is not removed, or take the mark away.

    Raises:
        RunError: there is no such run in `base`.
    """
    folder = _in(run, base)
    with waiting(base):
        names = kept_names(base)
        write_whole(base / KEPT, json.dumps(sorted(names | {folder.name} if kept else names - {folder.name})))
    return folder


def remove_run(run: Path, base: Path = RUNS) -> Path:
    """Remove a run and what lies beside it of its training; at every moment it is whole or absent.

    Raises:
        RunError: there is no such run in `base`, it is kept, or a process is writing it.
    """
    folder = _in(run, base)
    if folder.name in kept_names(base):
        raise RunError(f"{folder} is kept; `recsys runs keep --off {folder.name}` takes the mark away")
    gone = folder.with_name(f".{folder.name}.removed")
    with locked(folder):
        shutil.rmtree(gone, ignore_errors=True)  # left there by a process that was killed
        os.rename(folder, gone)
    shutil.rmtree(gone)
    shutil.rmtree(folder.with_name(f".{folder.name}.checkpoints"), ignore_errors=True)
    return folder


def _in(run: Path, base: Path) -> Path:
    """A run that lies in the folder, under its own name: not by way of `latest`."""
    folder = find_run(run, base)
    if folder.resolve().parent != base.resolve():
        raise RunError(f"{folder} is not in {base}; name one of the runs that `recsys runs` lists")
    return base / folder.resolve().name


def _newest(base: Path) -> Path | None:
    try:
        return find_run(None, base).resolve()
    except RunError:
        return None


def _described(folder: Path, kept: bool, latest: bool) -> Json:
    try:
        manifest = read_run_manifest(folder)
        evaluation = _json(folder, manifest, EVALUATION)
        records = {stage: _last(folder, manifest, name) for stage, name in HISTORIES.items() if name in manifest.files}
    except (RunError, OSError, ValueError) as error:
        return {"name": folder.name, "fault": str(error)}
    validation = {
        f"{stage}.{name}": value
        for stage, record in records.items()
        for name, value in record.items()
        if name not in ("epoch", "steps", "lr", "rows_per_second", "seconds") and isinstance(value, float)
    }
    return {
        "name": folder.name,
        "created": manifest.created,
        "seed": manifest.seed,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "kept": kept,
        "latest": latest,
        "version": manifest.package_version,
        "stages": list(records),
        "of": "search" if TUNING in manifest.files else "train",
        "test": dict(_figures(evaluation)),
        "validation": validation,
    }


def _figures(evaluation: Mapping[str, Any]) -> list[tuple[str, float]]:
    """NDCG@10 of the towers and the funnel, AUC of the tasks."""
    towers, funnel = (evaluation.get("retrieval") or {}).get("two_tower") or {}, evaluation.get("funnel") or {}
    found = [("retrieval.two_tower.ndcg@10", towers.get("ndcg@10")), ("funnel.ndcg@10", funnel.get("ndcg@10"))]
    found += [(f"ranking.{task}.auc", told.get("auc")) for task, told in (evaluation.get("ranking") or {}).items()]
    return [(name, value) for name, value in found if value is not None]


def _json(folder: Path, manifest: RunManifest, name: str) -> Json:
    if name not in manifest.files:
        return {}
    found: Json = json.loads((folder / manifest.files[name].path).read_text(encoding="utf-8"))
    return found


def _last(folder: Path, manifest: RunManifest, name: str) -> Json:
    lines = (folder / manifest.files[name].path).read_text(encoding="utf-8").splitlines()
    found: Json = json.loads(lines[-1]) if lines else {}
    return found
