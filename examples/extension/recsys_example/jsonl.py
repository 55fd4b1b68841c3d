"""Logs of one JSON object a line: `events.jsonl` in a folder, `items.jsonl` and `users.jsonl` where there are."""

from __future__ import annotations

from pathlib import Path

import pyarrow.json as pj

from recsys.base.errors import DataError
from recsys.data.reading.readers import read_tables
from recsys.data.reading.sources import SOURCES
from recsys.data.reading.tables import BadRows, Tables


def load(path: str | Path, *, bad: BadRows | None = None, suffix: str = ".jsonl") -> Tables:
    """The tables of a folder of JSON lines.

    Args:
        path: the folder.
        bad: collects bad rows.
        suffix: of the files.

    Raises:
        DataError: there is no file of events.
    """
    folder = Path(path)
    files = {name: folder / f"{name}{suffix}" for name in ("events", "users", "items")}
    if not files["events"].exists():
        raise DataError(f"{folder} holds no events{suffix}; give a folder with a JSON object a line")
    read = {name: pj.read_json(file) for name, file in files.items() if file.exists()}
    return read_tables(read["events"], read.get("users"), read.get("items"), bad=bad)


SOURCES.register("jsonl", load)
