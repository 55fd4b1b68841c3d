"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..configs.packaged import packaged_names

RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Run folder, or its name in runs/; by default the newest run."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ConfigArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="TOML file (docs/config.md lists its keys), or the name of a packaged one: "
        f"{', '.join(packaged_names())}.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set retrieval.fit.epochs=3; repeatable."),
]
