"""`recsys init`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def init(
    events: Annotated[
        list[Path], typer.Argument(metavar="EVENTS...", help="CSV or Parquet file of the log; or several.")
    ],
    items: Annotated[Path | None, typer.Option("--items", metavar="FILE", help="Table of the items.")] = None,
    users: Annotated[Path | None, typer.Option("--users", metavar="FILE", help="Table of the users.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write; by default the log's name with .toml.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Column to predict, or COLUMN=WORD; repeatable. By default found."),
    ] = None,
    user_column: Annotated[
        str | None, typer.Option("--user-column", metavar="C", help="Column of user ids; empty for none.")
    ] = None,
    item_column: Annotated[
        str | None, typer.Option("--item-column", metavar="C", help="Column of item ids; empty for none.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time-column", metavar="C", help="Column of event times; empty for none.")
    ] = None,
    header: Annotated[
        str | None, typer.Option("--header", metavar="A,B,C", help="Column names of a log without a header line.")
    ] = None,
    encoding: Annotated[
        str, typer.Option("--encoding", metavar="E", help="Of text files; by default found: UTF-8, else cp1252.")
    ] = "",
    missing: Annotated[
        list[str] | None,
        typer.Option("--missing", metavar="WORD", help="Text that stands for nothing; repeatable. By default found."),
    ] = None,
    time_format: Annotated[
        str, typer.Option("--time-format", metavar="F", help="Of times in text, such as %d.%m.%Y %H:%M.")
    ] = "",
    time_zone: Annotated[
        str, typer.Option("--time-zone", metavar="Z", help="Of times that name none, such as Europe/Berlin.")
    ] = "",
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="NAME", help="Towers as published: sasrec, gsasrec, gru4rec, bert4rec ..."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at your tables and write a commented configuration for them, to train from and to change.

    Example: recsys init ratings.csv --items movies.csv
    """
    from ...base.errors import ConfigError

    stem = events[0].name.partition(".")[0]
    file = out or Path(f"{stem}.toml")
    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; name another file with --out, or write over it with --force")
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write {file.name} into; make it, or name another --out")

    from ...configs.commented import commented_toml
    from ...configs.inferred import data_table, infer_config
    from ...data.notation import Notation

    inferred = infer_config(
        events[0] if len(events) == 1 else events,
        items,
        users,
        task,
        user=user_column,
        item=item_column,
        time=time_column,
        header=[name.strip() for name in header.split(",")] if header else (),
        encoding=encoding,
        notation=Notation(time_format=time_format, time_zone=time_zone, missing=tuple(missing or ())),
        name=re.sub(r"[^\w.-]", "-", file.stem).lstrip(".-") or "inferred",
        recipe=recipe,
    )
    table = dict(inferred.table)
    config = inferred.schema.config.relocated(lambda path: Path(os.path.relpath(path, file.parent)).as_posix())
    table["data"] = data_table(config)
    left_out = [note for note in inferred.notes if "left out" in note]
    text = commented_toml(table, inferred.reasons, [*_head(file, events, items, users), *left_out])
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
    for note in inferred.notes:
        typer.echo(f"- {note}", err=True)
    stages = "" if config.user and config.item else " --stage ranking"
    typer.echo(f"wrote {file}; read it, change what is wrong, then: recsys train {file}{stages}", err=True)
    typer.echo(str(file))


def _head(file: Path, events: Sequence[Path], items: Path | None, users: Path | None) -> list[str]:
    tables = ", ".join(path.name for path in (*events, items, users) if path is not None)
    return [
        f"recsys train {file.name}",
        f"Inferred from {tables} by `recsys init`. docs/config.md explains every key; keys that are not here keep",
        "their defaults.",
    ]
