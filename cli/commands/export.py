"""`recsys export`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..options import DatabaseOption, JsonOption, RunOption


def export(
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="FOLDER|sql:PREFIX",
            help="Where the files go; made when missing. Tables also go to sql:PREFIX, or to FOLDER/day=2026-11-29.",
        ),
    ],
    run: RunOption = None,
    format_: Annotated[
        Literal["onnx", "torch", "parquet"],
        typer.Option(
            "--format",
            help="onnx: user tower, item tower and ranker with predict.py, which needs numpy and onnxruntime only. "
            "torch: the same as torch programs with safetensors. parquet: vectors, vocabularies and lists as tables.",
        ),
    ] = "parquet",
    table_dtype: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option("--table-dtype", help="Embeddings of onnx and torch in fewer bytes; says what it costs."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=0, help="parquet: items in the list of each user; 0 for no lists.")] = 10,
    database: DatabaseOption = "",
    json: JsonOption = False,
) -> None:
    """Export a run for other programs: its networks, or its vectors, vocabularies and lists as tables.

    Networks are compared with the run's own answers before the folder appears; they take any number of candidates. The
    inner product of a user's and an item's vector is what the retriever orders the items by.

    Example: recsys export --format onnx --out shop
    Then, without recsys: python shop/predict.py
    """
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    report = api.export(folder, out, format_, table_dtype=table_dtype, k=k, database=database)
    if json:
        render.print_json(report)
    else:
        render.print_facts("export", report)
