"""`recsys evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import JsonOption, RunOption


def evaluate(
    run: RunOption = None,
    stage: Annotated[
        Literal["retrieval", "ranking", "funnel", "all"], typer.Option(help="Which part to measure.")
    ] = "all",
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write a page to read in a browser.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a run on its test part: retrieval, ranking and the whole funnel, with 95 % intervals and baselines.

    Example: recsys evaluate --report report.html
    """
    from ...funnel.runs import find_run

    folder = find_run(run)

    from ...funnel.evaluate import evaluate_run
    from .. import render

    result = evaluate_run(folder, stage)
    if report:
        render.write_page(result, f"Evaluation of {folder.name}", report)
        typer.echo(f"report: {report}", err=True)
    if json:
        render.print_json(result)
    else:
        render.show(render.evaluation(result))
