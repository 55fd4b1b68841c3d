"""`recsys runs`: the list, `rm` and `keep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import JsonOption

Names = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs by their names in the folder.")]
Base = Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder that holds the runs.")]


def runs(context: typer.Context, base: Base = Path("runs"), json: JsonOption = False) -> None:
    """List the runs with what they measured; `rm` removes some, `keep` protects some.

    Example: recsys runs
    """
    if context.invoked_subcommand is not None:
        context.obj = base
        return
    from ...artifacts.listing import listed
    from .. import render

    found = listed(base)
    if json:
        render.print_json(found)
    else:
        render.print_runs(found, str(base))


def remove(context: typer.Context, names: Names) -> None:
    """Remove runs, whole; those that are kept are refused.

    Example: recsys runs rm shop-old
    """
    from ...artifacts.listing import remove_run

    for name in names:
        typer.echo(str(remove_run(name, _base(context))))


def keep(
    context: typer.Context,
    names: Names,
    off: Annotated[bool, typer.Option("--off", help="Take the mark away.")] = False,
) -> None:
    """Mark runs as ones that `rm` refuses to remove.

    Example: recsys runs keep shop
    """
    from ...artifacts.listing import keep_run

    for name in names:
        typer.echo(str(keep_run(name, not off, _base(context))))


def _base(context: typer.Context) -> Path:
    base: Any = context.obj
    return base if isinstance(base, Path) else Path("runs")
