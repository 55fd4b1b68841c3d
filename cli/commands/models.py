"""`recsys models`."""

from __future__ import annotations

from typing import Annotated

import typer

from ...configs.packaged import packaged_names
from ..options import JsonOption


def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A name from the list: its page is printed.")] = "",
    extension: Annotated[
        list[str] | None, typer.Option(help="A module that adds to the list, as `extensions` in a configuration.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List every retriever, ranker, gate, loss, balance and source by name, with its paper and one line, those of
    installed extensions too; or print one's page.

    Example: recsys models ple
    """
    from ...base.extensions import load
    from .. import render
    from ..models_list import catalogue, named

    load(extension or ())
    if name:
        from ..models_page import as_json, page

        found = named(name)
        if json:
            for row in found:
                render.print_json(as_json(row))
        else:
            typer.echo("\n\n\n".join(page(row) for row in found))
        return
    entries = catalogue()
    if json:
        render.print_json(entries)
    else:
        render.print_models(entries)
        typer.echo("`recsys models NAME` prints the page of one: what it computes, its keys, a configuration.")
        typer.echo(f"Packaged configurations, for `recsys train NAME`: {', '.join(packaged_names())}")
