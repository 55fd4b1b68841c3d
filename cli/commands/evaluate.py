"""`recsys evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...base.errors import ConfigError
from ..options import JsonOption, RunOption

if TYPE_CHECKING:
    from ...report.report import Report


def evaluate(
    run: RunOption = None,
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
    json: JsonOption = False,
) -> None:
    """Measure a run on its test part: retrieval, ranking and the whole funnel, with 95 % intervals and baselines.

    Or measure any recommender from two tables (CSV or Parquet), with the same metrics.

    Example: recsys evaluate --report report.html --slice genres

    Example: recsys evaluate --predictions mine.csv --truth test.csv
    """
    if (predictions is None) != (truth is None):
        raise ConfigError(
            "--predictions and --truth go together: give a table of lists and a table of what was relevant"
        )
    measured = (
        _external(predictions, truth)
        if predictions is not None and truth is not None
        else _run(run, stage, slices or [])
    )

    from ...report.evaluation import evaluation_blocks
    from .. import render

    if report:
        measured.to_html(report)
        typer.echo(f"report: {report}", err=True)
    if json:
        render.print_json(measured.to_json())
    else:
        render.show(*evaluation_blocks(measured))


def _run(run: Path | None, stage: str, slices: Sequence[str]) -> Report:
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api

    return api.load(folder).evaluate(stage, slices)


def _external(predictions: Path, truth: Path) -> Report:
    from ...pipeline.external import evaluate_predictions
    from ...report.report import Report

    metrics = evaluate_predictions(predictions, truth)
    protocol = {"ranking": "as given", "predictions": predictions.name, "truth": truth.name, "users": metrics["users"]}
    return Report({"protocol": protocol, "retrieval": {predictions.stem: metrics}}, f"Evaluation of {predictions.stem}")
