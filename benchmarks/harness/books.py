"""A file of `docs/results` as markdown: its tables by group, differences with intervals, and where each row is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.benchmarks.harness.provenance import Json

LOWER = ("logloss", "mse", "rmse", "excess", "seconds", "unused", "dead")
"""Metrics of which less is better."""
NEUTRAL = ("entropy", "zeros", "similarity")
"""Metrics that describe: more is neither better nor worse."""
PLAIN = ("seconds", "dense", "parameters", "rows", "label_correlation")
"""Columns without a best value."""
BASELINES = ("baseline", "baselines")
"""Groups that the rule never chooses from."""


def book_section(book: Json) -> str:
    """The section of one file, from its title to the commands of its rows."""
    variants: Mapping[str, Json] = book["variants"]
    parts = [f"## {book['title']}", *book["about"], f"```\n{book['command']}\n```"]
    if best_variant := chosen(book):
        parts.append(f"Chosen by the rule ({book['rule']}, mean of the seeds): **{best_variant}**.")
    parts += [f"![{book['title']}]({figure})" for figure in book["figures"]]
    shown = {name: head for name, head in book["columns"].items() if any(name in r["mean"] for r in variants.values())}
    best = {name: _best(name, variants.values()) for name in shown}
    for group in dict.fromkeys(record["group"] for record in variants.values()):
        rows = {name: record for name, record in variants.items() if record["group"] == group}
        filled = {name: head for name, head in shown.items() if any(name in r["mean"] for r in rows.values())}
        parts += [f"### {group}", _means(rows, filled, best)]
        for base in dict.fromkeys(r["extra"]["versus_name"] for r in rows.values() if "versus" in r["extra"]):
            compared = {name: r for name, r in rows.items() if r["extra"].get("versus_name") == base}
            parts += [f"Difference to `{base}`, and its 95 % interval:", _differences(compared, filled)]
    if ensembles := _ensembles(variants, shown):
        parts += ["### seeds averaged", ensembles]
    parts.append(_provenance(variants))
    return "\n\n".join(parts)


def chosen(book: Json, groups: Sequence[str] = ()) -> str:
    """The variant the rule chooses: the highest mean of the rule's metric, baselines aside; "" where there is none.

    Args:
        book: a file of `docs/results`.
        groups: choose among these only; among all when empty.
    """
    known = {
        name: record["mean"][book["rule"]]
        for name, record in book["variants"].items()
        if book["rule"] in record["mean"]
        and record["group"] not in BASELINES
        and (not groups or record["group"] in groups)
    }
    return max(known, key=lambda name: known[name]) if known else ""


def _best(metric: str, records: Any) -> str:
    """The best mean of a column as it is shown; "" where none is."""
    values = [record["mean"][metric] for record in records if record["mean"].get(metric) is not None]
    if not values or metric in PLAIN or metric.startswith(NEUTRAL) or len(values) < 2:
        return ""
    if metric.startswith("bias"):
        return number(metric, min(values, key=abs))
    lower = any(word in metric for word in LOWER)
    return number(metric, min(values) if lower else max(values))


def _means(rows: Mapping[str, Json], columns: Mapping[str, str], best: Mapping[str, str]) -> str:
    head = ["", *columns.values(), "seeds"]
    lines = []
    for name, record in rows.items():
        cells = []
        for metric in columns:
            mean, sd = record["mean"].get(metric), record["sd"].get(metric)
            if mean is None:
                cells.append("")
                continue
            text = number(metric, mean)
            shown = f"**{text}**" if text == best[metric] else text
            spread = f" ± {number(metric, sd).lstrip('+')}" if sd is not None and metric not in PLAIN else ""
            cells.append(shown + spread)
        about = f"<br>{record['about']}" if record["about"] not in ("", name) else ""
        lines.append([f"`{name}`{about}", *cells, str(len(record["per_seed"]))])
    return markdown_table(head, lines)


def _differences(rows: Mapping[str, Json], columns: Mapping[str, str]) -> str:
    known = {name: record["extra"]["versus"] for name, record in rows.items()}
    metrics = [metric for metric in columns if any(metric in table for table in known.values())]
    lines = []
    for name, table in known.items():
        cells = []
        for metric in metrics:
            found = table.get(metric)
            cells.append("" if found is None else _difference(found))
        level = [metric for metric in metrics if "/auc/" in metric and metric in table]
        lost = sum(table[metric]["difference"] < 0 for metric in level)
        lines.append([f"`{name}`", *cells, "none" if not lost else f"{lost} of {len(level)}"])
    return markdown_table(["", *(columns[metric] for metric in metrics), "AUCs below"], lines)


def _difference(found: Mapping[str, float]) -> str:
    text = f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return text + (" ▲" if found["low"] > 0 else " ▼" if found["high"] < 0 else "")


def _ensembles(variants: Mapping[str, Json], columns: Mapping[str, str]) -> str:
    known = {name: record["extra"]["ensemble"] for name, record in variants.items() if record["extra"].get("ensemble")}
    metrics = [metric for metric in columns if any(metric in table for table in known.values())]
    best = {metric: _best(metric, [{"mean": table} for table in known.values()]) for metric in metrics}
    lines = []
    for name, table in known.items():
        texts = [number(metric, table[metric]) if metric in table else "" for metric in metrics]
        cells = [f"**{t}**" if t and t == best[m] else t for t, m in zip(texts, metrics, strict=True)]
        lines.append([f"`{name}`", *cells, str(len(variants[name]["per_seed"]))])
    return markdown_table(["", *(columns[metric] for metric in metrics), "seeds"], lines) if lines else ""


def _provenance(variants: Mapping[str, Json]) -> str:
    """Data, commits, machines and days of a table, each once."""
    records = list(variants.values())

    def each(key: str) -> str:
        return ", ".join(sorted({part for record in records for part in _texts(record[key])}))

    data = ", ".join(sorted({record["data"][:12] for record in records}))
    about = (
        f"Data {data} · commit {each('commit')} · {each('date')} · {'; '.join(sorted({r['machine'] for r in records}))}"
    )
    commands = "\n".join(sorted({record["command"] for record in records}))
    return f"<sub>{about}</sub>\n\n<details><summary>Each row's command</summary>\n\n```\n{commands}\n```\n\n</details>"


def _texts(value: str) -> list[str]:
    return value.split(", ")


def number(metric: str, value: float) -> str:
    """A value of a metric as it is shown."""
    if metric in PLAIN:
        return f"{value:,.2f}" if metric == "label_correlation" else f"{value:,.0f}"
    if metric.startswith("bias"):
        return f"{value:+.3f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
