"""`recsys evaluate CONFIG --folds K`: train and test on successive time cuts; a run folder for each, kept whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts.folder import Run, open_run
from ..artifacts.locate import RUNS
from ..artifacts.manifest import MANIFEST
from ..artifacts.names import EVALUATION, USER_VALUES
from ..base.arrays import AnyArray
from ..base.errors import ConfigError, RunError
from ..base.files import write_whole
from ..configs.run import RunConfig, config_hash
from ..data.build import build_dataset
from ..data.folds import Fold, time_folds
from ..data.reading.keys import clean, read_configured
from ..data.reading.readers import Source, combined_digest
from ..data.reading.tables import BadRows, Tables
from ..evaluation.folds import compare_over_folds, figures_over_folds, slices_over_folds, worst_of
from ..retrieval.retriever import TOWER
from .evaluate import evaluate_run
from .publish import train_dataset
from .run_slices import USERS
from .start import Start
from .train import Stages

log = logging.getLogger(__name__)

Json = dict[str, Any]
IDENTITY = "folds.json"
SECTIONS = ("retrieval", "similar", "ranking", "funnel")
FUNNEL = "funnel"


def evaluate_folds(
    config: RunConfig,
    folds: int = 4,
    run: Path | None = None,
    *,
    stage: Stages = "all",
    base: Path = Path(),
    tables: Mapping[str, Source] | None = None,
    slices: Sequence[str] = (),
) -> Json:
    """Train and test on successive time cuts.

    The data are read once. Each fold is built from the rows before its end alone, so its vocabularies, buckets, counts
    and histories are those that a training on that day would have had. Each is a whole run folder with its evaluation:
    an interrupted call goes on with the folds, and the checkpoints, that are missing.

    Args:
        config: the whole configuration; of its split see `data.folds.time_folds`.
        folds: number of cuts.
        run: folder that holds the folds' run folders; `runs/<name>-folds` when None.
        stage: what is trained and measured: `retrieval`, `ranking` or `all`.
        base: folder that the configuration's paths start from.
        tables: `events`, `users`, `items` -> a frame or a path to read instead of what the configuration names.
        slices: columns that each fold's own evaluation is also sliced by.

    Returns:
        The JSON of an evaluation, its numbers means over folds with `_ci`, `_sd` and `_folds` beside them, and `folds`:
        the cuts, and the systems compared with the last stage.

    Raises:
        ConfigError: the events have no times, or a fold would have nothing to train on.
        RunError: `run` holds folds of another configuration, other data or another number of folds.
    """
    if not config.data.time:
        raise ConfigError("folds are cuts in time, and data.time is empty; name the column of the event times")
    if stage == "ranking" and config.data.user and config.data.item:
        raise ConfigError("a ranker stands on a retriever, which each fold trains anew; leave --stage ranking out")
    folder = run or RUNS / f"{config.name}-folds"
    bad = BadRows(config.data.on_bad_rows)
    first = _of_fold(config, Fold(0.0, 0.0, np.inf), 0)
    cleaned, raw = clean(read_configured(config.data, base, bad, tables), first.data, bad)
    if bad.count():
        log.warning("%d bad rows were left out of every fold", bad.count())
    cuts = time_folds(raw.times, config.data.split, folds, config.data.time_zone)
    identity = {"config": config_hash(config), "data": cleaned.fingerprint, "folds": folds, "stage": stage}
    _settle(folder, identity)
    done = []
    for number, cut in enumerate(cuts, start=1):
        of_fold, path = _of_fold(config, cut, number), folder / f"fold-{number}"
        kept = _evaluated(path)
        if kept is None:
            log.info("fold %d of %d: test from %s", number, folds, _date(cut.test_from))
            start = Start.of(None, of_fold, stage)
            dataset = build_dataset(_before(cleaned, raw.times, cut), of_fold.data, config.seed)
            trained = train_dataset(dataset, of_fold, path, start, stage=stage, resume=True, base=base)
            evaluate_run(path, "all", trained, slices)
            kept = open_run(path)
        else:
            log.info("fold %d of %d: kept from before", number, folds)
        done.append(kept)
    return _result(config, cuts, done)


def _of_fold(config: RunConfig, cut: Fold, number: int) -> RunConfig:
    data = config.data.model_copy(update={"split": cut.split()})
    return config.model_copy(update={"data": data, "name": f"{config.name}-fold-{number}"})


def _before(tables: Tables, times: AnyArray, cut: Fold) -> Tables:
    """The rows that exist for a fold, under a fingerprint of their own."""
    there = tables.keep("events", cut.rows(times))
    return replace(there, fingerprint=combined_digest([tables.fingerprint, repr(cut.end)]))


def _settle(folder: Path, identity: Json) -> None:
    """Claim the folder for these folds."""
    file = folder / IDENTITY
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != identity:
            raise RunError(
                f"{folder} holds folds of another configuration, other data or another number of folds; "
                "name another --run, or remove it"
            )
        return
    if (folder / MANIFEST).exists():
        raise RunError(f"{folder} is a run; name another --run for the folds")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(identity))


def _evaluated(path: Path) -> Run | None:
    """A fold's run where it is complete with its evaluation."""
    if not (path / MANIFEST).exists():
        return None
    run = open_run(path)
    return run if {EVALUATION, USER_VALUES} <= run.manifest.files.keys() else None


def _result(config: RunConfig, cuts: Sequence[Fold], runs: Sequence[Run]) -> Json:
    from safetensors.numpy import load_file

    reports = [run.read_json(EVALUATION) for run in runs]
    values = [load_file(run.file(USER_VALUES)) for run in runs]
    level = config.evaluation.level
    lists = {name: value for name, value in reports[-1]["protocol"].items() if name in LISTS}
    protocol: Json = {
        "split": "time",
        "folds": len(cuts),
        **lists,
        "intervals": f"{level:.0%}, t over folds, whose training rows overlap; comparisons over users",
        "notes": reports[-1]["protocol"].get("notes", []),
    }
    figures = figures_over_folds([{name: report.get(name, {}) for name in SECTIONS} for report in reports], level)
    systems = dict(figures.get("retrieval", {}))
    if FUNNEL in figures:
        systems[FUNNEL] = figures[FUNNEL]
    compared: Json = {}
    if systems:
        reference = FUNNEL if FUNNEL in figures else TOWER
        compared = {"reference": reference, "comparison": compare_over_folds(values, reference, config.evaluation)}
    sliced = slices_over_folds([report.get("all_slices", []) for report in reports], level, {USERS})
    slices: Json = {}
    if sliced:
        judged = reports[-1]["sliced_by"]
        slices = {"slices": worst_of(sliced, judged["metrics"]), "all_slices": sliced, "sliced_by": judged}
    return {
        "title": f"{len(cuts)} time folds of {config.name}",
        "protocol": protocol,
        **figures,
        "folds": {"cuts": [_cut(cut, report, run) for cut, report, run in zip(cuts, reports, runs, strict=True)]}
        | compared,
        **slices,
        "findings": [
            finding | {"sentence": f"Fold {number}: {finding['sentence']}"}
            for number, report in enumerate(reports, start=1)
            for finding in report["findings"]
        ],
    }


LISTS = ("filter_seen", "seen", "ranking", "positive", "candidates")
"""What the protocol of every fold says of its lists."""


def _cut(cut: Fold, report: Json, run: Run) -> Json:
    protocol = report["protocol"]
    return {
        "fold": run.folder.name,
        "valid_from": _date(cut.valid_from),
        "test_from": _date(cut.test_from),
        "end": _date(cut.end) if np.isfinite(cut.end) else None,
        **{name: protocol[name] for name in ("train_rows", "test_rows", "users", "items") if name in protocol},
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
