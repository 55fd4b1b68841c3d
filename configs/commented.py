"""A configuration as a TOML file that people read: short, with a word on every choice behind a `#`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomli_w

Place = tuple[str, ...]
"""Keys from the top of the file; an element of a list of tables is named by its `name`."""


def commented_toml(table: Mapping[str, Any], reasons: Mapping[Place, str], head: Sequence[str] = ()) -> str:
    """TOML text of a table of plain values.

    Args:
        table: numbers, texts, lists, tables, and lists of tables.
        reasons: place -> what stands behind `#` on its line: a key, the header of a table, or of a list's element.
        head: comment lines above everything.
    """
    lines = [*(f"# {line}".rstrip() for line in head), *_table(table, (), reasons)]
    return "\n".join(lines).strip("\n") + "\n"


def _table(table: Mapping[str, Any], place: Place, reasons: Mapping[Place, str], element: Place = ()) -> Iterator[str]:
    """Lines of one table: its plain keys, then the tables below it.

    Args:
        table: what to write.
        place: where it stands, as TOML writes it.
        reasons: see `commented_toml`.
        element: where it stands with elements of lists named; `place` when empty.
    """
    named = element or place
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{_key(key)} = {_value(value)}{_remark(reasons, (*named, key))}"
    for key, value in table.items():
        below = (*place, key)
        header = ".".join(_key(part) for part in below)
        if isinstance(value, Mapping):
            if any(not isinstance(inner, Mapping) for inner in value.values()):
                yield from ("", f"[{header}]{_remark(reasons, (*named, key))}")
            yield from _table(value, below, reasons, (*named, key))
        elif _is_tables(value):
            for item in value:
                inner = (*named, key, str(item.get("name", "")))
                yield from ("", f"[[{header}]]{_remark(reasons, inner)}")
                yield from _table(item, below, reasons, inner)


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _remark(reasons: Mapping[Place, str], place: Place) -> str:
    reason = reasons.get(place, "")
    return f" # {' '.join(reason.split())}" if reason else ""


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"value": value}).partition("=")[2].strip()
