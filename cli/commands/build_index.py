"""`recsys build-index`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import JsonOption, RunOption


def build_index(
    run: RunOption = None,
    factory: Annotated[
        str, typer.Option(help="`auto`, or a FAISS factory such as Flat, IVF256,Flat or HNSW32.")
    ] = "auto",
    target_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the exact top 100 that the index must find.")
    ] = 0.98,
    json: JsonOption = False,
) -> None:
    """Build the FAISS index of a run's item vectors; it is checked against exact search before it is published.

    Example: recsys build-index --factory HNSW32 --target-recall 0.99
    """
    from ...funnel.chain import build_index as build
    from ...funnel.runs import find_run
    from .. import render

    report = render.plain(build(find_run(run), factory, target_recall))
    if json:
        render.print_json(report)
    else:
        render.print_facts("index", report)
