"""One page of all results: `docs/results/*.json` as markdown tables, each with the command that makes it, and pictures.

python benchmarks/harness/table.py            # writes docs/results/README.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.base.files import write_whole
from recsys.benchmarks.harness.forest import draw_all
from recsys.benchmarks.harness.provenance import RESULTS, Json

LOWER = ("logloss", "mse", "rmse", "excess", "seconds", "unused", "dead")
"""Metrics of which less is better."""
NEUTRAL = ("entropy", "zeros", "similarity")
"""Metrics that describe: more is neither better nor worse."""
PLAIN = ("seconds", "dense", "parameters", "rows", "label_correlation")
"""Columns without a best value."""
INTRODUCTION = """# Results

Every number here was measured by a script in `benchmarks/quality/` and can be measured again by the command beside it.
The JSON files hold what the tables leave out: settings, seeds, commit, data hash, machine, every seed's values.
`±` is the standard deviation over seeds; the best mean of a column is **bold**, which says nothing about whether the
difference is more than luck: see the intervals. This page is written by `python benchmarks/harness/table.py`.
"""


def render(books: Sequence[Json]) -> str:
    """The page."""
    parts = [INTRODUCTION]
    if books:
        parts.append("\n".join(f"- [{book['title']}](#{_anchor(book['title'])})" for book in books))
    parts += [_book(book) for book in books]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _book(book: Json) -> str:
    variants: Mapping[str, Json] = book["variants"]
    parts = [f"## {book['title']}", *book["about"], f"```\n{book['command']}\n```"]
    chosen = _chosen(book)
    if chosen:
        parts.append(f"Chosen by the rule ({book['rule']}, mean of the seeds): **{chosen}**.")
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


def _chosen(book: Json) -> str:
    """The variant the rule chooses: the highest mean of the rule's metric, baselines aside."""
    known = {
        name: record["mean"][book["rule"]]
        for name, record in book["variants"].items()
        if book["rule"] in record["mean"] and record["group"] not in ("baseline", "baselines")
    }
    return max(known, key=lambda name: known[name]) if known else ""


def _best(metric: str, records: Any) -> str:
    """The best mean of a column as it is shown; "" where none is."""
    values = [record["mean"][metric] for record in records if record["mean"].get(metric) is not None]
    if not values or metric in PLAIN or metric.startswith(NEUTRAL) or len(values) < 2:
        return ""
    if metric.startswith("bias"):
        return _number(metric, min(values, key=abs))
    lower = any(word in metric for word in LOWER)
    return _number(metric, min(values) if lower else max(values))


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
            text = _number(metric, mean)
            shown = f"**{text}**" if text == best[metric] else text
            spread = f" ± {_number(metric, sd).lstrip('+')}" if sd is not None and metric not in PLAIN else ""
            cells.append(shown + spread)
        about = f"<br>{record['about']}" if record["about"] not in ("", name) else ""
        lines.append([f"`{name}`{about}", *cells, str(len(record["per_seed"]))])
    return _table(head, lines)


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
    return _table(["", *(columns[metric] for metric in metrics), "AUCs below"], lines)


def _difference(found: Mapping[str, float]) -> str:
    text = f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    return text + (" ▲" if found["low"] > 0 else " ▼" if found["high"] < 0 else "")


def _ensembles(variants: Mapping[str, Json], columns: Mapping[str, str]) -> str:
    known = {name: record["extra"]["ensemble"] for name, record in variants.items() if record["extra"].get("ensemble")}
    metrics = [metric for metric in columns if any(metric in table for table in known.values())]
    best = {metric: _best(metric, [{"mean": table} for table in known.values()]) for metric in metrics}
    lines = []
    for name, table in known.items():
        texts = [_number(metric, table[metric]) if metric in table else "" for metric in metrics]
        cells = [f"**{t}**" if t and t == best[m] else t for t, m in zip(texts, metrics, strict=True)]
        lines.append([f"`{name}`", *cells, str(len(variants[name]["per_seed"]))])
    return _table(["", *(columns[metric] for metric in metrics), "seeds"], lines) if lines else ""


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


def _number(metric: str, value: float) -> str:
    if metric in PLAIN:
        return f"{value:,.2f}" if metric == "label_correlation" else f"{value:,.0f}"
    if metric.startswith("bias"):
        return f"{value:+.3f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=RESULTS, help="folder of the JSON files (default: %(default)s)")
    folder: Path = options.parse_args().folder
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    books = [found for found in files if "variants" in found]  # the folder also holds records of other kinds
    for book in books:
        book["figures"] = [*book["figures"], *draw_all(book, folder)]
    write_whole(folder / "README.md", render(books))
    print(f"{len(books)} tables in {folder / 'README.md'}")


if __name__ == "__main__":
    main()
