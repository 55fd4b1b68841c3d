"""`recsys data simulate`, `check`, `build` and `join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import ConfigArgument, JsonOption, SetOption


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new, empty, or an earlier world.")],
    users: Annotated[int, typer.Option(min=10, help="Number of users.")] = 2_000,
    items: Annotated[int, typer.Option(min=50, help="Number of items.")] = 1_000,
    sessions: Annotated[int, typer.Option(min=10, help="Slates shown, ten exposures each.")] = 12_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same world.")] = 0,
) -> None:
    """Write the embedded world as files: events, users, items, the true probabilities, and a configuration for it.

    Example: recsys data simulate world && recsys train world/demo.toml
    """
    from ..world import write_world

    typer.echo(str(write_world(out, users=users, items=items, sessions=sessions, seed=seed)))


def check(
    config: ConfigArgument,
    set_: SetOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Also write the tables as a page.")
    ] = None,
    minutes: Annotated[
        bool, typer.Option("--minutes/--no-minutes", help="Time a few training steps, to foretell how long it takes.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Report on the data before training: rows, label rates, missing values, duplicates, time overlap, leakage.

    It ends with what a training of this configuration will hold in memory, what would save most, and the minutes that
    its steps take.

    Example: recsys data check movielens-1m --set data.path=ml-1m.zip --report data.html
    """
    from ...base.files import write_whole
    from ...configs.packaged import open_config
    from ...data.check.check import inspected
    from ...pipeline.forecast import forecast
    from ...pipeline.pace import paces
    from ...report.data_check import data_blocks
    from ...report.page import data_page
    from ...report.values import plain
    from .. import render

    settings, base = open_config(config, set_ or [])
    result, dataset = inspected(settings.data, base, settings.seed)
    needed = forecast(dataset, settings)
    result["memory"] = needed.to_json()
    result["minutes"] = [pace.to_json() for pace in paces(dataset, settings)] if minutes and needed.fits else []
    if report:
        write_whole(report, data_page(plain(result), f"Data of {settings.name}"))
        typer.echo(f"report: {report}", err=True)
    if json:
        render.print_json(result)
    else:
        render.show(*data_blocks(result))


OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder to write; new, empty, or an earlier data set.")
]


def build(
    config: ConfigArgument,
    out: OutOption,
    shards: Annotated[
        int, typer.Option("--shards", metavar="S", min=0, help="Write S parts by the hash of the user; 0 writes one.")
    ] = 0,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Encode the tables of a configuration once, for trainings with `--data`, here or on other machines.

    In shards, a user's rows lie in one part, and what all parts need in `common`; `recsys data join` makes one of them.

    Example: recsys data build shop.toml --out built && recsys train shop.toml --data built
    """
    from ...configs.packaged import open_config
    from ...pipeline.encoded import build_data
    from .. import render

    settled, base = open_config(config, set_ or [])
    written = build_data(settled, base, out, shards)
    if json:
        render.print_json(written)
    else:
        render.print_facts("data set", written)


def join(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder with all shards of a data set.")],
    out: OutOption,
    json: JsonOption = False,
) -> None:
    """Make one data set of its shards: the files that building it as one would have written.

    Example: recsys data join shards --out built
    """
    from ...pipeline.encoded import join_data
    from .. import render

    written = join_data(shards, out)
    if json:
        render.print_json(written)
    else:
        render.print_facts("data set", written)
