"""The training curves drawn: per stage the loss on training rows and metrics on validation rows, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .charts import curve_chart
from .values import Json, words

TITLES = {"retrieval": "The retriever", "ranking": "The ranker"}
VALIDATION = ("ndcg@10", "recall@10", "recall@100", "select_ndcg@10", "auc", "gauc", "rmse", "spearman")
"""Validation metrics worth a curve, the first three there are."""


@dataclass(frozen=True)
class StageCurves:
    """The curves of one stage under a title that says how long it trained."""

    title: str
    charts: tuple[Markup, ...]


def training_curves(stages: Mapping[str, Sequence[Json]]) -> list[StageCurves]:
    """The curves of each stage that has a record.

    Args:
        stages: stage -> one record per epoch: `epoch`, `loss`, `seconds` and validation metrics.
    """
    curves = []
    for stage, records in stages.items():
        if not records:
            continue
        metrics = [name for name in VALIDATION if _points(records, name)[0]][:3]
        charts = [_curve(records, ["loss"], "training loss"), _curve(records, metrics, "validation")]
        seconds = sum(float(record.get("seconds") or 0.0) for record in records)
        title = f"{TITLES.get(stage, stage)}, {len(records)} epoch{'s' if len(records) > 1 else ''}, {seconds:,.0f} s"
        curves.append(StageCurves(title, tuple(chart for chart in charts if chart)))
    return curves


def _curve(records: Sequence[Json], names: Sequence[str], label: str) -> Markup | None:
    series = [(words(name), *_points(records, name)) for name in names]
    measured = [curve for curve in series if curve[1]]
    if not measured:
        return None
    values = [y for _, _, ys in measured for y in ys]
    margin = 0.1 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    legend = 4 * margin if len(measured) > 1 else 0.0  # stands above the curves
    return curve_chart(
        measured,
        x_label="epoch",
        y_label=label,
        x_range=(0.0, max(4.0, *(x for _, xs, _ in measured for x in xs))),
        y_range=(min(values) - margin, max(values) + margin + legend),
    )


def _points(records: Sequence[Json], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values where a metric was measured."""
    points = [(float(record["epoch"]), float(record[name])) for record in records if record.get(name) is not None]
    return [x for x, _ in points], [y for _, y in points]
