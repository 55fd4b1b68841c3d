"""The report as an object: its text, its markup in a notebook, its frame, its page, its sections."""

from __future__ import annotations

import doctest
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recsys.report.report
from recsys.report import Report

RESULT: dict[str, Any] = {
    "title": "Evaluation of <shop>",
    "retrieval": {
        "two_tower": {"users": 60, "recall@10": np.float64(0.25), "recall@10_ci": [0.2, 0.3]},
        "popularity": {"recall@10": 0.1},
    },
    "index": {"factory": "Flat", "ann_recall@10": 1.0},
    "ranking": {
        "click": {
            "auc": 0.75,
            "auc_ci": [0.74, 0.76],
            "gauc": float("nan"),
            "reliability": {"predicted": [0.1], "observed": [0.2]},
        }
    },
    "blend": {"kind": "product", "chosen_by": "default", "weights": {"click": 1.0}},
    "funnel": {
        "ndcg@10": 0.2,
        "stages": [{"stage": "retrieval", "ceiling": 0.4, "loss": 0.6, "loss_ci": [0.5, 0.7], "share": 0.75}],
        "retrievers": {"two_tower": {"recall": 0.5}},
        "verdict": "Most is lost in retrieval.",
    },
    "slices": [
        {
            "column": "region",
            "value": "south",
            "metric": "auc",
            "estimate": 0.7,
            "low": 0.6,
            "high": 0.8,
            "share": 0.2,
            "gap": 0.05,
        }
    ],
    "findings": [{"severity": "warning", "name": "miscalibrated", "sentence": "Task 'click' is <off>."}],
}


def test_printing_shows_the_tables_as_plain_text() -> None:
    shown = str(Report(RESULT))
    assert shown.startswith("Evaluation of <shop>\n")
    for expected in ("0.2500 [0.200, 0.300]", "0.7500 [0.740, 0.760]", "Most is lost in retrieval.", "warning: Task"):
        assert expected in shown
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_a_notebook_shows_the_same_numbers_as_markup() -> None:
    report = Report(RESULT)
    markup = report._repr_html_()
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", markup, flags=re.DOTALL)
    for expected in ("0.2500", "[0.200, 0.300]", "0.7500", "Evaluation of &lt;shop&gt;", "is &lt;off&gt;."):
        assert expected in text
    assert not re.search(r"<script|https?://|<shop>", markup)
    numbers = re.findall(r"\d\.\d{4}", str(report))
    assert len(numbers) >= 8
    assert set(numbers) <= set(re.findall(r"\d\.\d{4}", text))


def test_every_number_is_a_row_of_the_frame() -> None:
    frame = Report(RESULT).to_frame()
    assert list(frame.columns) == ["section", "name", "metric", "value", "low", "high"]
    rows = {(row.section, row.name_, row.metric): row for row in frame.rename(columns={"name": "name_"}).itertuples()}
    assert len(rows) == len(frame) == 13
    recall = rows["retrieval", "two_tower", "recall@10"]
    assert (recall.value, recall.low, recall.high) == (0.25, 0.2, 0.3)
    assert math.isnan(rows["ranking", "click", "gauc"].value)
    assert math.isnan(rows["index", "", "ann_recall@10"].low)
    assert rows["blend", "click", "weight"].value == 1.0
    assert rows["funnel.stages", "retrieval", "loss"].high == 0.7
    assert rows["funnel.retrievers", "two_tower", "recall"].value == 0.5
    assert rows["slices", "region: south", "auc"].low == 0.6
    assert len(Report({}).to_frame()) == 0


def test_it_is_a_mapping_of_plain_values() -> None:
    report = Report(RESULT)
    assert report["retrieval"]["two_tower"]["recall@10"] == 0.25
    assert report["ranking"]["click"]["gauc"] is None
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == dict(report)
    assert "funnel" in report
    assert report.get("gates") is None
    with pytest.raises(KeyError, match="no section 'retreival'; there are: title, retrieval, index"):
        report["retreival"]


def test_its_representation_says_what_is_in_it() -> None:
    shown = repr(Report(RESULT, "Shop"))
    assert shown.startswith("<Report 'Shop': retrieval of two_tower, popularity; ranking of click; ")
    assert "findings: miscalibrated; funnel" in shown
    assert repr(Report({})) == "<Report 'Evaluation': no section; print() shows its tables>"


def test_the_page_is_one_whole_file(tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    assert Report(RESULT, "Evaluation of <a>").to_html(str(page)) == page
    content = page.read_text()
    assert content.startswith("<!doctype html>")
    assert content.rstrip().endswith("</html>")
    assert "<title>Evaluation of &lt;a&gt;</title>" in content
    assert "Most is lost in retrieval." in content
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_the_example_runs() -> None:
    result = doctest.testmod(recsys.report.report)
    assert (result.attempted, result.failed) == (3, 0)
