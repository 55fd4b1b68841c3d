"""What people read on a terminal: tables on stdout, JSON on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console

from ..base.finding import Finding
from ..report.terminal import WIDE, terminal
from ..report.values import Block, Cell, facts, plain, row, scalar, table


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, default=str) + "\n")


def show(*blocks: Block) -> None:
    """Print tables and sentences on stdout."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDE)
    console.print(terminal(blocks))


def print_facts(title: str, values: Any) -> None:
    """A flat report as two columns."""
    show(facts(plain(values), title=title))


RUNGS = {
    "features": "from the user's own features",
    "segment": "popular among users like this one",
    "popular": "popular among everybody",
}
"""What an answer without a history rests on."""


def print_recommendation(answer: Mapping[str, Any]) -> None:
    """One user's list: rank, title, score, the score of each task, and where the item came from."""
    items: Sequence[Mapping[str, Any]] = answer["items"]
    tasks = list(dict.fromkeys(task for item in items for task in item.get("tasks", {})))
    explained = any("why" in item for item in items)
    who = "is unknown" if not answer["known"] else "has no history"
    rung = f", who {who}: {RUNGS[answer['rung']]}" if answer["rung"] in RUNGS else ""
    timing = answer.get("timings_ms", {})
    caption = f"rung: {answer['rung']}, {answer['candidates']:,} candidates"
    if "total" in timing:
        caption += ", " + ", ".join(f"{name} {value:.1f} ms" for name, value in timing.items())
    if answer["short"]:
        wanted = len(items) + answer["short"]
        caption = f"only {len(items)} of {wanted}: no other item is allowed and new to this user\n{caption}"
    heads = ["#", "item", "score", *tasks, "from", *(["why"] if explained else [])]
    rows = [
        row(
            str(rank),
            str(item.get("title") or item["item"]),
            _score(item.get("score")),
            *(_score(item.get("tasks", {}).get(task)) for task in tasks),
            _origin(item),
            *([_why(item.get("why", ""))] if explained else []),
        )
        for rank, item in enumerate(items, start=1)
    ]
    left = [1, *range(3 + len(tasks), len(heads))]
    if answer.get("relaxed"):
        caption = f"gave way, for want of items: {', '.join(answer['relaxed'])}\n{caption}"
    if answer.get("unknown"):
        named = "; ".join(f"{part}: {', '.join(values)}" for part, values in answer["unknown"].items())
        caption = f"the run does not know {named}\n{caption}"
    user = "somebody anonymous" if answer["user"] is None else f"user {answer['user']}"
    show(table(heads, rows, title=f"For {user}{rung}", caption=caption, left=left))


def _origin(item: Mapping[str, Any]) -> str:
    """Who proposed an item, and what rule put it in its place."""
    marks = list(item.get("sources", []))
    if item.get("pinned"):
        marks.append("pinned")
    if item.get("explored"):
        marks.append(f"drawn ({item['propensity']:.2%})")
    return ", ".join(marks)


def print_similar(answer: Mapping[str, Any]) -> None:
    """Items like one: rank, title, score, and what says so."""
    rows = [
        row(str(rank), str(item["title"]), _score(item["score"]), ", ".join(item["sources"]))
        for rank, item in enumerate(answer["items"], start=1)
    ]
    show(table(["#", "item", "score", "from"], rows, title=f"Like {answer['title']}", left=[1, 3]))


def print_models(entries: Iterable[Mapping[str, str]]) -> None:
    """Everything that can be named in a configuration."""
    rows, groups, last = [], [], ""
    for number, entry in enumerate(entries):
        kind = entry["kind"]
        groups += [number] if last and kind != last else []
        source = f"{entry['paper']}; from {entry['origin']}" if entry["origin"] else entry["paper"]
        rows.append(row(kind if kind != last else "", entry["name"], entry["summary"], source))
        last = kind
    show(table(["kind", "name", "what it is", "paper"], rows, left=range(4), groups=groups))


def print_runs(runs: Sequence[Mapping[str, Any]], base: str) -> None:
    """A row a run: when it was made, its size, whether it stays, its figures on the test part, else in validation."""
    rows = []
    for run in runs:
        if "fault" in run:
            rows.append(row(run["name"], Cell(None), Cell(None), "", Cell(run["fault"], level="problem")))
            continue
        marks = [name for name in ("latest", "kept") if run[name]]
        figures = run["test"] or {f"validation {name}": run["validation"][name] for name in _few(run["validation"])}
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        rows.append(row(run["name"], run["created"][:16], f"{run['bytes'] / 1e6:,.1f} MB", ", ".join(marks), told))
    show(table(["run", "created", "size", "", "figures"], rows, title=f"Runs in {base}", left=[0, 1, 3, 4]))


def _few(figures: Mapping[str, float]) -> list[str]:
    """The figures of a validation that a line has room for."""
    return [name for name in figures if name.split(".", 1)[1] in ("ndcg@10", "select_ndcg@10", "auc", "spearman")]


def print_findings(title: str, findings: Iterable[Finding]) -> None:
    """A line each: level, subject and sentence."""
    rows = [row(Cell(finding.level, level=finding.level), finding.about, finding.sentence) for finding in findings]
    show(table((), rows, title=title, left=range(3)))


def _score(value: Any) -> Cell:
    return Cell(None if value is None else scalar(value))


def _why(why: Any) -> str:
    """A reason as a sentence: the items of the user's past that are nearest to the recommended one, or the rung."""
    past = why.get("because_of") if isinstance(why, Mapping) else None
    if past:
        return "near to " + ", ".join(f"{item['title']} ({item['similarity']:.2f})" for item in past)
    if isinstance(why, Mapping) and why.get("rung") in RUNGS:
        return RUNGS[why["rung"]]
    return why if isinstance(why, str) else json.dumps(plain(why), ensure_ascii=False)
