"""What people and scripts read: tables with every number asked for, JSON that is JSON, a page that is whole."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from recsys.cli import render

RESULT: dict[str, Any] = {
    "protocol": {"split": "leave_last", "users": 6040, "filter_seen": True, "notes": ["Times were estimated."]},
    "retrieval": {
        "two_tower": {"recall@100": 0.4831, "recall@100_ci": [0.47, 0.496], "novelty@10": 9.0, "users": 6040},
        "popularity": {"recall@100": 0.2},
    },
    "index": {"factory": "Flat", "ann_recall@100": 1.0, "warning": None},
    "ranking": {"click": {"rows": 12000, "auc": 0.7512, "auc_ci": [0.74, 0.76], "gauc": None}},
    "funnel": {
        "ndcg@10": 0.2134,
        "ndcg@10_ci": [0.2, 0.22],
        "stages": [{"stage": "retrieval", "ceiling": 0.4, "share": 0.7, "loss": 0.6, "loss_ci": [0.5, 0.7]}],
        "verdict": "Most is lost in retrieval.",
    },
    "findings": [{"severity": "error", "name": "bad_index", "sentence": "The index is off."}],
}


def text(content: Any, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(content)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_an_evaluation_shows_every_stage_with_intervals() -> None:
    shown = text(render.evaluation(RESULT))
    for expected in (
        "split leave_last, users 6,040, filter_seen True",
        "note: Times were estimated.",
        "0.4831 [0.470, 0.496]",
        "0.2000",
        "0.7512 [0.740, 0.760]",
        "12,000",
        "0.2134 [0.200, 0.220]",
        "0.6000 [0.500, 0.700]",
        "Most is lost in retrieval.",
        "error: The index is off.",
    ):
        assert expected in shown
    assert "novelty" not in shown
    assert "2 more with --json or --report" in shown
    assert "warning" not in shown.split("Ranking")[0].split("Index")[1]


def test_a_part_of_an_evaluation_shows_that_part() -> None:
    shown = text(render.evaluation({"ranking": RESULT["ranking"]}))
    assert "Ranking" in shown
    assert "Retrieval" not in shown


def test_every_number_survives_a_narrow_terminal() -> None:
    shown = "".join(text(render.evaluation(RESULT), width=50).split())
    assert "0.4831" in shown
    assert "0.7512" in shown
    assert "…" not in shown


def test_the_page_is_one_whole_file(tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    render.write_page(RESULT, "Evaluation of <a>", page)
    content = page.read_text()
    assert content.startswith("<!doctype html>")
    assert content.rstrip().endswith("</html>")
    assert "Evaluation of &lt;a&gt;" in content
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_json_is_strict_whatever_the_report_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": np.float32(1.5), "b": float("nan"), "c": np.array([1, 2]), "d": (1, np.inf), "é": {3: None}}
    render.print_json(value)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"a": 1.5, "b": None, "c": [1, 2], "d": [1, None], "é": {"3": None}}
    assert "é" in line


def test_a_comparison_marks_what_is_no_chance() -> None:
    row = {"metric": "funnel/ndcg@10", "a": 0.2, "b": 0.22, "difference": 0.02, "low": 0.01, "high": 0.03}
    row |= {"p_holm": 0.001, "smallest_visible": 0.008, "significant": True}
    vague = {**row, "metric": "click/auc", "low": None, "high": None, "significant": False}
    shown = text(render.comparison({"baseline": "mmoe", "comparisons": {"ple": [row, vague]}}))
    assert "baseline: mmoe" in shown
    assert "+0.0200" in shown
    assert "+0.0100 .. +0.0300" in shown
