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
    from ...funnel.evaluate import evaluate_run
    from ...funnel.runs import find_run
    from .. import render

    folder = find_run(run)
    result = evaluate_run(folder, stage)
    if report:
        render.write_page(f"Evaluation of {folder.name}", render.evaluation(result), report)
        typer.echo(f"report: {report}", err=True)
    if json:
        render.print_json(result)
    else:
        render.show(render.evaluation(result))
