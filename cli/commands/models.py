"""`recsys models`."""

from __future__ import annotations

import typer

from ...configs.packaged import packaged_names
from ..options import JsonOption


def models(json: JsonOption = False) -> None:
    """List every retriever, ranker, gate, loss and balance by name, with its paper and one line.

    Example: recsys models
    """
    from .. import render
    from ..models_list import catalogue

    entries = catalogue()
    if json:
        render.print_json(entries)
    else:
        render.print_models(entries)
        typer.echo(f"Packaged configurations, for `recsys train NAME`: {', '.join(packaged_names())}")
