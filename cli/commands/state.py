"""`recsys state` and `recsys refresh`: what a service was told, and tomorrow's run made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import ConfigArgument, JsonOption, RunOption, SetOption

StateOption = Annotated[str, typer.Option("--state", metavar="DIR", help="The state of the service.")]


def export_state(
    state: StateOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.parquet", help="File of the events.")],
    run: RunOption = None,
    json: JsonOption = False,
) -> None:
    """Write what a service was told as tables: events, and beside them items and users, for train --from.

    A click that followed an exposure stands in the row of the exposure. Only what the run does not know is written.

    Example: recsys state export --state state --out day.parquet
    """
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    found = api.load(folder, state=state).export_state(out)
    files = {name: str(file) for name, file in found.files.items()}
    if json:
        render.print_json({"files": files, "rows": dict(found.rows), "log": found.log_id, "last": found.last})
    else:
        render.print_facts("export", {**files, **{f"rows of {name}": rows for name, rows in found.rows.items()}})


def backup_state(
    state: StateOption,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the copy goes; made when missing.")],
) -> None:
    """Copy the state of a service while it serves; the copy is a state.

    Example: recsys state backup backup --state state
    """
    from ...live.log import open_log

    with open_log(state) as log:
        typer.echo(str(log.backup(out)))


def trim_state(
    state: StateOption,
    run: RunOption = None,
    keep_days: Annotated[float, typer.Option("--keep-days", min=0.0, help="Younger events stay.")] = 30.0,
) -> None:
    """Delete events that the run knows from an export and that are older than so many days.

    The newest row of each item and user stays.

    Example: recsys state trim --state state --keep-days 30
    """
    import time

    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from ...live.log import open_log

    with open_log(state) as log:
        told = api.load(folder).trained.log
        last = int(told["last"]) if told is not None and told["log"] == log.log_id else 0
        typer.echo(f"{log.trim(last, time.time() - 86_400.0 * keep_days)} rows deleted")


def refresh(
    config: ConfigArgument,
    state: StateOption,
    run: RunOption = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.parquet", help="Keep the exported events here.")
    ] = None,
) -> None:
    """Learn what a service was told: export, train on from the run, build its index, and put it in the run's place.

    A service that is started with --watch then serves it. For cron; with nothing new to learn it fails, and the run
    stays as it is.

    Example: recsys refresh shop.toml --state state --run runs/shop
    """
    import tempfile

    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from ...base.memory import keep_memory

    keep_memory()
    with tempfile.TemporaryDirectory() as scratch:
        file = out or Path(scratch) / "events.parquet"
        found = api.load(folder, state=state).export_state(file)
        typer.echo(f"{found.rows['events']:,} events up to position {found.last}", err=True)
        trained = api.train(
            found.files["events"],
            found.files.get("items"),
            found.files.get("users"),
            config=config,
            settings=set_ or [],
            run=folder,
            source=folder,
        )
        trained.build_index()
    typer.echo(str(folder))
