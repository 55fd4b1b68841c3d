"""`recsys embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import JsonOption


def embed(
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="The item table: a file, or a folder of Parquet files.")
    ],
    column: Annotated[list[str], typer.Option("--column", help="A column of texts; several are put together.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.parquet", help="Where the vectors go.")] = Path(
        "vectors.parquet"
    ),
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME|FOLDER|FILE",
            help="hashed: tf-idf and SVD, no model. *.texts.safetensors: as fitted earlier, for later items. Else a "
            "model of sentence-transformers (extra `texts`): a folder, or a name that it downloads.",
        ),
    ] = "hashed",
    id_column: Annotated[str, typer.Option("--id", metavar="COLUMN", help="Column of the item ids.")] = "item_id",
    width: Annotated[int, typer.Option("--width", min=1, help="hashed: numbers of a vector.")] = 64,
    fit_on: Annotated[
        Path | None,
        typer.Option(
            "--fit-on", metavar="FILE", help="hashed: learn from these items only, one id a line; the others are read."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Of a model: cpu, cuda, cuda:N.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a vector of every item's text, for a `vector` feature: items of like texts get vectors that are alike.

    Only texts are looked at, never events. Called again, only new texts are read.

    Example: recsys embed items.csv --column title --column genres --out vectors.parquet
    """
    from ...api import embed_items
    from .. import render
    from ..records import read_ids

    ids = None if fit_on is None else read_ids(fit_on, "--fit-on", "item")
    report = embed_items(
        items, out, column, model, id_column=id_column, width=width, fit_on=ids, device=device
    ).to_json()
    if json:
        render.print_json(report)
        return
    feature = report.pop("feature")
    render.print_facts("embed", report)
    typer.echo(f"In a configuration:\n\n{feature}")
