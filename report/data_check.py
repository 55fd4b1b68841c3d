"""The tables of the data report: tasks, parts, activity and columns, then the findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .values import Block, Json, Line, gigabytes, row, table


def data_blocks(report: Json) -> list[Block]:
    """A summary, one table each for tasks, parts, activity and columns, then the findings.

    Args:
        report: the JSON of `recsys data check`.
    """
    return list(_blocks(report))


def _blocks(report: Json) -> Iterator[Block]:
    sizes = ", ".join(f"{count:,} {name}" for name, count in report["rows"].items())
    yield Line(f"{sizes}; fingerprint {report['fingerprint'][:12]}", "strong")
    parts: Mapping[str, Any] = report["parts"]
    entities: Mapping[str, Any] = report["entities"]
    if report["tasks"]:
        rows = (
            row(task, f"{about['rows']:,}", _rate(about), *(_rate({**about, **about["parts"][part]}) for part in parts))
            for task, about in report["tasks"].items()
        )
        yield table(["task", "rows", "rate", *parts], rows, title="Tasks")
    if parts:
        heads = ["part", "rows", "from (UTC)", "to (UTC)"]
        heads += [f"{what}{name}" for name in entities for what in ("", "unseen ")]
        rows = (
            row(
                part,
                f"{about['rows']:,}",
                _minute(about.get("from", "")),
                _minute(about.get("to", "")),
                *(text for name in entities for text in (f"{about[name]:,}", f"{about[f'unseen_{name}']:.1%}")),
            )
            for part, about in parts.items()
        )
        yield table(heads, rows, title="Parts")
    split = report.get("split") or {}
    if split.get("why"):
        yield Line(f"split that suits: {split['kind']}; {split['why']}")
    if entities:
        marks = list(next(iter(entities.values()))["events_each"])
        rows = (
            row(f"events per {name[:-1]}", *(f"{about['events_each'][mark]:,.0f}" for mark in marks))
            for name, about in entities.items()
        )
        yield table(["", *marks], rows, title="Activity")
    outliers = report.get("outliers") or {}
    if outliers.get("worst"):
        rows = (row(one["user"], f"{one['events']:,}", "; ".join(one["why"])) for one in outliers["worst"])
        more = outliers["users"] - len(outliers["worst"])
        caption = f"{outliers['share']:.1%} of the events" + (f"; {more:,} more such users" if more else "")
        heads = ["user", "events", "why"]
        yield table(heads, rows, title="Users that do not act like a person", caption=caption, left=[2])
    rows = (
        row(
            f"{about['table']}.{about['column']}",
            about["kind"],
            f"{about['missing']:.1%}",
            f"{about['distinct']:,}",
            f"{max((drift['total_variation'] for drift in about.get('drift', {}).values()), default=0):.2f}",
            f"{max(about.get('auc', {}).values(), default=0.5):.3f}",
        )
        for about in report["columns"]
        if about["used"]
    )
    yield table(["column", "kind", "missing", "distinct", "drift", "best auc"], rows, title="Columns", left=[1])
    if report.get("memory"):
        yield from _memory(report["memory"], report.get("minutes") or [])
    for finding in report["findings"]:
        yield Line(finding["message"], finding["level"], finding["level"])
    if not report["findings"]:
        yield Line("Nothing to complain about.")


def _rate(about: Mapping[str, Any]) -> str:
    """How often a binary label is 1, or the mean of a value."""
    if about["rate"] is None:
        return "-"
    return f"{about['rate']:.2%}" if about["kind"] == "binary" else f"mean {about['rate']:.4g}"


def _minute(moment: str) -> str:
    """A moment of ISO 8601 to the minute, in UTC as the report gives it."""
    return moment[:16].replace("T", " ")


def _memory(memory: Json, minutes: Sequence[Json]) -> Iterator[Block]:
    """What a training will hold, what would be smaller otherwise, and how long its steps take."""
    holdings = [row(one["name"], gigabytes(one["bytes"]), one["made_of"]) for one in memory["holdings"]]
    free = "" if memory["free"] is None else f", {gigabytes(memory['free'])} are free"
    caption = f"{gigabytes(memory['total'])} with batches and fragments{free}"
    if memory["remedies"]:
        best = memory["remedies"][0]
        caption += f"; what saves most: {best['setting']}, {gigabytes(best['bytes'])}"
    yield table(["a training holds", "", "made of"], holdings, title="Memory", caption=caption, left=[2])
    if memory["tables"]:
        heads = ["embeddings", "rows", "width", "with Adam", "with row-wise Adagrad"]
        heads += ["at rest", "as float16", "as int8"]
        kinds = ("adam", "rowwise_adagrad", "float32", "float16", "int8")
        rows = (
            row(one["stage"], f"{one['rows']:,}", str(one["width"]), *(gigabytes(one[kind]) for kind in kinds))
            for one in memory["tables"]
        )
        yield table(heads, rows, title="Embedding tables")
    if minutes:
        rows = (
            row(one["stage"], f"{one['steps']:,}", f"{one['step_ms']:.1f}", f"{one['minutes']:.1f}") for one in minutes
        )
        caption = "steps of a training alone; validation, baselines and the ranker's requests come on top"
        yield table(["stage", "steps", "ms each", "minutes"], rows, title="Time", caption=caption)
