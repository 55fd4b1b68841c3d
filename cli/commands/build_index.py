"""`recsys build-index`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import DeviceOption, JsonOption, RunOption


def build_index(
    run: RunOption = None,
    factory: Annotated[
        str | None, typer.Option(help="`auto`, or a FAISS factory such as Flat, IVF256,Flat or HNSW32.")
    ] = None,
    target_recall: Annotated[
        float | None, typer.Option(min=0.5, max=1.0, help="Share of the exact result that the index must find.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Parts of the index that are searched at the same time.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Vector database that keeps the vectors, such as qdrant://localhost:6333/items.")
    ] = None,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Build the FAISS index of a run's item vectors; it is checked against exact search before it is published.

    What is not given here is taken from the run's configuration (`auto` and 0.98 unless it says otherwise).

    Example: recsys build-index --factory HNSW32 --target-recall 0.99
    """
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    report = api.load(folder, device=device).build_index(factory or "", target_recall or 0.0, shards or 0, store or "")
    if json:
        render.print_json(report)
    else:
        render.print_facts("index", report)
