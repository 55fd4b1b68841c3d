"""`recsys similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...base.errors import ConfigError
from ..options import JsonOption, RunOption, pairs


def similar(
    item: Annotated[
        list[str] | None, typer.Option("--item", metavar="ID", help="Raw item id; repeatable.", show_default=False)
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="KEY=VALUE", help="Of an item the run has never seen; repeatable."),
    ] = None,
    item_features: Annotated[
        Path | None,
        typer.Option(
            "--item-features",
            metavar="FILE",
            help="Items by their features: a JSON object or list of them, or a table such as the items table.",
        ),
    ] = None,
    run: RunOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items each one gets.")] = 10,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITION", help="Only items whose attributes satisfy this.")
    ] = "",
    by: Annotated[
        Literal["mixed", "vector", "together", "attributes"],
        typer.Option("--by", help="Tower vectors, taken by the same users, attributes in common, or lists merged."),
    ] = "mixed",
    json: JsonOption = False,
) -> None:
    """Show the items most like an item, and what says so.

    two_tower stands for the vectors of the towers, item_knn for items that the same users took, attributes for values
    in common. An item that the run has never seen is given by its features; nobody took it yet, so vectors and
    attributes answer for it.

    Example: recsys similar --item 318 -k 5
    A new item: recsys similar --feature genres="Drama|War" --feature year=1998
    """
    if (item is not None) + (feature is not None) + (item_features is not None) != 1:
        raise ConfigError(
            "say which item: --item ID of the catalogue, or a new one by --feature KEY=VALUE or --item-features FILE"
        )

    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render
    from ..records import read_records

    features = [pairs(feature, "--feature", "genre=Drama")] if feature else None
    if item_features is not None:
        features = read_records(item_features, "--item-features")
    for answer in api.load(folder).similar(item, k, where, by=by, features=features).to_json():
        if json:
            render.print_json(answer)
        else:
            render.print_similar(answer)
