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
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where a killed training stopped.")] = False,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Go on from this run: its weights, moments, values and history."),
    ] = None,
) -> None:
    """Train the retriever and the ranker that a configuration describes, and write a run folder.

    Example: recsys train movielens-1m --set data.path=ml-1m.zip
    """
    from ...artifacts.locate import find_run, point_latest
    from ...configs.packaged import open_config

    settings, base = open_config(config, set_ or [])
    warm = find_run(source) if source else None

    from ...pipeline.publish import train_run

    written = train_run(settings, run, stage=stage, resume=resume, source_run=warm, base=base)
    point_latest(written)
    typer.echo(str(written))
