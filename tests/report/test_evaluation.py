"""The tables of an evaluation: every stage with its intervals, whole on a narrow terminal, no text taken as markup."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.report.evaluation import comparison_blocks, evaluation_blocks
from recsys.report.terminal import plain_text
from recsys.report.values import interval, scalar

RESULT: dict[str, Any] = {
    "protocol": {"split": "leave_last", "users": 6040, "filter_seen": True, "notes": ["Times were estimated."]},
    "retrieval": {
        "two_tower": {"recall@100": 0.4831, "recall@100_ci": [0.47, 0.496], "novelty@10": 9.0, "users": 6040},
        "popularity": {"recall@100": 0.2},
    },
    "index": {"factory": "Flat", "ann_recall@100": 1.0, "warning": None},
    "ranking": {
        "click": {"rows": 12000, "auc": 0.7512, "auc_ci": [0.74, 0.76], "gauc": None},
        "dwell": {"rows": 900, "rmse": 31.25, "rmse_ci": [29.5, 33.0], "spearman": 0.41},
    },
    "funnel": {
        "ndcg@10": 0.2134,
        "ndcg@10_ci": [0.2, 0.22],
        "stages": [{"stage": "retrieval", "ceiling": 0.4, "share": 0.7, "loss": 0.6, "loss_ci": [0.5, 0.7]}],
        "verdict": "Most is lost in retrieval.",
    },
    "findings": [{"severity": "error", "name": "bad_index", "sentence": "The index is off."}],
}


def test_an_evaluation_shows_every_stage_with_intervals() -> None:
    shown = plain_text(evaluation_blocks(RESULT))
    for expected in (
        "split leave_last, users 6,040, filter seen yes",
        "note: Times were estimated.",
        "0.4831 [0.470, 0.496]",
        "0.2000",
        "0.7512 [0.740, 0.760]",
        "12,000",
        "31.2500 [29.500, 33.000]",
        "0.4100",
        "0.2134 [0.200, 0.220]",
        "0.6000 [0.500, 0.700]",
        "Most is lost in retrieval.",
        "error: The index is off.",
    ):
        assert expected in shown
    assert "novelty" not in shown
    assert "2 more in the JSON and on the page" in shown
    assert "warning" not in shown.split("Ranking")[0].split("Index")[1]


def test_a_part_of_an_evaluation_shows_that_part() -> None:
    shown = plain_text(evaluation_blocks({"ranking": {"click": RESULT["ranking"]["click"]}}))
    assert "Ranking" in shown
    assert "regression" not in shown
    assert "Retrieval" not in shown


def test_every_number_survives_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    lines = plain_text(evaluation_blocks(RESULT)).splitlines()
    assert max(map(len, lines)) <= 50
    shown = "".join("".join(lines).split())
    assert "0.4831" in shown
    assert "0.7512" in shown
    assert "…" not in shown


def test_brackets_in_names_are_text() -> None:
    shown = plain_text(evaluation_blocks({"retrieval": {"[bold]towers[/bold]": {"recall@10": 0.5}}}))
    assert "[bold]towers[/bold]" in shown


def test_a_comparison_marks_what_is_no_chance() -> None:
    row = {"metric": "funnel/ndcg@10", "a": 0.2, "b": 0.22, "difference": 0.02, "low": 0.01, "high": 0.03}
    row |= {"p": 0.0005, "p_holm": 0.001, "smallest_visible": 0.008, "significant": True}
    vague = {**row, "metric": "click/auc", "low": None, "high": None, "significant": False}
    blocks = comparison_blocks({"baseline": "mmoe", "comparisons": {"ple": [row, vague]}})
    shown = plain_text(blocks)
    assert "baseline: mmoe" in shown
    assert "+0.0200" in shown
    assert "+0.0100 .. +0.0300" in shown
    table = blocks[1]
    assert [row[3].level for row in table.rows] == ["strong", ""]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (True, "yes"), (12000, "12,000"), (0.12345, "0.1235"), (1234.56, "1,234.6"), ([1, 0.5], "1, 0.5000")],
)
def test_values_as_text(value: object, shown: str) -> None:
    assert scalar(value) == shown


def test_an_interval_keeps_the_digits_that_tell_its_ends_apart() -> None:
    assert interval(0.47, 0.496) == "[0.470, 0.496]"
    assert interval(0.0301, 0.0312) == "[0.0301, 0.0312]"
    assert interval(-250.0, 1300.0) == "[-250.0, 1,300.0]"
