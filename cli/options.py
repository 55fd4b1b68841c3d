"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import ConfigError
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
DatabaseOption = Annotated[
    str,
    typer.Option("--database", metavar="ADDRESS", help="Of sql:TABLE: duckdb:FILE, sqlite:///FILE, env:NAME."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:N or auto, for models and index; by default the run's own."
    ),
]
RulesOption = Annotated[
    Path | None,
    typer.Option("--rules", metavar="FILE.toml", help="Instead of the run's own last stage: keys as in section rules."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set retrieval.fit.epochs=3; repeatable."),
]
ProcessesOption = Annotated[
    int,
    typer.Option("--processes", metavar="N", min=1, help="Share the work among N processes; the result is the same."),
]


def pairs(given: list[str], option: str, example: str) -> dict[str, str]:
    """`KEY=VALUE` texts by key.

    Args:
        given: the texts.
        option: that takes them, for messages.
        example: of a pair.

    Raises:
        ConfigError: a text is no pair.
    """
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'{option} "{text}" is no pair; expected KEY=VALUE, such as {option} {example}')
        found[key.strip()] = value.strip()
    return found
