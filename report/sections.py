"""What the sections of the page show: tables and charts made from the parts of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .charts import curve_chart, funnel_chart, interval_chart
from .evaluation import ranking_tables
from .gates import LevelDrawing, gate_drawings
from .values import Cell, Json, Table, cell, grid, is_number, is_single, names_of, row, scalar, table, words

EXAMPLES = 10
"""Users shown with their lists."""


@dataclass(frozen=True, kw_only=True)
class FunnelView:
    """The drawn funnel with its stages, end-to-end metrics, those of the ranker alone, and what retrievers find."""

    chart: Markup | None
    stages: Table
    delivered: Table
    ranker: Table
    retrievers: Table
    contributions: Table | None


def funnel_view(funnel: Json) -> FunnelView:
    """The section of `evaluation.attribution.funnel_metrics`."""
    stages = funnel.get("stages") or []
    metric = next((name for name in funnel if name.startswith("ndcg@") and not name.endswith("_ci")), "NDCG")
    bars = [(stage["stage"], stage["ceiling"], stage["loss"], stage.get("recall")) for stage in stages]
    rows = [
        row(stage["stage"], cell(stage, "loss"), f"{stage['share']:.0%}", cell(stage, "recall")) for stage in stages
    ]
    return FunnelView(
        chart=funnel_chart(bars, metric.replace("ndcg", "NDCG")) if bars else None,
        stages=table(["stage", "loss", "share of gap", "recall left"], rows),
        delivered=_rates(funnel),
        ranker=_rates(funnel.get("ranker") or {}),
        retrievers=_retrievers(funnel.get("retrievers") or {}),
        contributions=_contributions(funnel.get("sources") or {}),
    )


def _rates(values: Json) -> Table:
    """Every rate of a flat report; counts are left out."""
    rows = [
        row(words(name), cell(values, name))
        for name, value in values.items()
        if is_single(name, value) and (value is None or isinstance(value, float))
    ]
    return table(["metric", "value"], rows)


def _retrievers(retrievers: Mapping[str, Json]) -> Table:
    columns = {"recall": "recall", "recall_ann": "by its index", "recall_alone": "found by it alone"}
    known = {name: head for name, head in columns.items() if any(name in values for values in retrievers.values())}
    rows = [row(who, *(cell(values, name) for name in known)) for who, values in retrievers.items()]
    return table(["retriever", *known.values()], rows)


def _contributions(sources: Mapping[str, Json]) -> Table | None:
    """What each of several retrievers contributes."""
    if len(sources) < 2:
        return None
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
    rows = [row(who, *(cell(values, name) for name in columns.values())) for who, values in sources.items()]
    return table(["retriever", *columns], rows)


@dataclass(frozen=True)
class RetrievalView:
    """The first metric drawn with its intervals, the headline metrics, and all the others."""

    metric: str
    chart: Markup | None
    headlines: Table
    others: Table


def retrieval_view(systems: Mapping[str, Json]) -> RetrievalView:
    """The section of `evaluation.summary.retrieval_metrics`, system -> metrics."""
    names = [
        name for name in names_of(systems.values()) if any(isinstance(v.get(name), float) for v in systems.values())
    ]
    first = next((name for name in names if name.startswith("ndcg@")), names[0] if names else None)
    headlines = [name for name in names if name.startswith("recall@")]
    # At their first cut-off; the others are one tap away.
    for kind in ("ndcg@", "mrr@", "coverage@", "novelty@", "diversity@"):
        headlines += [name for name in names if name.startswith(kind)][:1]
    bars = [
        (who, values[first], values.get(f"{first}_ci"))
        for who, values in systems.items()
        if first is not None and values.get(first) is not None
    ]
    others = [name for name in names if name not in headlines]
    rows = [row(words(name), *(cell(values, name) for values in systems.values())) for name in others]
    return RetrievalView(
        metric=words(first or ""),
        chart=interval_chart(bars, first) if first else None,
        headlines=grid(systems, headlines or names, "system"),
        others=table(["metric", *systems], rows if headlines else ()),
    )


@dataclass(frozen=True)
class IndexView:
    """Recall against latency, its points, and what the index is."""

    chart: Markup | None
    points: Table
    facts: Table


def index_view(index: Json) -> IndexView:
    """The section of the index report, with `curve`: [{`label`, `recall`, `p50_ms`}]."""
    curve = index.get("curve") or []
    chart = None
    if len(curve) > 1:
        times, recalls = [point["p50_ms"] for point in curve], [point["recall"] for point in curve]
        floor = min(recalls)
        chart = curve_chart(
            [("index", times, recalls)],
            x_label="median latency, ms",
            y_label="recall of exact search",
            x_range=(0.0, max(times) * 1.05),
            y_range=(max(0.0, floor - 0.25 * (1 - floor) - 0.01), 1.0),
        )
    points = [row(str(point.get("label", "")), scalar(point["recall"]), scalar(point["p50_ms"])) for point in curve]
    return IndexView(chart, table(["setting", "recall", "p50 ms"], points), properties(index, leave_out=("curve",)))


@dataclass(frozen=True)
class Reliability:
    """How far the predictions of a task are from what was observed."""

    task: str
    chart: Markup


@dataclass(frozen=True)
class RankingView:
    """A table for each kind of task, and a reliability diagram for each task."""

    tables: tuple[Table, ...]
    reliability: tuple[Reliability, ...]


def ranking_view(tasks: Mapping[str, Json]) -> RankingView:
    """The section of `evaluation.summary.ranking_metrics` and `regression_metrics`, task -> metrics."""
    charts = ((task, _reliability(task, values)) for task, values in tasks.items())
    return RankingView(
        tuple(ranking_tables(tasks)), tuple(Reliability(task, chart) for task, chart in charts if chart is not None)
    )


def _reliability(task: str, values: Json) -> Markup | None:
    curve, before = values.get("reliability"), values.get("reliability_before")
    if not curve or not curve.get("predicted"):
        return None
    series = [("calibrated" if before else task, curve["predicted"], curve["observed"])]
    if before:
        series.append(("before the calibrator", before["predicted"], before["observed"]))
    ends = [end for _, xs, ys in series for end in (*xs, *ys)]
    binary = "rmse" not in values
    margin = 0.05 * (max(ends) - (0.0 if binary else min(ends)))
    span = (0.0 if binary else min(ends) - margin, max(ends) + margin or 1.0)
    return curve_chart(
        series,
        x_label="predicted",
        y_label="observed rate" if binary else "observed mean",
        x_range=span,
        y_range=span,
        diagonal=True,
        whiskers=(curve["low"], curve["high"]) if "low" in curve else None,
    )


@dataclass(frozen=True)
class GatesView:
    """How many rows the weights are means of, and each level."""

    rows: str
    levels: tuple[LevelDrawing, ...]


def gates_view(gates: Json) -> GatesView:
    """The section of `evaluation.gates.gate_report`."""
    return GatesView(scalar(gates["rows"]), tuple(gate_drawings(gates)))


@dataclass(frozen=True)
class ExampleItem:
    """One item of a list: its title, notes such as its score and sources, and whether the user took it."""

    title: str
    notes: str
    hit: bool


@dataclass(frozen=True)
class ExampleUser:
    """What one user had, and what the user gets."""

    user: str
    history: str
    items: tuple[ExampleItem, ...]


def example_users(examples: Sequence[Json]) -> list[ExampleUser]:
    """The section of lists of a few users."""
    return [
        ExampleUser(
            str(example["user"]),
            "; ".join(str(title) for title in example.get("history", [])[:5]),
            tuple(_example_item(item) for item in example.get("items", [])),
        )
        for example in examples[:EXAMPLES]
    ]


def _example_item(item: Json) -> ExampleItem:
    notes = [scalar(item["score"])] if item.get("score") is not None else []
    notes += [str(source) for source in item.get("sources", [])]
    return ExampleItem(str(item.get("title", item.get("item", ""))), " · ".join(notes), bool(item.get("hit")))


def properties(values: Json, leave_out: Sequence[str] = ()) -> Table:
    """Every value of a flat report, lists and groups in one line each."""
    rows = [
        row(words(name), Cell(scalar(value), cell(values, name).note))
        for name, value in values.items()
        if not name.endswith("_ci") and name not in leave_out and value not in (None, [], {}, ())
    ]
    return table((), rows)


def estimates(values: Json) -> Table:
    """The off-policy estimates with their intervals."""
    rows = [row(words(name), cell(values, name)) for name, value in values.items() if is_number(name, value)]
    return table(["estimate", "value"], rows)


def config_text(config: str | Json) -> str:
    """A configuration as it stands in its file, or as JSON."""
    if isinstance(config, str):
        return config
    return json.dumps(config, indent=2, default=str, ensure_ascii=False)
