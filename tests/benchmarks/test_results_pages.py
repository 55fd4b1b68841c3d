"""The pages of results: every file has its page, and the summary's model is chosen by validation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recsys.base.errors import DataError
from recsys.benchmarks.harness.generic import generic_section, generic_summary, mean_systems, minutes_section
from recsys.benchmarks.harness.provenance import RESULTS
from recsys.benchmarks.harness.recorded import run_section
from recsys.benchmarks.harness.serving import serving_section
from recsys.benchmarks.harness.speeds import SPEED
from recsys.benchmarks.harness.table import PAGES, SUMMARY, page_of, render, render_summary
from recsys.benchmarks.quality.minutes import front
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


def test_a_trial_of_the_service_is_a_section_with_its_command() -> None:
    trial = {
        "trial": "load",
        "command": "python benchmarks/serving/load.py",
        "commit": "c",
        "machine": "m",
        "date": "d",
        "settings": {"workers": "2"},
        "found": {
            "16 connections": {"requests_per_second": 1234.5, "p50_ms": 1.25},
            "bare loop": {"requests_per_second": 2000.0},
            "ready_seconds": 4.25,
            "statuses": {"200": 7},
            "first_failures": [],
        },
    }
    page = serving_section(trial)
    assert "| 16 connections | 1,234 | 1.25 |" in page
    assert "| bare loop | 2,000 |  |" in page
    assert "- ready seconds: 4.25" in page
    assert "- statuses: 200 7" in page
    assert "failures" not in page
    assert "workers 2; m, commit c, d." in page
    assert (page_of("serving-load"), page_of("serving-soak")) == ("service", "service")


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


def generic(**changed: float) -> dict[str, Any]:
    figures = {"hit@10": 0.1, "ndcg@10": 0.05, "ndcg@10_ci": [0.04, 0.06], "recall@100": 0.2, "novelty@10": 9.0}
    seed = {
        "cpu_seconds": 60,
        "protocol": {"split": "time", "intervals": "95%"},
        "systems": {
            "two_tower": figures,
            "popularity": figures | {"ndcg@10": 0.02},
            "ease": figures | {"ndcg@10": 0.03},
            "funnel": figures | {"headroom_taken": 0.125} | changed,
        },
        "pauses": [
            {"value": pause, "metric": "item_recall@10", "estimate": 0.07, "size": 12}
            for pause in ("later than an hour", "within an hour")
        ],
        "ranking": {"like": {"auc": 0.75, "auc_ci": [0.7, 0.8]}},
    }
    return {"title": "Toy", "name": "", "command": "c", "machine": "m", "seeds": {"1": seed}}


def test_the_generic_page_says_the_best_baseline_the_gap_and_the_cost() -> None:
    page = generic_summary([generic()])
    assert "| Toy | 0.0300 (`ease`) | 0.1000 / 0.0500 | 0.1000 / 0.0500 | 0.2000 | 0.125 | 60 | 1 |" in page
    section = generic_section(generic())
    assert "| **funnel** | 0.1000 | 0.0500 [0.040, 0.060] | 0.2000 |  | 9.000 |  |  |" in section
    assert "later than an hour 0.070 (12 of the items to be found)" in section
    assert "| like | 0.7500 [0.7000, 0.8000] |  |" in section


def test_several_seeds_are_their_mean_and_deviation() -> None:
    record = generic()
    record["seeds"]["2"] = generic(**{"ndcg@10": 0.07})["seeds"]["1"]
    assert mean_systems(record)["funnel"]["ndcg@10"] == pytest.approx(0.06)
    assert "| **funnel** | 0.1000 | 0.0600 ± 0.0141 |" in generic_section(record)


def test_a_row_is_on_the_front_if_nothing_is_better_in_less_time() -> None:
    rows = {
        "quick": {"cpu_seconds": 1.0, "ndcg@10": 0.1},
        "beaten": {"cpu_seconds": 2.0, "ndcg@10": 0.05},
        "slow": {"cpu_seconds": 9.0, "ndcg@10": 0.2},
    }
    assert front(rows) == ["quick", "slow"]
    whole = {name: row | {"recall@10": 0.1, "recall@100": 0.2} for name, row in rows.items()}
    record = {"title": "Toy", "minutes": "toy", "command": "c", "machine": "m", "seeds": [1], "front": ["quick"]}
    section = minutes_section(record | {"rows": whole})
    assert section.index("| **quick** | 1.0 |") < section.index("| beaten | 2.0 |") < section.index("| slow | 9.0 |")
