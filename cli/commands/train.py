"""`recsys train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import ConfigArgument, SetOption


def train(
    config: ConfigArgument,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Where the run is written; by default runs/NAME.")
    ] = None,
    stage: Annotated[Literal["retrieval", "ranking", "all"], typer.Option(help="Which stage to train.")] = "all",
    set_: SetOption = None,
    final: Annotated[
        bool, typer.Option("--final", help="After the choice on validation, train on every row: final.rows = all.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where a killed training stopped.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Go on from this run: its weights, moments, values and history."),
    ] = None,
) -> None:
    """Train the retriever and the ranker that a configuration describes, and write a run folder.

    Example: recsys train movielens-1m --set data.path=ml-1m.zip
    """
    from ...artifacts.locate import RUNS, find_run, point_latest
    from ...configs.packaged import open_config

    settings = [*(set_ or []), *(['final.rows="all"'] if final else [])]
    folder = run or RUNS / open_config(config, settings)[0].name
    warm = find_run(source) if source else None

    from ... import api
    from ...training.runtime import keep_memory

    keep_memory()
    api.train(config=config, settings=settings, run=folder, stage=stage, source=warm, resume=resume)
    point_latest(folder)
    typer.echo(str(folder))
