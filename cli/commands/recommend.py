"""`recsys recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...base.errors import ConfigError, DataError
from ..options import JsonOption, RunOption

CHUNK = 1024
"""Users answered before their answers are printed."""


def recommend(
    user: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="Raw user id; repeatable.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="Text file, one user id a line.")
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the run; needs --out.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write a table instead: .parquet, .csv or .jsonl, one row an item. Killed, the same call goes on.",
        ),
    ] = None,
    run: RunOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items each user gets.")] = 10,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITION", help="Only items whose attributes satisfy this.")
    ] = "",
    allow: Annotated[
        Path | None, typer.Option("--allow", metavar="FILE", help="Only these items: text file, one item id a line.")
    ] = None,
    block: Annotated[
        Path | None, typer.Option("--block", metavar="FILE", help="Never these items: text file, one item id a line.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say of each item why it is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Recommend items: retrieve candidates, leave out those the user has taken, rank, and return the best k.

    Taken are the items of the user's positive events; items that were only shown may return.

    Each answer says what it rests on: the user's history, or for new users their own features, what is popular among
    users like them, or what is popular at all. Whatever the filters, k items come back while k of them exist.

    A condition compares columns of the items with values: = != < <= > >= in (...), joined by and, or, not, ( ).

    Example: recsys recommend --user 42 -k 5 --where "genres = 'Comedy' and year < 1995"
    Everybody: recsys recommend --all-users --out lists.parquet
    """
    asked = [*(user or []), *(_read_ids(users, "--users", "user") if users else [])]
    if all_users and asked:
        raise ConfigError("--all-users names everybody; leave --user and --users out")
    if all_users and out is None:
        raise ConfigError("--all-users writes a table; say where with --out FILE.parquet")
    if not asked and not all_users:
        raise ConfigError(
            "no user was named; give --user ID, or many with --users FILE; all with --all-users --out FILE"
        )
    if explain and out is not None:
        raise ConfigError("--explain has no column in a table; leave it out, or leave --out out")
    if where and not where.strip():
        raise ConfigError("--where is blank; give a condition, such as \"genres = 'Comedy' and year < 1995\"")
    allowed_ids = _read_ids(allow, "--allow", "item") if allow else None
    blocked_ids = _read_ids(block, "--block", "item", may_be_empty=True) if block else None

    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from .. import render

    recommender = api.load(folder)
    if out is not None:
        written = recommender.write_lists(
            out, k, where, users=None if all_users else asked, allow=allowed_ids, block=blocked_ids
        )
        if json:
            render.print_json(written.to_json())
        else:
            render.print_facts("lists", written.to_json())
        return
    funnel = recommender.funnel
    allowed = funnel.select(where, allowed_ids, blocked_ids)
    funnel.warm_up()
    for start in range(0, len(asked), CHUNK):
        for answer in funnel.recommend(asked[start : start + CHUNK], k, explain=explain, allowed=allowed).to_json():
            if json:
                render.print_json(answer)
            else:
                render.print_recommendation(answer)


def _read_ids(file: Path, option: str, what: str, may_be_empty: bool = False) -> list[str]:
    """Raw ids of a text file, blank lines left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {file}; {option} takes a text file with one {what} id a line") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error}); {option} takes one {what} id a line") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids and not may_be_empty:
        raise DataError(f"{file} names no {what}; expected one {what} id a line")
    return ids
