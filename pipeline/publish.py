"""Training with the disk around it: read the tables, train, and publish a run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifacts.folder import open_run
from ..artifacts.locate import RUNS
from ..artifacts.manifest import MANIFEST, read_run_manifest
from ..base import ranks
from ..base.errors import RunError
from ..base.files import empty, locked
from ..configs.run import RunConfig, config_hash
from ..data.dataset import Dataset
from ..data.reading.exported import exported_log
from ..data.reading.readers import Source
from ..data.reading.tables import BadRows
from ..data.split import Part
from ..funnel.folder import load_run, save_run
from ..funnel.run import Stage, TrainedRun
from ..training.callbacks import Callback
from ..training.checkpoint import Checkpointer
from ..training.engines.joining import joined
from .at_rest import as_trained, settled_run
from .continuation import SourceRun
from .encoded import built_dataset, encode, encode_again, list_bad, meant, refuse_built
from .final import last_fit, settled_final
from .processes import refuse_undistributed, shared_dataset, tables_on_disk
from .start import Start
from .train import Stages, train

log = logging.getLogger(__name__)

CHECKPOINT_STEPS = 500
"""Steps between checkpoints inside an epoch."""


def train_run(
    config: RunConfig,
    run: Path | None = None,
    *,
    stage: Stages = "all",
    resume: bool = False,
    source_run: Path | None = None,
    base: Path = Path(),
    tables: Mapping[str, Source] | None = None,
    data: Path | None = None,
    schema_notes: tuple[str, ...] = (),
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train what a configuration describes and publish it as a run folder.

    Args:
        config: the whole configuration.
        run: folder to write; `runs/<name>` when None.
        stage: `retrieval`, `ranking`, or `all`. `ranking` stands on the retriever the run already has, if it has one.
        resume: continue from the checkpoints of a training that was killed.
        source_run: a run to go on from: its vocabularies grow, its events are history, its weights and its optimisers'
            moments are where the training starts; for a ranker with a frozen encoder, the run the encoder is from.
        base: folder that the configuration's paths start from.
        tables: `events`, `users`, `items` -> a frame or a path to read instead of what the configuration names.
        data: what `build_data` wrote for this configuration; no table is read then.
        schema_notes: what was decided where the schema was inferred; kept with the run.
        callbacks: that look on.

    Returns:
        The run's folder.
    """
    with joined():
        return _train_run(
            config,
            _place(run or RUNS / config.name),
            stage=stage,
            resume=resume,
            source_run=source_run,
            base=base,
            tables=tables,
            data=data,
            schema_notes=schema_notes,
            callbacks=callbacks,
        )


def _train_run(
    config: RunConfig,
    path: Path,
    *,
    stage: Stages,
    resume: bool,
    source_run: Path | None,
    base: Path,
    tables: Mapping[str, Source] | None,
    data: Path | None,
    schema_notes: tuple[str, ...],
    callbacks: Sequence[Callback],
) -> Path:
    refuse_undistributed(config, stage)
    config = settled_final(config, stage=stage, goes_on=source_run is not None, built=data is not None)
    refuse_built(data, config, goes_on=source_run is not None, given=bool(tables))
    source = SourceRun.open(source_run) if source_run else None
    start = Start.of(source, config, stage)
    if config.extensions:
        log.info("with the extensions %s, which the run needs wherever it is opened", ", ".join(config.extensions))
    bad = BadRows(config.data.on_bad_rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = path.with_name(f".{path.name}.data")
    if data is None:
        dataset = shared_dataset(lambda: encode(config, base, bad, tables, start.dataset), shared)
    else:
        dataset = built_dataset(data, config)
    list_bad(bad, path)

    def again(grown: Dataset, learned: Part) -> Dataset:
        return shared_dataset(lambda: encode_again(config, base, tables, grown, learned), shared)

    train_dataset(
        dataset,
        config,
        path,
        start,
        stage=stage,
        resume=resume,
        source=source,
        base=base,
        again=again if data is None else None,
        schema_notes=schema_notes,
        log_read=_log_read(config, base, tables),
        callbacks=callbacks,
    )
    return path


def _log_read(config: RunConfig, base: Path, tables: Mapping[str, Source] | None) -> dict[str, Any] | None:
    """Of which log of a service the events were exported, and up to where; None where they come from elsewhere."""
    events = (tables or {}).get("events", base / config.data.events if isinstance(config.data.events, str) else None)
    return exported_log(Path(events)) if isinstance(events, str | Path) else None


def train_dataset(
    dataset: Dataset,
    config: RunConfig,
    path: Path,
    start: Start,
    *,
    stage: Stages = "all",
    resume: bool = False,
    source: SourceRun | None = None,
    base: Path = Path(),
    again: Callable[[Dataset, Part], Dataset] | None = None,
    schema_notes: tuple[str, ...] = (),
    log_read: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainedRun:
    """Train on encoded data and publish the run folder; arguments as of `train_run`.

    Args:
        start: where the first weights come from.
        source: the run that `start` was made of.
        log_read: see `TrainedRun.log`.
        again: encodes the same tables for a last fit (see `last_fit`); None publishes what validation chose.

    Raises:
        RunError: another process trains the run, or something that is no run is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints = path.with_name(f".{path.name}.checkpoints")
    with locked(checkpoints, create=True, shown=path) if ranks.first() else nullcontext():
        if not resume and ranks.first():
            empty(checkpoints)
        ranks.wait()
        previous = _kept_towers(path, config, dataset) if stage == "ranking" else None
        keeper = _checkpointer(checkpoints, config, dataset, start, resume)
        if (path / MANIFEST).exists():
            log.info("%s, a run of %s, is replaced when this training ends", path, read_run_manifest(path).created[:19])
        with tables_on_disk(config, checkpoints):
            trained = train(
                dataset,
                config,
                stage=stage,
                source=source,
                previous=previous,
                checkpointer=keeper,
                callbacks=callbacks,
            )
            if again is not None:
                trained = last_fit(trained, again)
        if ranks.first():
            with ranks.alone():
                trained = settled_run(trained)
                trained = replace(trained, schema_notes=schema_notes or trained.schema_notes, log=log_read)
                save_run(trained, path, base)
                shutil.rmtree(checkpoints)
        ranks.wait()  # nobody opens the run before it is whole
    return trained


def _place(path: Path) -> Path:
    """The folder of the run, which has a name of its own.

    Raises:
        RunError: it is the folder that the process stands in, which cannot be replaced by a run.
    """
    named = path if path.name not in ("", "..") else path.resolve()
    if named.resolve() == Path.cwd() and not (named / MANIFEST).exists():
        raise RunError(
            f"{path} is the folder you stand in, which a run cannot replace; name another --run, such as runs/t"
        )
    return named


def _checkpointer(
    folder: Path, config: RunConfig, dataset: Dataset, start: Start, resume: bool
) -> Callable[[Stage, int], Checkpointer]:
    """Checkpoints of each stage, which belong to data, seed, source, and the sections its training depends on."""

    def of(stage: Stage, member: int) -> Checkpointer:
        sections = ("data", "retrieval", "ranking")[: 2 if stage == "retrieval" else 3]
        learned = as_trained(config)
        parts = [dataset.fingerprint, str(config.seed), *(config_hash(getattr(learned, name)) for name in sections)]
        parts += [*start.identity, *([f"ensemble {config.ensemble.seeds}"] if config.ensemble.seeds > 1 else [])]
        place = folder / (f"{stage}-{member + 1}" if member else stage)
        return Checkpointer(place, CHECKPOINT_STEPS, resume=resume, fingerprint=" ".join(parts))

    return of


def _kept_towers(path: Path, config: RunConfig, dataset: Dataset) -> TrainedRun | None:
    """The run that is about to be replaced, whose towers stay; None where there is none.

    Raises:
        RunError: it stands on other data, another split or other towers than the configuration says.
    """
    if not (path / MANIFEST).exists():
        return None
    run = open_run(path)
    if run.manifest.data_fingerprint != dataset.fingerprint:
        raise RunError(f"{path} was trained on other data; train both stages again, or name another --run")
    trained = load_run(run, with_optimizers=True)
    for section, old, new in (
        # where the tables lie may differ, for their content does not
        ("data", meant(trained.config.data), meant(config.data)),
        ("retrieval", trained.config.retrieval, config.retrieval),
    ):
        if trained.retriever is not None and old != new:
            raise RunError(
                f"the retriever of {path} was trained with another [{section}] section; "
                "train both stages again, or set the section back"
            )
    return trained
