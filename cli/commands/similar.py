"""`recsys similar`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..options import JsonOption, RunOption


def similar(
    item: Annotated[list[str], typer.Option("--item", metavar="ID", help="Raw item id; repeatable.")],
    run: RunOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items each one gets.")] = 10,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITION", help="Only items whose attributes satisfy this.")
    ] = "",
    by: Annotated[
        Literal["mixed", "vector", "together"],
        typer.Option("--by", help="Tower vectors, taken by the same users, or both lists merged."),
    ] = "mixed",
    json: JsonOption = False,
) -> None:
    """Show the items most like an item, and what says so.

    two_tower stands for the vectors of the towers, item_knn for items that the same users took.

    Example: recsys similar --item 318 -k 5
    """
    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    for answer in api.load(folder).similar(item, k, where, by=by).to_json():
        if json:
            render.print_json(answer)
        else:
            render.print_similar(answer)
