"""What variety of the lists costs: a table, and the curve that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from .charts import curve_chart
from .values import Json, Table, cell, row, scalar, table, words


@dataclass(frozen=True)
class VarietyView:
    """The curve, and its points."""

    chart: Markup
    points: Table


def variety_view(variety: Json) -> VarietyView:
    """The section `variety` of the JSON of `recsys evaluate`."""
    return VarietyView(variety_chart(variety), variety_table(variety))


def variety_table(variety: Json) -> Table:
    """Every kind and strength: relevance, what of it was lost, and how different the items of a list are.

    Args:
        variety: the section `variety` of the JSON of `recsys evaluate`.
    """
    k = variety["k"]
    heads = [f"ndcg@{k}", "ndcg_lost", f"diversity@{k}", f"entropy@{k}"]
    rows = (
        row(point["kind"], scalar(float(point["strength"])), *(cell(point, head) for head in heads))
        for point in variety["points"]
    )
    caption = f"diversity: mean of 1 - cosine of two items of a list; entropy: of {variety['column']} in a list, bits"
    return table(["variety", "strength", *(words(head) for head in heads)], rows, title="Variety", caption=caption)


def variety_chart(variety: Json) -> Markup:
    """NDCG against diversity, a line for each kind from no variety to variety alone."""
    k, points = variety["k"], variety["points"]
    across, up = f"diversity@{k}", f"ndcg@{k}"
    series = []
    for kind in dict.fromkeys(point["kind"] for point in points[1:]):
        line = [points[0], *(point for point in points if point["kind"] == kind)]
        series.append((kind, [float(one[across]) for one in line], [float(one[up]) for one in line]))
    xs, ys = ([float(point[name]) for point in points] for name in (across, up))
    return curve_chart(
        series,
        x_label=f"{across} of the tower vectors",
        y_label=up,
        x_range=(min(xs), max(xs)),
        y_range=(0.0, max(ys)),
        legend_below=True,
    )
