"""Trials of the service as sections of a page of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.benchmarks.harness.books import markdown_table
from recsys.benchmarks.harness.provenance import Json

TITLES = {
    "load": "Load: requests a second and latency",
    "soak": "A long run: publishing, killing, telling",
    "read_writes": "Told to one worker, asked of another",
    "kill": "Kills at random moments",
    "fuzz": "Random requests",
    "keys": "Keys that begin rightly, and others, in time",
}
"""Trial -> heading of its section."""


def serving_sections(trials: Sequence[Json]) -> list[str]:
    """The records of trials as markdown, in the order of the titles, and then of the catalogue's size."""
    places = list(TITLES)
    return [
        serving_section(one)
        for one in sorted(trials, key=lambda one: (places.index(one["trial"]), one["found"].get("items", 0)))
    ]


def serving_section(found: Json) -> str:
    """The record of a trial as markdown: what measures several things side by side as a table, the rest as a list."""
    values: Mapping[str, Any] = found["found"]
    wide = {name: one for name, one in values.items() if _is_row(one)}
    columns = list(dict.fromkeys(column for one in wide.values() for column in one))
    rows = [[name, *(_text(one.get(column)) for column in columns)] for name, one in wide.items()]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    told = [
        f"- {_words(name)}: {_text(one)}"
        for name, one in values.items()
        if name not in wide and not (isinstance(one, list) and not one)
    ]
    size = f", {values['items']:,} items" if "items" in values else ""
    parts = [
        f"## {TITLES[found['trial']]}{size}",
        f"{settings}; {found['machine']}, commit {found['commit']}, {found['date']}.",
        f"```sh\n{found['command']}\n```",
        markdown_table(["", *map(_words, columns)], rows) if rows else "",
        "\n".join(told),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_row(value: object) -> bool:
    """Whether a value is a line of a table: numbers by name, with fractions among them."""
    return isinstance(value, Mapping) and any(isinstance(one, float) for one in value.values())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
