"""The Python door: train a recommender on tables, load one from a folder. No logic of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .artifacts.locate import find_run
from .base.errors import ConfigError
from .configs.inferred import infer_config
from .configs.packaged import open_config
from .configs.rules import RulesConfig, load_rules
from .configs.run import RunConfig, with_settings
from .data.reading.readers import Source
from .data.reading.tables import BadRows
from .nn.at_rest import TableDtype
from .pipeline.at_rest import settled_run
from .pipeline.continuation import SourceRun
from .pipeline.embed import embed_items
from .pipeline.encoded import encode, encode_again
from .pipeline.export import ExportFormat, export_run
from .pipeline.external import evaluate_predictions
from .pipeline.final import last_fit, settled_final
from .pipeline.folds import evaluate_folds as folds_in
from .pipeline.publish import train_run
from .pipeline.train import Stages
from .pipeline.train import train as train_in_memory
from .recommender import Recommender
from .report.report import Report
from .training.callbacks import Callback

__all__ = ["Recommender", "embed_items", "evaluate_folds", "evaluate_predictions", "export", "load", "train"]

log = logging.getLogger(__name__)


def train(
    events: Source | Sequence[Source] | None = None,
    items: Source | None = None,
    users: Source | None = None,
    tasks: Sequence[str] | None = None,
    config: RunConfig | str | Path | None = None,
    run: str | Path | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    settings: Sequence[str] = (),
    stage: Stages = "all",
    source: Recommender | str | Path | None = None,
    resume: bool = False,
    data: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Recommender:
    """Train a recommender on tables.

    Without a configuration the schema is inferred from the tables; `Recommender.notes` says what was decided, and
    `Recommender.config` is the configuration. The process is left as it was: no global seed or thread count survives.

    Args:
        events: one row per exposure or interaction: a pandas, polars or Arrow table, or the path of a CSV or Parquet
            file. With a configuration, read instead of what it names.
        items: one row per item, or None.
        users: one row per user, or None.
        tasks: label columns of `events`; all that look like labels when None. Without a configuration only.
        config: a TOML file, the name of a packaged configuration, or a `RunConfig`.
        run: also keep the run in this folder, with checkpoints on the way.
        user: column of the user ids, where it cannot be inferred.
        item: column of the item ids.
        time: column of the times.
        settings: `a.b.c=VALUE` each, on top of the configuration, as after `--set`; on top of an inferred one too.
        stage: `retrieval`, `ranking` or `all`. `ranking` keeps the retriever that `run` already has.
        source: a run to go on from: its vocabularies, history, weights and moments.
        resume: continue from the checkpoints of a training into `run` that was killed.
        data: a folder that `recsys data build` wrote for `config`; no table is read then. With `run` only.
        callbacks: that look on; see `Callback`.

    Raises:
        ConfigError: the arguments or the configuration are wrong.
        DataError: a table is not what the schema says, or the schema cannot be inferred; names the argument to give.
        RunError: `source` is another model, or `run` is being written by another process.
    """
    given = {"events": events, "items": items, "users": users}
    tables = {name: table for name, table in given.items() if table is not None}
    base = Path()
    notes: tuple[str, ...] = ()
    if config is None:
        if events is None:
            raise ConfigError("there is nothing to train on; give events=, a table or a path, or config=")
        inferred = infer_config(events, items, users, tasks, user=user, item=item, time=time)
        settled, notes = with_settings(inferred.config(), settings), inferred.notes
        for note in notes:
            log.info("%s", note)
    else:
        named = {"tasks": tasks, "user": user, "item": item, "time": time}
        if odd := [name for name, value in named.items() if value is not None]:
            raise ConfigError(f"{odd[0]}= is for a schema that is inferred; the configuration names it, leave it out")
        if isinstance(config, RunConfig):
            settled = with_settings(config, settings)
        else:
            settled, base = open_config(Path(config), settings)
    if run is not None:
        before = (
            source.folder if isinstance(source, Recommender) else None if source is None else find_run(Path(source))
        )
        if isinstance(source, Recommender) and before is None:
            raise ConfigError("source= is in memory only; save it, or leave run= out")
        folder = train_run(
            settled,
            Path(run),
            stage=stage,
            resume=resume,
            source_run=before,
            base=base,
            tables=tables,
            data=None if data is None else Path(data),
            schema_notes=notes,
            callbacks=callbacks,
        )
        return Recommender(folder=folder)
    if data is not None:
        raise ConfigError("data= is a folder that a run is trained from; name the run with run=")
    if resume:
        raise ConfigError("resume=True goes on with the checkpoints beside a run; name it with run=")
    if stage == "ranking" and settled.data.user and settled.data.item:
        raise ConfigError('stage="ranking" stands on the retriever of a run; name it with run=')
    origin = _source(source)
    settled = settled_final(settled, stage=stage, goes_on=origin is not None)
    grown = None if origin is None or settled.ranking.model.keeps_encoder else origin.trained.dataset
    bad = BadRows(settled.data.on_bad_rows)
    dataset = encode(settled, base, bad, tables, grown)
    if bad.count():
        log.warning("%d bad rows were left out; with run= they are listed in a file beside the run", bad.count())
    trained = last_fit(
        train_in_memory(dataset, settled, stage=stage, source=origin, callbacks=callbacks),
        partial(encode_again, settled, base, tables),
    )
    return Recommender(replace(settled_run(trained), schema_notes=notes), base=base)


def _source(source: Recommender | str | Path | None) -> SourceRun | None:
    if source is None or isinstance(source, str | Path):
        return None if source is None else SourceRun.open(find_run(Path(source)))
    if source.folder is not None:
        return SourceRun.open(source.folder)
    return SourceRun(source.trained, source.config.name)


def evaluate_folds(
    config: RunConfig | str | Path,
    folds: int = 4,
    run: str | Path | None = None,
    *,
    events: Source | None = None,
    items: Source | None = None,
    users: Source | None = None,
    settings: Sequence[str] = (),
    stage: Stages = "all",
    slices: Sequence[str] = (),
) -> Report:
    """Train and test on successive time cuts: how much do the figures depend on the days they were measured on?

    The tests follow one another and end with the log; each fold trains on all rows before its own validation, and knows
    nothing of later ones. A fold is a run folder, kept whole: called again, only the missing ones are trained.

    Args:
        config: a TOML file, the name of a packaged configuration, or a `RunConfig` such as `Recommender.config`.
        folds: number of cuts, 2 or more.
        run: folder that holds the folds; `runs/<name>-folds` when None.
        events: read instead of what the configuration names.
        items: read instead of what the configuration names.
        users: read instead of what the configuration names.
        settings: `a.b.c=VALUE` each, on top of the configuration.
        stage: what is trained and measured: `retrieval`, `ranking` or `all`.
        slices: columns that each fold's own evaluation is also sliced by.

    Returns:
        A report whose numbers are means over folds; `report["folds"]` holds the cuts and the systems compared.

    Raises:
        ConfigError: the events have no times, or a fold would have nothing to train on.
        DataError: a table is not what the schema says.
        RunError: `run` holds folds of another configuration or other data.
    """
    base = Path()
    if isinstance(config, RunConfig):
        settled = with_settings(config, settings)
    else:
        settled, base = open_config(Path(config), settings)
    given = {"events": events, "items": items, "users": users}
    tables = {name: table for name, table in given.items() if table is not None}
    folder = None if run is None else Path(run)
    return Report(folds_in(settled, folds, folder, stage=stage, base=base, tables=tables, slices=slices))


def load(
    run: str | Path | None = None,
    rules: RulesConfig | str | Path | None = None,
    device: str | None = None,
    state: str | Path | None = None,
) -> Recommender:
    """The recommender in a run folder, as `Recommender.save` or `recsys train` wrote it.

    Args:
        run: the folder, or the name of one in `runs/`; the newest run when None.
        rules: instead of the run's own last stage, a TOML file with the keys of `[rules]`, or its settings.
        device: where models answer and the index is searched: `cpu`, `cuda`, `cuda:N` or `auto`; when None, what the
            run's configuration says, or the CPU where that is not there.
        state: folder that keeps what the run is told while it answers, made where there is none; `redis://...` for
            several machines; `memory` for a state that ends with the process. Nothing can be told when None.

    Raises:
        ConfigError: the rules are wrong, or the device is not there.
        RunError: there is no run, or a file in it is missing, truncated or changed.
    """
    read = load_rules(Path(rules)) if isinstance(rules, str | Path) else rules
    found = Recommender(folder=find_run(None if run is None else Path(run)), rules=read, device=device)
    return found if state is None else found.keep(state)


def export(
    run: Recommender | str | Path | None,
    folder: str | Path,
    form: ExportFormat = "onnx",
    *,
    table_dtype: TableDtype | None = None,
    k: int = 10,
    database: str = "",
) -> dict[str, Any]:
    """Write a run for other programs.

    `onnx`: user tower, item tower and ranker for any number of candidates, `io.json` (inputs, vocabularies, buckets,
    calibrators, blend), the catalogue, and `predict.py`, which gives the run's answers with numpy and onnxruntime.
    `torch`: the same networks as Python files of torch operations beside their weights in safetensors. Both are
    compared with the run's own answers before the folder appears. `parquet`: vectors of all items and users,
    vocabularies, and the lists of all users.

    Args:
        run: a recommender, a run folder or its name; the newest run when None.
        folder: whole or absent: new, empty, or an earlier export, which is replaced. Of tables each file is; they also
            go to `sql:PREFIX`, or below a folder named like `day=2026-11-29` to a part of each table.
        form: see above.
        table_dtype: keep the embeddings of the networks as `float16` or `int8`; the result tells what that costs.
        k: items per user in the lists; 0 for none.
        database: of `sql:PREFIX`: `duckdb:FILE`, an address of SQLAlchemy, or `env:NAME`.

    Returns:
        What was written, and for networks the largest difference from the run's answers.

    Raises:
        ConfigError: the folder holds something else, or the packages of `onnx` are missing.
        RunError: a network does not answer as the run does, or tables in fewer bytes change the lists too much.
    """
    recommender = run if isinstance(run, Recommender) else load(run, device="cpu")
    return export_run(recommender.trained, folder, form, table_dtype, k, database)
