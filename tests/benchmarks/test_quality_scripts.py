"""The quality scripts' own arithmetic: records that survive interruptions, equal sizes, differences with a sign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.benchmarks.harness.paired import Labelled, difference, half_interval, row_metrics
from recsys.benchmarks.harness.results import Book, Record
from recsys.benchmarks.harness.session import pick
from recsys.benchmarks.harness.sources import k_core
from recsys.benchmarks.harness.table import render
from recsys.benchmarks.quality.ranking_inputs import variants
from recsys.benchmarks.quality.ranking_variants import RECIPES, fit_width
from recsys.data.reading.readers import read_tables
from recsys.data.schema import TaskSpec
from recsys.testing.toy import Toy


def record(name: str, values: list[float], **keys: Any) -> Record:
    per_seed = {str(seed): {"test/auc/a": value, "valid/auc": value} for seed, value in enumerate(values, 1)}
    about = {"group": "g", "about": "", "command": f"run {name}", "commit": "c", "data": "d" * 64, "date": "2026-01-01"}
    seeds = tuple(range(1, len(values) + 1))
    return Record(variant=name, seeds=seeds, machine="m", settings={}, per_seed=per_seed, **{**about, **keys})


def book(folder: Path) -> Book:
    return Book("t", "A table", ["Why."], {"test/auc/a": "AUC"}, "run all", folder=folder, rule="valid/auc")


def test_records_are_added_replaced_and_found_again(tmp_path: Path) -> None:
    first = book(tmp_path)
    first.add(record("one", [0.5, 0.7]))
    book(tmp_path).add(record("two", [0.9]))  # another process, another row
    assert list(first.variants()) == ["one", "two"]
    assert first.has("one", [1, 2], "d" * 64)
    assert not first.has("one", [1, 2, 3], "d" * 64)
    assert not first.has("one", [1], "other data")
    first.add(record("one", [0.6]))
    one = first.variants()["one"]
    assert one["mean"]["test/auc/a"] == pytest.approx(0.6)
    assert one["sd"]["test/auc/a"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]


def test_mean_and_sd_are_those_of_the_seeds(tmp_path: Path) -> None:
    table = record("one", [0.5, 0.7, 0.9]).to_json()
    assert table["mean"]["test/auc/a"] == pytest.approx(0.7)
    assert table["sd"]["test/auc/a"] == pytest.approx(0.2)


def test_the_page_shows_the_best_the_choice_and_the_command(tmp_path: Path) -> None:
    pages = book(tmp_path)
    pages.add(record("worse", [0.51, 0.53]))
    pages.add(record("better", [0.61, 0.63]))
    pages.add(record("trees", [0.99], group="baseline"))
    versus = {"test/auc/a": {"difference": -0.1, "low": -0.2, "high": -0.05}}
    pages.amend("worse", {"versus": versus, "versus_name": "better"})
    page = render([json.loads((tmp_path / "t.json").read_text())])
    assert "| `better` | 0.6200 ± 0.0141 | 2 |" in page
    assert "**0.9900**" in page
    assert "mean of the seeds): **better**" in page  # a baseline is never the choice
    assert "| `worse` | -0.1000 [-0.2000, -0.0500] ▼ | 1 of 1 |" in page
    assert "run all" in page
    assert "run worse" in page


def test_shards_share_out_what_the_patterns_choose() -> None:
    groups = {"a1": "x", "a2": "x", "b1": "y", "b2": "y", "c": "z"}
    assert pick(groups, "x,c", "0/1") == ["a1", "a2", "c"]
    assert pick(groups, "*1", "0/1") == ["a1", "b1"]
    parts = [pick(groups, "all", f"{i}/2") for i in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(groups)
    with pytest.raises(SystemExit):
        pick(groups, "nothing", "0/1")


def test_the_core_keeps_who_has_enough_and_is_stable() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(np.stack([rng.integers(0, 60, 1200), rng.zipf(1.4, 1200) % 80], axis=1), axis=0)
    events = pa.table({"user_id": [f"u{u}" for u, _ in pairs], "item_id": [f"i{i}" for _, i in pairs]})
    items = pa.table({"item_id": [f"i{i}" for i in range(80)]})
    tables = read_tables(events, items=items)
    core = k_core(tables, 5)
    for column in ("user_id", "item_id"):
        _, counts = np.unique(core.events[column].to_numpy(), return_counts=True)
        assert counts.min() >= 5
    assert 0 < core.events.num_rows < tables.events.num_rows
    assert core.items is not None
    assert set(core.items["item_id"].to_pylist()) == set(core.events["item_id"].to_pylist())
    assert k_core(core, 5).events.equals(core.events)


@pytest.mark.parametrize("data", sorted(RECIPES))
def test_matched_variants_are_as_large_as_the_shared_bottom(toy: Toy, data: str) -> None:
    tasks = (TaskSpec(name="like"), TaskSpec(name="profile_enter"))
    offered = variants(RECIPES[data], [task.name for task in tasks], has_history=True)
    chosen = {n: v for n, v in offered.items() if v.matched and v.group == "architectures" and v.needs != "history"}
    _, target = fit_width(offered["shared_bottom"], RECIPES[data], toy.layout, tasks)
    assert {"mmoe", "cgc", "ple", "stem", "home", "separate_trunks"} <= set(chosen)
    for name, variant in chosen.items():
        width, dense = fit_width(variant, RECIPES[data], toy.layout, tasks)
        assert abs(dense - target) < 0.05 * target, f"{name} at width {width}: {dense} of {target}"


def test_differences_have_the_sign_of_the_better_one_and_are_paired() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((3000, 1)) < 0.4).astype(np.float64)
    users = np.sort(rng.integers(0, 200, 3000))
    users = np.unique(users, return_inverse=True)[1]
    rows = Labelled(("a",), labels, np.ones((3000, 1), bool), users, True)
    poor = labels[:, 0] + rng.normal(0, 2.0, 3000)
    good = labels[:, 0] + (poor - labels[:, 0]) / 2
    found = difference(rows, {"a": ([good, good], [poor])}, 200, "test/")
    gap = row_metrics(rows, {"a": good})["auc/a"] - row_metrics(rows, {"a": poor})["auc/a"]
    assert found["test/auc/a"]["difference"] == pytest.approx(gap)
    assert 0 < found["test/auc/a"]["low"] < gap < found["test/auc/a"]["high"]
    assert found["test/gauc/a"]["low"] > 0
    same = difference(rows, {"a": ([poor], [poor])}, 50, "")["auc/a"]
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_of_a_few_runs_is_students() -> None:
    runs = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert half_interval(runs) == pytest.approx(2.776 * np.sqrt(2.5 / 5), rel=1e-3)
    assert half_interval(runs[:1]) == 0.0
