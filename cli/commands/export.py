"""`recsys export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import JsonOption, RunOption


def export(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go; made when missing.")],
    run: RunOption = None,
    format_: Annotated[
        Literal["parquet"], typer.Option("--format", help="parquet: the vectors of all items and users as tables.")
    ] = "parquet",
    json: JsonOption = False,
) -> None:
    """Export the vectors of a run's items and users, for use elsewhere.

    The inner product of a user's and an item's vector is what the retriever orders the items by.

    Example: recsys export --out vectors
    """
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    report = api.load(folder).export_vectors(out)
    if json:
        render.print_json(report)
    else:
        render.print_facts("vectors", report)
