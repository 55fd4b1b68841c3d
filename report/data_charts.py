"""The charts of the data report: the log over time, who holds it, and which columns drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from .charts import curve_chart, interval_chart
from .values import Json

DRIFTING = 12
"""Columns drawn, those that drift most first."""


@dataclass(frozen=True)
class DataChart:
    """A chart under its title."""

    title: str
    chart: Markup


def data_charts(report: Json) -> list[DataChart]:
    """The charts of the JSON of `recsys data check`; what it lacks is left out."""
    return [*_over_time(report.get("timeline")), *_busiest(report.get("entities") or {}), *_drift(report)]


def _over_time(timeline: Json | None) -> Iterator[DataChart]:
    if timeline is None or len(timeline["events"]) < 2:
        return
    unit = timeline["unit"]
    steps = [float(step) for step in range(len(timeline["events"]))]
    axis = f"{unit} since {timeline['from'][:10]}"
    yield DataChart(
        f"Events per {unit}",
        curve_chart(
            [("events", steps, timeline["events"])],
            x_label=axis,
            y_label="events",
            x_range=(0.0, steps[-1]),
            y_range=(0.0, float(max(timeline["events"]))),
        ),
    )
    for task, rates in timeline["rates"].items():
        known = [(step, rate) for step, rate in zip(steps, rates, strict=True) if rate is not None]
        if len(known) > 1:
            xs, ys = zip(*known, strict=True)
            yield DataChart(
                f"{task} per {unit}",
                curve_chart(
                    [(task, xs, ys)],
                    x_label=axis,
                    y_label=f"mean of {task}",
                    x_range=(0.0, steps[-1]),
                    y_range=(min(0.0, *ys), max(ys) or 1.0),
                ),
            )


def _busiest(entities: Json) -> Iterator[DataChart]:
    series = [
        (name, [share for share, _ in about["busiest"]], [held for _, held in about["busiest"]])
        for name, about in entities.items()
        if about.get("busiest")
    ]
    if series:
        yield DataChart(
            "Who holds the events",
            curve_chart(
                series,
                x_label="share of them, the busiest first",
                y_label="share of the events",
                x_range=(0.0, 1.0),
                y_range=(0.0, 1.0),
                diagonal=True,
                legend_below=True,
            ),
        )


def _drift(report: Json) -> Iterator[DataChart]:
    """The columns whose values move most from train to the part they move to most."""
    drifts = {
        str(about["column"]): max(numbers["total_variation"] for numbers in about["drift"].values())
        for about in report["columns"]
        if about.get("drift")
    }
    worst = sorted(drifts.items(), key=lambda one: -one[1])[:DRIFTING]
    if worst:
        rows = [(name, value, None) for name, value in worst]
        yield DataChart("Drift from train", interval_chart(rows, "share of the rows that moves"))
