"""The pages of results: every file has its page, and the summary's model is chosen by validation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recsys.base.errors import DataError
from recsys.benchmarks.harness.provenance import RESULTS
from recsys.benchmarks.harness.recorded import run_section
from recsys.benchmarks.harness.speeds import SPEED
from recsys.benchmarks.harness.table import PAGES, SUMMARY, page_of, render, render_summary
from recsys.tests.support.nonempty import nonempty


def variant(group: str, valid: float | None, test: float) -> dict[str, Any]:
    mean = {"test/ndcg@10": test} | ({} if valid is None else {"valid/ndcg@10": valid})
    return {"group": group, "mean": mean, "sd": {"test/ndcg@10": None}}


def test_every_file_of_results_has_a_page() -> None:
    for file in nonempty(RESULTS.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        assert found["benchmark"] in SPEED if "benchmark" in found else page_of(file.stem) in PAGES
    with pytest.raises(DataError, match="no page"):
        page_of("retrieval-elsewhere")


def test_the_summary_is_short_and_chooses_by_validation() -> None:
    assert len(SUMMARY) <= 10
    variants = {
        "easy": variant("baselines", 0.9, 0.30),
        "hard": variant("baselines", 0.1, 0.40),
        "lucky": variant("towers", 0.2, 0.90),
        "sound": variant("towers", 0.3, 0.50),
        "funnel_select_sound": variant("whole funnel", None, 0.60),
        "other": variant("another protocol", 0.8, 0.95),
    }
    page = render_summary({"retrieval-ml-100k": {"rule": "valid/ndcg@10", "variants": variants}}, ["speed"])
    assert "| 0.4000 (`hard`) | 0.5000 (`sound`) | 0.6000 |" in page
    assert "[Speed](speed.md)" in page


def test_a_run_is_a_section_with_its_command() -> None:
    metrics = {"recall@10": 0.5, "recall@10_ci": [0.4, 0.6], "ndcg@10": 0.25, "recall@100": 0.75}
    run = {
        "command": "recsys train toy",
        "machine": "m",
        "protocol": {"split": "time", "intervals": "95%", "notes": ["a note"]},
        "retrieval": {"two_tower": metrics, "note": {}},
        "funnel": metrics,
        "ranking": {"click": {"auc": 0.75, "gauc": None}},
    }
    page = render([], "Toy", [run_section("toy", run)])
    assert "| two_tower | 0.5000 [0.4000, 0.6000] | 0.2500 | 0.7500 |" in page
    assert "| click | 0.7500 |  |  |  |" in page
    assert "recsys train toy" in page
    assert "a note" in page
    assert "- [The configuration toy, as it is shipped](#the-configuration-toy-as-it-is-shipped)" in page
