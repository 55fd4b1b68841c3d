"""`recsys recommend`."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

import typer

from ...base.errors import ConfigError, DataError
from ..options import DatabaseOption, DeviceOption, JsonOption, ProcessesOption, RulesOption, RunOption, pairs
from ..processes import shared_work
from ..records import read_ids

_TIME = re.compile(r"\d[\dT:.+Z -]*")
CHUNK = 1024
"""Users answered before their answers are printed."""


def recommend(
    invocation: typer.Context,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="Raw user id; repeatable.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="Text file, one user id a line.")
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the run; needs --out.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE|FOLDER/|sql:TABLE",
            help="Write a table instead, one row an item: .parquet, .csv or .jsonl; Parquet files in a folder, such as "
            "lists/day=2026-11-29/; or a table of a database. Killed, the same call goes on.",
        ),
    ] = None,
    database: DatabaseOption = "",
    history: Annotated[
        str,
        typer.Option(
            "--history",
            metavar="A,B@TIME,C",
            help="Items, oldest first, that the run has not stored; with @ the time of each, an ISO date or seconds.",
        ),
    ] = "",
    history_file: Annotated[
        Path | None,
        typer.Option(
            "--history-file",
            metavar="FILE",
            help="The same as JSON or a table: item, and where known time, labels and context columns.",
        ),
    ] = None,
    user_features: Annotated[
        Path | None,
        typer.Option(
            "--user-features", metavar="FILE", help="Columns of the users table: a JSON object, or a table of one row."
        ),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="KEY=VALUE",
            help="A context column as it is now, or the time column for the moment; repeatable.",
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
    rules: RulesOption = None,
    device: DeviceOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say of each item why it is there.")] = False,
    processes: ProcessesOption = 1,
    json: JsonOption = False,
) -> None:
    """Recommend items: retrieve candidates, leave out what is seen (as a rule: taken), rank, and return the best k.

    Taken are the items of the user's positive events; items that were only shown may return. retrieval.seen in the
    configuration changes that.

    Each answer says what it rests on: the user's history, or for new users their own features, what is popular among
    users like them, or what is popular at all. Whatever the filters, k items come back while k of them exist.

    A request may bring its own knowledge, of somebody anonymous or, with --user, beside what is stored of the user: a
    history, features of the user, the context. Where every event told has a time, they take their places by it; else
    they follow what is stored.

    A condition compares columns of the items with values: = != < <= > >= in (...), joined by and, or, not, ( ).

    Example: recsys recommend --user 42 -k 5 --where "genres = 'Comedy' and year < 1995"
    A stranger: recsys recommend --history "318@2026-01-03T10:00,12@2026-01-03T10:05" --context device=tv
    Everybody: recsys recommend --all-users --out lists.parquet
    """
    asked: list[Any] = [*(user or []), *(read_ids(users, "--users", "user") if users else [])]
    brought = {
        "--history": history,
        "--history-file": history_file,
        "--user-features": user_features,
        "--context": context,
    }
    told = [option for option, value in brought.items() if value]
    if all_users and asked:
        raise ConfigError("--all-users names everybody; leave --user and --users out")
    if all_users and out is None:
        raise ConfigError("--all-users writes a table; say where with --out FILE.parquet")
    if not asked and not all_users and not told:
        raise ConfigError(
            "no user was named; give --user ID, or many with --users FILE; all with --all-users --out FILE; "
            "or --history A,B,C of a stranger"
        )
    if told and (all_users or len(asked) > 1):
        named = "everybody is" if all_users else f"{len(asked)} are"
        raise ConfigError(f"{told[0]} is of one user and {named} named; ask for one at a time")
    if history and history_file:
        raise ConfigError("--history and --history-file both tell the history; give one of them")
    if database and out is None:
        raise ConfigError("--database is where --out sql:TABLE lies; name the table")
    if explain and out is not None:
        raise ConfigError("--explain has no column in a table; leave it out, or leave --out out")
    if processes > 1 and out is None:
        raise ConfigError("--processes writes a table; say where with --out FILE.parquet")
    if where and not where.strip():
        raise ConfigError("--where is blank; give a condition, such as \"genres = 'Comedy' and year < 1995\"")
    allowed_ids = read_ids(allow, "--allow", "item") if allow else None
    blocked_ids = read_ids(block, "--block", "item", may_be_empty=True) if block else None

    from ...artifacts.locate import find_run

    folder = find_run(run)

    from ... import api
    from ...base.memory import keep_memory
    from ...data.subject import Subject
    from ...live.requests import Request
    from .. import render
    from ..records import read_records

    keep_memory()
    with shared_work(invocation.obj, processes) as speaks:
        recommender = api.load(folder, rules, device)
        brings: dict[str, Any] = {}
        if told:
            events: list[Any] = _history(history, recommender.trained.dataset.item_rows)
            if history_file is not None:
                events = [_event(row) for row in read_records(history_file, "--history-file")]
            features = _one(read_records(user_features, "--user-features"), user_features) if user_features else {}
            context_now = pairs(context or [], "--context", "device=phone")
            brings = {"history": events, "features": features, "context": context_now}
            asked = asked or [None]
        if out is not None:
            users_asked = None if all_users else [Subject(user=asked[0], **brings)] if told else asked
            lists = recommender.write_lists(
                out, k, where, users=users_asked, database=database, allow=allowed_ids, block=blocked_ids
            )
            if speaks and json:
                render.print_json(lists.to_json())
            elif speaks:
                render.print_facts("lists", lists.to_json())
            return
        recommender.funnel.check(len(asked), k)
        recommender.funnel.select(where, allowed_ids, blocked_ids)  # says once which ids the catalogue lacks
        recommender.funnel.warm_up()
        wanted = {
            "k": k,
            "where": where,
            "allow": allowed_ids,
            "exclude": blocked_ids or (),
            "explain": explain,
            **brings,
        }
        for start in range(0, len(asked), CHUNK):
            requests = [Request(user=who, **wanted) for who in asked[start : start + CHUNK]]
            for answer in recommender.ask_many(requests):
                if json:
                    render.print_json(answer.to_json())
                else:
                    render.print_recommendation(answer.to_json())


def _history(text: str, known: Container[str]) -> list[Any]:
    """Events of `A,B@TIME,C`: an id, or an id and a time; an id of the run may hold an @ itself."""
    found: list[Any] = []
    for entry in (part.strip() for part in text.split(",")):
        item, _, time = entry.rpartition("@")
        if item and entry not in known and _TIME.fullmatch(time):
            found.append({"item": item, "time": time})
        elif entry:
            found.append(entry)
    return found


def _event(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file without the cells that say nothing."""
    return {name: value for name, value in row.items() if value is not None and value != ""}


def _one(rows: list[dict[str, Any]], file: Path) -> dict[str, Any]:
    """The only row of a file."""
    if len(rows) != 1:
        raise DataError(f"{file} holds {len(rows)} rows and is of one user; leave one, or ask with recsys.Subject")
    return rows[0]
