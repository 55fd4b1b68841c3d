"""`recsys evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...base.errors import ConfigError
from ..options import DeviceOption, JsonOption, ProcessesOption, RulesOption, RunOption, SetOption
from ..processes import shared_work

if TYPE_CHECKING:
    from ...report.report import Report


def evaluate(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="With --folds: what to train and test.", show_default=False),
    ] = None,
    run: RunOption = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train and test CONFIG on so many successive time cuts.")
    ] = None,
    set_: SetOption = None,
    stage: Annotated[
        Literal["retrieval", "ranking", "funnel", "all"], typer.Option(help="Which part to measure.")
    ] = "all",
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="COLUMN",
            help="Also measure each value of this column: a feature, an item attribute, hour, weekday; repeatable.",
        ),
    ] = None,
    rules: RulesOption = None,
    device: DeviceOption = None,
    variety: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Also measure what variety costs; of the items, e.g. genres."),
    ] = "",
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write a page to read in a browser.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge any recommender instead: a table of user, item and rank or score."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --predictions: a table of user, item[, relevance].")
    ] = None,
    processes: ProcessesOption = 1,
    json: JsonOption = False,
) -> None:
    """Measure a run on its test part: retrieval, ranking and the whole funnel, with 95 % intervals and baselines.

    Or train and test a configuration on several time cuts: mean and spread of every figure. Each fold is kept in
    --run (runs/NAME-folds), so an interrupted call goes on where it stopped.

    Or measure any recommender from two tables (CSV or Parquet), with the same metrics.

    Example: recsys evaluate --report report.html --slice genres

    Example: recsys evaluate movielens-1m --folds 4 --set data.path=ml-1m.zip

    Example: recsys evaluate --predictions mine.csv --truth test.csv
    """
    if (predictions is None) != (truth is None):
        raise ConfigError(
            "--predictions and --truth go together: give a table of lists and a table of what was relevant"
        )
    if (config is None) != (folds is None) or (set_ and folds is None):
        raise ConfigError("CONFIG, --set and --folds go together; a run has its configuration: name it with --run")
    if variety and (predictions is not None or folds is not None):
        raise ConfigError("--variety is measured on one run; leave --folds and --predictions out")
    if rules is not None and (predictions is not None or folds is not None):
        raise ConfigError("--rules is of one run; in a configuration the section [rules] says the same")
    if device is not None and (predictions is not None or folds is not None):
        raise ConfigError("--device is of one run; in a configuration runtime.device says the same")
    if predictions is not None and folds is not None:
        raise ConfigError("--folds trains and tests a configuration; leave --predictions and --truth out")
    if processes > 1 and (predictions is not None or folds is not None):
        raise ConfigError("--processes shares out the requests of one run; leave --folds and --predictions out")
    if predictions is not None and truth is not None:
        _show(_external(predictions, truth), report, json)
    elif config is not None and folds is not None:
        _show(_folds(config, folds, run, set_ or [], stage, slices or []), report, json)
    else:
        with shared_work(context.obj, processes) as speaks:
            measured = _run(run, stage, slices or [], rules, variety, device)
            if speaks:
                _show(measured, report, json)


def _show(measured: Report, report: Path | None, json: bool) -> None:
    from ...report.evaluation import evaluation_blocks
    from .. import render

    if report:
        measured.to_html(report)
        typer.echo(f"report: {report}", err=True)
    if json:
        render.print_json(measured.to_json())
    else:
        render.show(*evaluation_blocks(measured))


def _run(
    run: Path | None, stage: str, slices: Sequence[str], rules: Path | None, variety: str, device: str | None
) -> Report:
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api

    return api.load(folder, rules, device).evaluate(stage, slices, variety)


def _folds(
    config: Path, folds: int, run: Path | None, settings: Sequence[str], stage: str, slices: Sequence[str]
) -> Report:
    if stage == "funnel":
        raise ConfigError("each fold trains before it measures; with --folds, --stage is retrieval, ranking or all")

    from ... import api
    from ...base.memory import keep_memory

    keep_memory()
    trained: Literal["retrieval", "ranking", "all"]
    trained = "retrieval" if stage == "retrieval" else "ranking" if stage == "ranking" else "all"
    return api.evaluate_folds(config, folds, run, settings=settings, stage=trained, slices=slices)


def _external(predictions: Path, truth: Path) -> Report:
    from ...pipeline.external import evaluate_predictions
    from ...report.report import Report

    metrics = evaluate_predictions(predictions, truth)
    protocol = {"ranking": "as given", "predictions": predictions.name, "truth": truth.name, "users": metrics["users"]}
    found = {"protocol": protocol, "retrieval": {predictions.stem: metrics}, "findings": metrics.pop("findings")}
    return Report(found, f"Evaluation of {predictions.stem}")
