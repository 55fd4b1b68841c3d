"""Rows of a file that a command line names: JSON, JSON lines, or any table that training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, DataError


def read_records(file: Path, option: str) -> list[dict[str, Any]]:
    """Rows as mappings from column to value.

    Args:
        file: `.json` holds an object or a list of objects, `.jsonl` an object a line; everything else is a table.
        option: that names the file, for messages.

    Raises:
        ConfigError: there is no such file.
        DataError: the file holds something else, or nothing.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file {file}; {option} takes a JSON file or a table")
    if file.suffix.lower() not in (".json", ".jsonl"):
        from ..data.reading.readers import read_table

        return list(read_table(file).to_pylist())
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        found = [json.loads(line) for line in lines] if file.suffix.lower() == ".jsonl" else json.loads(text)
    except ValueError as error:
        raise DataError(f'{file} holds no JSON ({error}); expected an object such as {{"age": 33}}') from error
    rows = [found] if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows or not all(isinstance(one, dict) for one in rows):
        raise DataError(f'{file} holds other JSON than objects; expected an object such as {{"age": 33}}, or a list')
    return rows


def read_ids(file: Path, option: str, what: str, may_be_empty: bool = False) -> list[str]:
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
