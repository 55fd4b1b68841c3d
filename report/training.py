"""The training curves drawn: per stage the loss on training rows, and what the validation rows say, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import curve_chart

Json = Mapping[str, Any]

TITLES = {"retrieval": "The retriever", "ranking": "The ranker"}
VALIDATION = ("ndcg@10", "recall@10", "recall@100", "select_ndcg@10", "auc", "gauc")
"""Validation metrics worth a curve, the first three there are."""


def training_section(stages: Mapping[str, Sequence[Json]]) -> str:
    """Markup of the section.

    Args:
        stages: stage -> one record per epoch: `epoch`, `loss`, `seconds` and validation metrics.
    """
    parts = ['<p class="soft">Per epoch: the mean loss on training rows, and metrics on validation rows.</p>']
    for stage, records in stages.items():
        if not records:
            continue
        metrics = [name for name in VALIDATION if _points(records, name)[0]][:3]
        drawn = [_curve(records, ["loss"], "training loss"), _curve(records, metrics, "validation")]
        seconds = sum(float(record.get("seconds") or 0.0) for record in records)
        count = f"{len(records)} epoch{'s' if len(records) > 1 else ''}, {seconds:,.0f} s"
        parts.append(f"<h3>{escape(TITLES.get(stage, stage))}, {count}</h3>")
        parts.append(f'<div class="grid2">{"".join(f"<div>{one}</div>" for one in drawn if one)}</div>')
    return "".join(parts) if len(parts) > 1 else ""


def _curve(records: Sequence[Json], names: Sequence[str], label: str) -> str:
    series = [(name.replace("_", " "), *_points(records, name)) for name in names]
    known = [one for one in series if one[1]]
    if not known:
        return ""
    values = [y for _, _, ys in known for y in ys]
    margin = 0.1 * (max(values) - min(values)) or 0.1 * abs(values[0]) or 1.0
    legend = 4 * margin if len(known) > 1 else 0.0  # stands above the curves
    return curve_chart(
        known,
        x_label="epoch",
        y_label=label,
        x_range=(0.0, max(4.0, *(x for _, xs, _ in known for x in xs))),
        y_range=(min(values) - margin, max(values) + margin + legend),
    )


def _points(records: Sequence[Json], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values where a metric was measured."""
    found = [(float(record["epoch"]), float(record[name])) for record in records if record.get(name) is not None]
    return [x for x, _ in found], [y for _, y in found]
