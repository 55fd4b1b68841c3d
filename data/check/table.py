"""The data report on a terminal: tables of tasks, parts, activity and columns, then the findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def render_table(report: Mapping[str, Any]) -> Any:
    """The report as a rich renderable: a summary, one table each for tasks, parts and columns, then the findings."""

    def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold")
        for at, head in enumerate(heads):
            made.add_column(head, justify="right" if at else "left", overflow="fold")
        for row in rows:
            made.add_row(*row)
        return made

    sizes = ", ".join(f"{count:,} {name}" for name, count in report["rows"].items())
    blocks: list[Any] = [Text(f"{sizes}; fingerprint {report['fingerprint'][:12]}", style="bold")]
    part_names = list(report["parts"])
    if report["tasks"]:
        rows = [
            [task, f"{about['rows']:,}", _share(about), *(_share({**about, **about["parts"][p]}) for p in part_names)]
            for task, about in report["tasks"].items()
        ]
        blocks.append(table("Tasks", ["task", "rows", "rate", *part_names], rows))
    if report["parts"]:
        heads = ["part", "rows", "from", "to"]
        heads += [f"{what}{name}" for name in report["entities"] for what in ("", "unseen ")]
        rows = [
            [part, f"{about['rows']:,}", about.get("from", ""), about.get("to", "")]
            + [text for name in report["entities"] for text in (f"{about[name]:,}", f"{about[f'unseen_{name}']:.1%}")]
            for part, about in report["parts"].items()
        ]
        blocks.append(table("Parts", heads, rows))
    if report["entities"]:
        marks = list(next(iter(report["entities"].values()))["events_each"])
        rows = [
            [f"events per {name[:-1]}", *(f"{about['events_each'][mark]:,.0f}" for mark in marks)]
            for name, about in report["entities"].items()
        ]
        blocks.append(table("Activity", ["", *marks], rows))
    rows = [
        [
            f"{about['table']}.{about['column']}",
            about["kind"],
            f"{about['missing']:.1%}",
            f"{about['distinct']:,}",
            f"{max((d['total_variation'] for d in about.get('drift', {}).values()), default=0):.2f}",
            f"{max(about.get('auc', {}).values(), default=0.5):.3f}",
        ]
        for about in report["columns"]
        if about["used"]
    ]
    blocks.append(table("Columns", ["column", "kind", "missing", "distinct", "drift", "best auc"], rows))
    style = {"problem": "bold red", "warning": "yellow", "note": "dim"}
    for finding in report["findings"]:
        line = Text(f"{finding['level']}: ", style=style[finding["level"]])
        blocks.append(line.append(finding["message"], style="default"))
    if not report["findings"]:
        blocks.append(Text("Nothing to complain about."))
    return Group(*blocks)


def _share(about: Mapping[str, Any]) -> str:
    if about["rate"] is None:
        return "-"
    return f"{about['rate']:.2%}" if about["kind"] == "binary" else f"mean {about['rate']:.4g}"
