"""The training curves on the report page: what was measured is drawn, what was not is left out."""

from __future__ import annotations

import re
from typing import Any

from recsys.report.page import evaluation_page
from recsys.report.training import training_curves

RETRIEVAL: list[dict[str, Any]] = [
    {"epoch": e, "steps": 9 * e, "loss": 7.0 - e, "seconds": 30.0, "lr": 0.1, "ndcg@10": 0.1 * e, "recall@100": 0.5}
    for e in (1, 2, 3)
]
RANKING: list[dict[str, Any]] = [{"epoch": 1, "loss": None, "loss/<like>": 0.4, "seconds": 5.0, "auc": 0.7}]


def test_a_stage_has_a_curve_of_its_loss_and_of_each_metric_that_was_measured() -> None:
    stages = training_curves({"retrieval": RETRIEVAL, "ranking": []})
    drawn = "".join(chart for stage in stages for chart in stage.charts)
    assert drawn.count("<svg") == 2
    lines = re.findall(r'<polyline class="line \S+" points="([^"]*)"', drawn)
    assert [len(points.split()) for points in lines] == [3, 3, 3]  # loss; ndcg@10 and recall@100
    assert [stage.title for stage in stages] == ["The retriever, 3 epochs, 90 s"]
    loss, ndcg = ([float(point.split(",")[1]) for point in points.split()] for points in lines[:2])
    assert loss == sorted(loss)  # a falling loss falls: y grows downwards
    assert ndcg == sorted(ndcg, reverse=True)


def test_a_loss_that_was_not_finite_leaves_no_curve() -> None:
    (stage,) = training_curves({"ranking": RANKING})
    assert stage.title == "The ranker, 1 epoch, 5 s"
    assert len(stage.charts) == 1
    assert training_curves({"ranking": []}) == []


def test_the_page_has_the_section_only_when_there_is_something_to_draw() -> None:
    assert '<section id="training">' in evaluation_page({"training": {"retrieval": RETRIEVAL}})
    assert "training" not in evaluation_page({"training": {"retrieval": []}})
