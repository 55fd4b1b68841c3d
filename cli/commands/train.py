"""`recsys train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...base.errors import ConfigError
from ..on_ray import run_on_ray
from ..options import ConfigArgument, SetOption
from ..processes import run_in_processes


def train(
    context: typer.Context,
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
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Train on what `recsys data build` wrote, and read no table."),
    ] = None,
    engine: Annotated[
        Literal["local", "torchrec"] | None,
        typer.Option("--engine", help="How N processes hold the tables: whole ones, or pieces (runtime.engine)."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="Train in N processes; by default runtime.processes."),
    ] = None,
    launcher: Annotated[
        Literal["torchrun", "ray"],
        typer.Option("--launcher", help="What starts the processes: torch's own launcher here, or a Ray cluster."),
    ] = "torchrun",
    restarts: Annotated[
        int,
        typer.Option(
            "--restarts", metavar="N", min=0, help="How often to go on from the last checkpoint after a lost process."
        ),
    ] = 3,
) -> None:
    """Train the retriever and the ranker that a configuration describes, and write a run folder.

    Example: recsys train movielens-1m --set data.path=ml-1m.zip
    """
    from ...artifacts.locate import RUNS, find_run, point_latest
    from ...configs.packaged import open_config

    settings = [*(set_ or []), *(['final.rows="all"'] if final else [])]
    settings += [f"runtime.processes={processes}"] if processes is not None else []
    settings += [f'runtime.engine="{engine}"'] if engine is not None else []
    meant = open_config(config, settings)[0]
    folder = run or RUNS / meant.name
    warm = find_run(source) if source else None

    from ... import api
    from ...base import ranks
    from ...base.memory import keep_memory
    from ...pipeline.processes import refuse_together
    from ...training.engines.joining import invited, joined, restarted

    if meant.runtime.processes > 1 and not invited():
        refuse_together(meant, stage)
        if launcher == "torchrun":
            raise typer.Exit(run_in_processes(context.obj, meant.runtime.processes, restarts))
        code = run_on_ray(context.obj, meant.runtime.processes, restarts, folder.with_name(f".{folder.name}.ray"))
        if not code:
            typer.echo(str(folder))
        raise typer.Exit(code)
    if launcher == "ray" and not invited():
        raise ConfigError("--launcher ray starts several processes; say how many with --processes N")
    keep_memory()
    with joined():
        resume = resume or restarted()
        api.train(config=config, settings=settings, run=folder, stage=stage, source=warm, resume=resume, data=data)
        if ranks.first():
            point_latest(folder)
            typer.echo(str(folder))
