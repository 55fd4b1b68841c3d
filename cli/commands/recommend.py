"""`recsys recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import ConfigError, DataError
from ..options import JsonOption, RunOption

CHUNK = 1024


def recommend(
    user: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="Raw user id; repeatable.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="Text file, one user id a line.")
    ] = None,
    run: RunOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items each user gets.")] = 10,
    explain: Annotated[bool, typer.Option("--explain", help="Say of each item why it is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Recommend items: retrieve candidates, drop what the user has seen, rank, and return the best k.

    Unknown users get what is popular, and the answer says so.

    Example: recsys recommend --user 42 -k 5 --explain
    """
    asked = [*(user or []), *(_read_users(users) if users else [])]
    if not asked:
        raise ConfigError("no user was named; give --user ID, or many with --users FILE")

    from ...funnel.runs import find_run

    folder = find_run(run)

    from ...funnel.funnel import Funnel
    from .. import render

    funnel = Funnel.load(folder)
    for start in range(0, len(asked), CHUNK):
        for answer in funnel.recommend(asked[start : start + CHUNK], k, explain=explain):
            if json:
                render.print_json(answer)
            else:
                render.print_recommendation(answer)


def _read_users(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {file}; --users takes a text file with one user id a line") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error}); --users takes one user id a line") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{file} names no user; expected one user id a line")
    return ids
