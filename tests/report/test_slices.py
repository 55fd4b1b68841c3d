"""Slices where people look: by activity and popularity, the chosen columns, the worst, each with its interval."""

from __future__ import annotations

from typing import Any

from recsys.report.evaluation import evaluation_blocks
from recsys.report.page import evaluation_page
from recsys.report.slices import slice_tables
from recsys.report.terminal import plain_text


def entry(column: str, value: str, metric: str, estimate: float, gap: float) -> dict[str, Any]:
    return {
        "column": column,
        "value": value,
        "metric": metric,
        "estimate": estimate,
        "low": estimate - 0.05,
        "high": estimate + 0.05,
        "size": 50,
        "share": 0.5,
        "gap": gap,
        "cost": 0.5 * gap,
    }


ALL = [
    entry("activity", "new", "ndcg@10", 0.1, 0.1),
    entry("activity", "heavy", "ndcg@10", 0.3, -0.1),
    entry("popularity", "tail", "item_recall@10", 0.15, 0.2),
    entry("genre", "noir", "click auc", 0.55, 0.12),
    entry("genre", "noir", "click ece", 0.01, 0.0),
]
RESULT = {
    "slices": [one for one in ALL if one["gap"] > 0],
    "all_slices": ALL,
    "sliced_by": {
        "metrics": ["ndcg@10", "item_recall@10", "click auc"],
        "columns": ["activity", "popularity", "genre"],
    },
}


def test_a_terminal_shows_the_columns_and_the_worst_slices_with_intervals() -> None:
    shown = plain_text(evaluation_blocks(RESULT))
    for title in ("By activity", "By popularity", "By genre", "Worst slices"):
        assert title in shown
    assert "0.3000 [0.250, 0.350], 50%" in shown
    worst = shown[shown.index("Worst slices") :]
    assert "popularity: tail" in worst
    assert "genre: noir" in worst
    assert "heavy" not in worst
    assert "ece" not in shown


def test_a_page_shows_them_and_every_slice_below() -> None:
    page = evaluation_page(RESULT)
    for text in ("By activity", "By popularity", "By genre", "Worst slices", "ndcg@10 by slice", "[0.250, 0.350]"):
        assert text in page


def test_a_result_of_an_earlier_version_still_has_its_slices() -> None:
    old = {"slices": RESULT["slices"]}
    assert "Worst slices" in plain_text(evaluation_blocks(old))
    assert "click auc by slice" in evaluation_page(old)


def test_tiers_of_other_edges_have_tables_of_their_own() -> None:
    """Rows are parted by training rows and lists by histories; one table of both would be half empty."""
    slices = [
        entry("activity", "new (no history)", "ndcg@10", 0.1, 0.1),
        entry("activity", "light (1 to 138)", "ndcg@10", 0.2, 0.0),
        entry("activity", "new (no history)", "click auc", 0.6, 0.1),
        entry("activity", "light (1 to 66)", "click auc", 0.7, 0.0),
        entry("activity", "light (1 to 66)", "like auc", 0.7, 0.0),
        entry("title", "Kong (1933)", "ndcg@10", 0.3, 0.0),
        entry("title", "Kong (1976)", "ndcg@10", 0.4, 0.0),
        entry("title", "Kong (1976)", "click auc", 0.5, 0.0),
    ]
    sliced = {"metrics": ["ndcg@10", "click auc", "like auc"], "columns": ["activity", "title"]}
    tables = list(slice_tables({"slices": slices, "all_slices": slices, "sliced_by": sliced}))[:3]
    heads = [(one.title, tuple(one.heads)) for one in tables]
    assert heads == [
        ("By activity", ("activity", "ndcg@10")),
        ("By activity", ("activity", "click auc", "like auc")),
        ("By title", ("title", "ndcg@10", "click auc")),
    ]
    assert [cells[0].text for cells in tables[1].rows] == ["new (no history)", "light (1 to 66)"]
