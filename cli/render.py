"""What people read: tables on stdout, JSON on request, and the same tables as a page."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDE = 160
"""Columns assumed where the output is no terminal, such as a pipe."""
HEADLINES = (("recall", "ndcg", "mrr", "coverage"), ("recall",))
"""Retrieval metrics shown on a terminal at the smallest cut-off, and at the largest; the rest is in JSON and page."""
TASK_HEADLINES = ("auc", "gauc", "logloss", "ece", "positives", "rows")
"""Ranking metrics shown on a terminal, in order."""


def plain(value: Any) -> Any:
    """A report as JSON values, whatever it is made of: NaN and infinity become null."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, default=str) + "\n")


def show(content: RenderableType) -> None:
    """Print tables on stdout."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDE)
    console.print(content)


def write_page(result: Mapping[str, Any], title: str, file: Path) -> None:
    """Write an evaluation as one HTML file that needs nothing else; a half-written file never takes its place."""
    from ..report.page import render_html

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(render_html({"title": title, **plain(result)}), encoding="utf-8")
    os.replace(partial, file)


def write_tables(content: RenderableType, title: str, file: Path) -> None:
    """Write what a terminal would show as one HTML file; a half-written file never takes its place."""
    console = Console(width=WIDE, record=True, file=io.StringIO())
    console.print(content)
    page = console.export_html(inline_styles=True)
    head = f'<title>{escape(title)}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(page.replace("<head>", f"<head>{head}", 1), encoding="utf-8")
    os.replace(partial, file)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """A flat report as two columns."""
    show(_facts(title, facts))


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
    table = _table(f"For user {answer['user']}{rung}", ["#", "item", "score", *tasks, "from"], caption=caption)
    if explained:
        table.add_column("why", overflow="fold")
    for rank, item in enumerate(items, start=1):
        name = item.get("title") or item["item"]
        row = [str(rank), str(name), _number(item.get("score"))]
        row += [_number(item.get("tasks", {}).get(task)) for task in tasks]
        row += [", ".join(item.get("sources", []))]
        table.add_row(*row, *([_why(item.get("why", ""))] if explained else []))
    show(table)


def evaluation(result: Mapping[str, Any]) -> RenderableType:
    """The evaluation of a run: protocol, a table for each stage with 95 % intervals, and the faults that were found."""
    blocks: list[RenderableType] = []
    protocol = result.get("protocol", {})
    facts = [f"{name} {_scalar(value)}" for name, value in protocol.items() if _is_metric(name, value)]
    if facts:
        blocks.append(Text("protocol: " + ", ".join(facts), style="dim"))
    blocks += [Text(f"note: {note}", style="dim") for note in protocol.get("notes", [])]
    if result.get("retrieval"):
        systems = result["retrieval"]
        every = dict.fromkeys(n for values in systems.values() for n, v in values.items() if _is_metric(n, v))
        shown = _headlines(list(every))
        table = _table("Retrieval", ["retriever", *shown], caption=_left_out(len(every) - len(shown)))
        for name, values in systems.items():
            table.add_row(name, *(_cell(values, metric) for metric in shown))
        blocks.append(table)
    if result.get("index"):
        blocks.append(_facts("Index", result["index"]))
    if result.get("ranking"):
        tasks = result["ranking"]
        every = dict.fromkeys(n for values in tasks.values() for n, v in values.items() if _is_metric(n, v))
        shown = [name for name in TASK_HEADLINES if name in every]
        table = _table("Ranking", ["task", *shown], caption=_left_out(len(every) - len(shown)))
        for task, values in tasks.items():
            table.add_row(task, *(_cell(values, name) for name in shown))
        blocks.append(table)
    if result.get("blend"):
        blocks.append(_blend(result["blend"]))
    if result.get("funnel"):
        funnel = result["funnel"]
        blocks.append(_facts("Funnel", {name: value for name, value in funnel.items() if name != "verdict"}))
        blocks += _stages(funnel.get("stages"))
        blocks += _sources(funnel.get("sources") or {})
        if funnel.get("verdict"):
            blocks.append(Text(str(funnel["verdict"])))
    for fault in result.get("findings", []):
        style = "bold red" if fault["severity"] == "error" else "yellow"
        blocks.append(Text(f"{fault['severity']}: ", style=style).append(fault["sentence"], style="default"))
    return Group(*blocks)


def _blend(blend: Mapping[str, Any]) -> RenderableType:
    """The weights that make the lists; of a search also what they gained where they were chosen."""
    caption = f"{blend['kind']}, chosen by {blend['chosen_by']}"
    if "objective" in blend:
        caption += f": {blend['objective']} {_number(blend['value'])}, {_number(blend['default_value'])} by default"
    table = _table("Blend", ["task", "weight"], caption=caption)
    for task, weight in blend["weights"].items():
        table.add_row(task, _number(float(weight)))
    return table


def _headlines(names: Sequence[str]) -> list[str]:
    """The retrieval metrics of `HEADLINES` among those there are."""
    cuts = sorted({int(name.partition("@")[2]) for name in names if name.partition("@")[2].isdigit()})
    wanted = [
        f"{kind}@{cut}" for kinds, cut in zip(HEADLINES, (cuts[:1] or [0]) + cuts[-1:], strict=False) for kind in kinds
    ]
    return [name for name in dict.fromkeys(wanted) if name in names]


def comparison(result: Mapping[str, Any]) -> RenderableType:
    """Paired differences to the first run, one table a run; differences that are no chance in bold."""
    blocks: list[RenderableType] = [Text(f"baseline: {result['baseline']}", style="bold")]
    for name, rows in result["comparisons"].items():
        heads = ["metric", "baseline", "this run", "difference", "95 % interval", "p", "smallest visible"]
        table = _table(name, heads)
        for row in rows:
            known = row["low"] is not None
            table.add_row(
                row["metric"],
                _number(row["a"]),
                _number(row["b"]),
                Text(_signed(row["difference"]), style="bold" if row["significant"] else ""),
                f"{_signed(row['low'])} .. {_signed(row['high'])}" if known else "-",
                _number(row["p_holm"]),
                _number(row["smallest_visible"]),
            )
        table.caption = "bold: p below 0.05 after Holm's correction over all metrics"
        blocks.append(table)
    return Group(*blocks)


def models(entries: Iterable[Mapping[str, str]]) -> RenderableType:
    """Everything that can be named in a configuration."""
    table = _table("", ["kind", "name", "what it is", "paper"], numbers=False)
    last = ""
    for entry in entries:
        if last and entry["kind"] != last:
            table.add_section()
        table.add_row(entry["kind"] if entry["kind"] != last else "", entry["name"], entry["summary"], entry["paper"])
        last = entry["kind"]
    return table


def findings(title: str, rows: Iterable[tuple[str, str, str]]) -> RenderableType:
    """(level, subject, sentence) each: `ok`, `note`, `warning` or `problem`."""
    style = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "bold red"}
    table = _table(title, ["", "", ""], numbers=False)
    table.show_header = False
    for level, subject, sentence in rows:
        table.add_row(Text(level, style=style[level]), subject, Text(sentence))
    return table


def _facts(title: str, facts: Mapping[str, Any]) -> RenderableType:
    table = _table(title, ["", ""])
    table.show_header = False
    for name in facts:
        if _is_metric(name, facts[name]) and facts[name] is not None:
            table.add_row(name.replace("_", " "), _cell(facts, name))
    return table


def _left_out(count: int) -> str:
    return f"{count} more with --json or --report" if count else ""


def _stages(stages: Any) -> list[RenderableType]:
    """What each stage keeps: one row a stage, whichever columns the evaluation gave them."""
    if not isinstance(stages, list) or not stages:
        return []
    heads = list(dict.fromkeys(n for stage in stages for n, v in stage.items() if _is_metric(n, v)))
    table = _table("Stages", heads)
    for stage in stages:
        table.add_row(*(_cell(stage, head) for head in heads))
    return [table]


def _sources(sources: Mapping[str, Mapping[str, Any]]) -> list[RenderableType]:
    """What each of several retrievers contributes to the candidates and to the hits."""
    if len(sources) < 2:
        return []
    every = [name for name, value in next(iter(sources.values())).items() if _is_metric(name, value)]
    kinds = (
        "credit_of_candidates",
        "recall_lost",
        "recall_gain",
        "credit_of_list@",
        "credit_of_hits@",
        "share_of_hits_alone@",
    )
    shown = [name for kind in kinds for name in every if name.startswith(kind)]
    caption = "credit divides what several named evenly among them; alone is what nobody else named"
    table = _table("Sources", ["retriever", *(name.replace("_", " ") for name in shown)], caption=caption)
    for name, values in sources.items():
        table.add_row(name, *(_cell(values, metric) for metric in shown))
    return [table]


def _table(title: str, heads: Sequence[str], *, caption: str = "", numbers: bool = True) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", caption=caption or None)
    table.caption_justify = "left"
    for position, head in enumerate(heads):
        left = not numbers or position == 0 or head in ("item", "from")
        table.add_column(head, justify="left" if left else "right", overflow="fold")
    return table


def _is_metric(name: str, value: Any) -> bool:
    return not name.endswith("_ci") and not isinstance(value, list | tuple | dict)


def _cell(values: Mapping[str, Any], name: str) -> str:
    interval = values.get(f"{name}_ci")
    text = _scalar(values.get(name))
    return f"{text} [{_short(interval[0])}, {_short(interval[1])}]" if interval else text


def _scalar(value: Any) -> str:
    return (
        _number(value)
        if value is None or isinstance(value, float)
        else f"{value:,}"
        if type(value) is int
        else str(value)
    )


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return str(value)


def _short(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _why(why: Any) -> str:
    """A reason as a sentence: the items of the user's past that are nearest to the recommended one, or the rung."""
    past = why.get("because_of") if isinstance(why, Mapping) else None
    if past:
        return "near to " + ", ".join(f"{one['title']} ({one['similarity']:.2f})" for one in past)
    if isinstance(why, Mapping) and why.get("rung") in RUNGS:
        return RUNGS[why["rung"]]
    return why if isinstance(why, str) else json.dumps(plain(why), ensure_ascii=False)
