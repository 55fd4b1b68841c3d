"""The report as one self-contained HTML page: no script, no network, readable on a phone.

The page takes the JSON of an evaluation and draws whatever is in it; a section whose data is absent is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .charts import curve_chart, funnel_chart, interval_chart
from .gates import gates_section
from .style import CSS
from .training import training_section

Json = Mapping[str, Any]


def render_html(report: Json) -> str:
    """Draw an evaluation.

    Args:
        report: the JSON of `recsys evaluate`. Read are `title`, `protocol`, `findings`, `funnel`, `retrieval`, `index`
            (with `curve`: [{`label`, `recall`, `p50_ms`}]), `ranking` (per task, with `reliability` and, before a
            calibrator, `reliability_before`), `gates` (of `gates.gate_report`, with `epochs`), `blend`, `training` (per
            stage, one record per epoch), `slices`, `comparisons`, `off_policy`, `examples` (`user`, `history`, `items`
            with `title`, `score`, `sources`, `hit`), `config`, `data`. All are optional.

    Returns:
        A whole HTML document.
    """
    title = str(report.get("title", "Offline evaluation"))
    sections: list[tuple[str, str, Callable[[Any], str]]] = [
        ("findings", "Found faults", _findings),
        ("funnel", "The funnel", _funnel),
        ("retrieval", "Retrieval", _retrieval),
        ("index", "Index", _index),
        ("ranking", "Ranking", _ranking),
        ("gates", "Gates", gates_section),
        ("blend", "Blend of the tasks", _properties),
        ("training", "Training", training_section),
        ("slices", "Slices", _slices),
        ("comparisons", "Comparison", _comparisons),
        ("off_policy", "Off-policy estimates", _off_policy),
        ("examples", "What users get", _examples),
        ("data", "Data", _properties),
        ("config", "Configuration", _config),
    ]
    body = [f"<h1>{escape(title)}</h1>", _protocol(report.get("protocol") or {})]
    verdict = (report.get("funnel") or {}).get("verdict")
    if verdict:
        body.append(f'<p class="verdict">{escape(str(verdict))}</p>')
    for key, heading, draw in sections:
        if report.get(key):
            drawn = draw(report[key])
            if drawn:
                body.append(f'<section id="{key}"><h2>{heading}</h2>{drawn}</section>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _protocol(protocol: Json) -> str:
    words = [f"{escape(_words(name))} {escape(_show(value))}" for name, value in protocol.items()]
    return f'<p class="soft">{" · ".join(words)}</p>' if words else ""


def _findings(findings: Sequence[Json]) -> str:
    return "".join(
        f'<p class="finding {escape(str(one["severity"]))}"><b>{escape(_words(str(one["name"])))}</b>: '
        f"{escape(str(one['sentence']))}</p>"
        for one in findings
    )


def _funnel(funnel: Json) -> str:
    parts = []
    stages = funnel.get("stages") or []
    ndcg = next((name for name in funnel if name.startswith("ndcg@") and not name.endswith("_ci")), "NDCG")
    if stages:
        drawn = [(one["stage"], one["ceiling"], one["loss"], one.get("recall")) for one in stages]
        rows = [[one["stage"], _cell(one, "loss"), f"{one['share']:.0%}", _cell(one, "recall")] for one in stages]
        parts.append('<p class="soft">The best NDCG still possible after each stage; its loss is the step down.</p>')
        parts.append(
            _side_by_side(
                funnel_chart(drawn, ndcg.replace("ndcg", "NDCG")),
                _table(["stage", "loss", "share of gap", "recall left"], rows),
            )
        )
    numbers = [[_words(name), _cell(funnel, name)] for name in funnel if _is_rate(name, funnel[name])]
    ranker = funnel.get("ranker") or {}
    inside = [[_words(name), _cell(ranker, name)] for name in ranker if _is_rate(name, ranker[name])]
    parts.append(
        _side_by_side(
            "<h3>End to end</h3>" + _table(["metric", "value"], numbers),
            "<h3>The ranker among its candidates</h3>" + _table(["metric", "value"], inside) if inside else "",
        )
    )
    if funnel.get("retrievers"):
        names = ("recall", "recall_ann", "recall_alone")
        rows = [[who, *(_cell(found, name) for name in names)] for who, found in funnel["retrievers"].items()]
        parts.append("<h3>Retrievers</h3>" + _table(["retriever", "recall", "by its index", "found by it alone"], rows))
    return "".join(parts) + _sources(funnel.get("sources") or {})


def _sources(sources: Mapping[str, Json]) -> str:
    """What each of several retrievers contributes."""
    if len(sources) < 2:
        return ""
    cut = next(name.rpartition("@")[2] for name in next(iter(sources.values())) if "@" in name)
    columns = {
        "candidates": "credit_of_candidates",
        "alone": "share_of_candidates_alone",
        "recall lost": "recall_lost",
        "recall gain": "recall_gain",
        f"list@{cut}": f"credit_of_list@{cut}",
        f"hits@{cut}": f"credit_of_hits@{cut}",
        "hits alone": f"share_of_hits_alone@{cut}",
    }
    note = (
        '<p class="soft">Shares of candidates, lists and hits; what several retrievers named is divided evenly among '
        "them, so that a column sums to 1. Alone: what nobody else named. Recall lost is that of the candidates it "
        "alone named; recall gain is what it adds to merging without it.</p>"
    )
    rows = [[who, *(_cell(found, name) for name in columns.values())] for who, found in sources.items()]
    return f"<h3>What each retriever contributes</h3>{note}" + _table(["retriever", *columns], rows)


def _retrieval(systems: Mapping[str, Json]) -> str:
    names = list(dict.fromkeys(name for found in systems.values() for name in found if _is_rate(name, found[name])))
    first = next((name for name in names if name.startswith("ndcg@")), names[0] if names else None)
    chosen = [name for name in names if name.startswith("recall@")]
    for kind in ("ndcg@", "mrr@", "coverage@"):  # at their first cut-off; the others are one tap away
        chosen += [name for name in names if name.startswith(kind)][:1]
    parts = []
    if first is not None:
        rows = [(who, found[first], found.get(f"{first}_ci")) for who, found in systems.items() if first in found]
        parts.append(f'<p class="soft">{escape(_words(first))}, 95 % intervals over users</p>')
        parts.append(interval_chart(rows, first))
    parts.append(_systems_table(systems, chosen or names))
    rest = [name for name in names if name not in chosen]
    if rest:
        flat = [[_words(name), *(_cell(found, name) for found in systems.values())] for name in rest]
        parts.append(f"<details><summary>All metrics</summary>{_table(['metric', *systems], flat)}</details>")
    return "".join(parts)


def _index(index: Json) -> str:
    parts = []
    curve = index.get("curve") or []
    if curve:
        times, recalls = [one["p50_ms"] for one in curve], [one["recall"] for one in curve]
        floor = min(recalls)
        parts.append(
            curve_chart(
                [("index", times, recalls)],
                x_label="median latency, ms",
                y_label="recall of exact search",
                x_range=(0.0, max(times) * 1.05),
                y_range=(max(0.0, floor - 0.25 * (1 - floor) - 0.01), 1.0),
            )
        )
        rows = [[str(one.get("label", "")), _show(one["recall"]), _show(one["p50_ms"])] for one in curve]
        parts.append(f"<details><summary>Points</summary>{_table(['setting', 'recall', 'p50 ms'], rows)}</details>")
    return "".join(parts) + _properties({name: value for name, value in index.items() if name != "curve"})


def _ranking(tasks: Mapping[str, Json]) -> str:
    names = ["auc", "gauc", "logloss", "ece", "predicted_to_observed", "positives", "rows"]
    parts = [_systems_table(tasks, [name for name in names if any(name in found for found in tasks.values())], "task")]
    cards = []
    for task, found in tasks.items():
        curve = found.get("reliability")
        if not curve or not curve.get("predicted"):
            continue
        series = [("calibrated" if "reliability_before" in found else task, curve["predicted"], curve["observed"])]
        before = found.get("reliability_before")
        if before:
            series.append(("before the calibrator", before["predicted"], before["observed"]))
        top = max(max(*xs, *ys) for _, xs, ys in series) * 1.05 or 1.0
        drawn = curve_chart(
            series,
            x_label="predicted",
            y_label="observed rate",
            x_range=(0.0, top),
            y_range=(0.0, top),
            diagonal=True,
            whiskers=(curve["low"], curve["high"]) if "low" in curve else None,
        )
        cards.append(f"<h3>Reliability of {escape(task)}</h3>{drawn}")
    parts.append(_side_by_side(*cards))
    return "".join(parts)


def _slices(slices: Sequence[Json]) -> str:
    parts = []
    head = ["value", "size", "gap", "size × gap"]
    worst = []
    for metric in dict.fromkeys(str(one["metric"]) for one in slices):
        ordered = sorted((one for one in slices if one["metric"] == metric), key=lambda one: -(one.get("cost") or 0.0))
        costly = [one for one in ordered[:3] if one.get("cost", 0) > 0]
        worst += [[_noted(_slice_name(one), _words(metric)), *_slice_cells(one)] for one in costly]
        table = _table(["slice", *head], [[_slice_name(one), *_slice_cells(one)] for one in ordered])
        parts.append(f"<details><summary>{escape(_words(metric))} by slice</summary>{table}</details>")
    note = '<p class="soft">The three worst slices of each metric, by size × gap to the whole.</p>'
    return (note + _table(["slice", *head], worst) if worst else "") + "".join(parts)


def _slice_name(one: Json) -> str:
    return f"{_words(str(one['column']))}: {one['value']}"


def _slice_cells(one: Json) -> list[str]:
    low, high = one.get("low"), one.get("high")
    value = {"value": one["estimate"], "value_ci": None if low is None else [low, high]}
    return [_cell(value, "value"), f"{one['share']:.0%}", _show(one["gap"]), _show(one.get("cost"))]


def _comparisons(rows: Sequence[Json]) -> str:
    head = ["metric", "A", "B", "B - A", "p", "Holm p", "visible"]
    cells = [
        [
            _words(str(one["metric"])),
            _show(one["a"]),
            _show(one["b"]),
            _cell({"d": one["difference"], "d_ci": [one["low"], one["high"]] if one["low"] is not None else None}, "d"),
            _show(one["p"]),
            _show(one["p_holm"]),
            _show(one["smallest_visible"]),
        ]
        for one in rows
    ]
    return _table(head, cells)


def _off_policy(found: Json) -> str:
    return _table(["estimate", "value"], [[_words(name), _cell(found, name)] for name in found if _plain(name)])


def _examples(examples: Sequence[Json]) -> str:
    cards = []
    for one in examples[:10]:
        history = "; ".join(str(title) for title in one.get("history", [])[:5])
        items = []
        for item in one.get("items", []):
            notes = [_show(item["score"])] if item.get("score") is not None else []
            notes += [str(source) for source in item.get("sources", [])]
            hit = ' class="hit"' if item.get("hit") else ""
            name = escape(str(item.get("title", item.get("item", ""))))
            items.append(f'<li{hit}>{name} <span class="soft">{escape(" · ".join(notes))}</span></li>')
        liked = f'<p class="soft">History: {escape(history)}</p>' if history else ""
        cards.append(
            f'<div class="card"><h3>User {escape(str(one["user"]))}</h3>{liked}<ol>{"".join(items)}</ol></div>'
        )
    return f'<div class="grid2">{"".join(cards)}</div>'


def _config(config: Any) -> str:
    dumped = config if isinstance(config, str) else json.dumps(config, indent=2, default=str, ensure_ascii=False)
    return f"<details><summary>Show</summary><pre>{escape(dumped)}</pre></details>"


def _properties(properties: Json) -> str:
    rows = [[_words(name), _cell(properties, name)] for name in properties if _plain(name)]
    return _table(["", ""], rows) if rows else ""


def _side_by_side(*parts: str) -> str:
    """Columns on a wide screen, one below the other on a phone."""
    return f'<div class="grid2">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def _systems_table(systems: Mapping[str, Json], names: Sequence[str], what: str = "system") -> str:
    rows = [[who, *(_cell(found, name) for name in names)] for who, found in systems.items()]
    return _table([what, *(_words(name) for name in names)], rows)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways by itself; cells made by `_cell` hold markup, plain ones are escaped."""
    titles = list(head)
    top = "".join(f"<th>{escape(title)}</th>" for title in titles) if any(titles) else ""
    lines = "".join(
        "<tr>"
        + "".join(f"<td>{cell if isinstance(cell, _Markup) else escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _cell(found: Json, name: str) -> str:
    """A number with its interval in small print below."""
    interval = found.get(f"{name}_ci")
    shown = _show(found.get(name))
    if interval is None:
        return shown
    return _noted(shown, f"{_show(interval[0])} – {_show(interval[1])}")


def _noted(content: str, note: str) -> str:
    """Text with a note in small print below."""
    return _Markup(f'{escape(content)}<span class="ci">{escape(note)}</span>')


def _show(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}".replace(",", " ")
    if isinstance(value, list | tuple):
        return ", ".join(_show(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_show(one)}" for name, one in value.items())
    return str(value)


def _is_rate(name: str, value: Any) -> bool:
    return _plain(name) and isinstance(value, float)


def _plain(name: str) -> bool:
    return not name.endswith("_ci")


def _words(name: str) -> str:
    return name.replace("_", " ")
