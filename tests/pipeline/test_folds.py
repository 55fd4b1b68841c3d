"""`recsys evaluate CONFIG --folds K`: nothing of later days reaches a fold, and what is done is not done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.artifacts.manifest import MANIFEST
from recsys.base.errors import ConfigError, RunError
from recsys.cli.main import main
from recsys.configs.run import RunConfig
from recsys.funnel.folder import load_run
from recsys.pipeline.folds import evaluate_folds
from recsys.report.evaluation import evaluation_blocks
from recsys.report.terminal import plain_text
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TINY, TinyRun

FAST = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", "data.split.test=0.15")


@pytest.fixture(scope="module")
def config(tiny_run: TinyRun) -> RunConfig:
    return tiny_run.config(*FAST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds") / "shop-folds"


@pytest.fixture(scope="module")
def result(config: RunConfig, folder: Path, tiny_run: TinyRun) -> dict[str, Any]:
    return evaluate_folds(config, 2, folder, base=tiny_run.world)


def test_each_fold_is_a_run_and_every_figure_the_mean_of_theirs(result: dict[str, Any], folder: Path) -> None:
    reports = [open_run(folder / f"fold-{n}").read_json("metrics/evaluation.json") for n in (1, 2)]
    for system in ("two_tower", "ease", "popularity"):
        values = [report["retrieval"][system]["ndcg@5"] for report in reports]
        assert result["retrieval"][system]["ndcg@5"] == pytest.approx(np.mean(values))
        assert result["retrieval"][system]["ndcg@5_folds"] == values
    assert result["ranking"]["click"]["auc"] == pytest.approx(np.mean([r["ranking"]["click"]["auc"] for r in reports]))
    compared = {(row["system"], row["metric"]): row for row in result["folds"]["comparison"]}
    funnel = [report["funnel"]["ndcg@5"] for report in reports]
    ease = [report["retrieval"]["ease"]["ndcg@5"] for report in reports]
    row = compared["ease", "ndcg@5"]
    assert row["difference_folds"] == pytest.approx(np.subtract(ease, funnel), abs=1e-6)
    (tail,) = (one for one in result["all_slices"] if (one["value"], one["metric"]) == ("tail", "item_recall@5"))
    of_folds = [
        e["estimate"] for r in reports for e in r["all_slices"] if (e["value"], e["metric"]) == ("tail", tail["metric"])
    ]
    assert tail["estimate"] == pytest.approx(np.mean(of_folds))
    similar = [report["similar"]["sources"]["mixed"]["recall@5"] for report in reports]
    assert result["similar"]["sources"]["mixed"]["recall@5"] == pytest.approx(np.mean(similar))
    shown = plain_text(evaluation_blocks(result))
    assert "By activity" in shown
    assert "Similar items" in shown
    json.dumps(result, allow_nan=False)


def test_a_fold_knows_no_row_after_its_end_and_learns_from_none_after_its_cut(
    result: dict[str, Any], folder: Path, config: RunConfig, tiny_run: TinyRun, tmp_path: Path
) -> None:
    """The first fold is that of a log which ends where it ends, whatever the later rows say."""
    events = pd.read_csv(tiny_run.world / "events.csv")
    first = load_run(open_run(folder / "fold-1")).dataset
    end = first.events.times.max()
    seconds = events[config.data.time].to_numpy(dtype=float)
    assert len(first.events) == (seconds <= end).sum() < len(events)
    later = events.copy()
    changed = (seconds > end) & (np.arange(len(events)) % 2 == 0)
    later.loc[changed, config.data.item] = 999_999
    later.loc[changed, "click"] = 1 - later.loc[changed, "click"]
    evaluate_folds(config, 2, tmp_path / "other", base=tiny_run.world, stage="retrieval", tables={"events": later})
    other = load_run(open_run(tmp_path / "other" / "fold-1")).dataset
    assert other.item_ids == first.item_ids
    assert other.user_ids == first.user_ids
    for name, vocabulary in nonempty(first.encoders.vocabularies.items()):
        assert other.encoders.vocabularies[name].values == vocabulary.values
    for mine, theirs in nonempty(zip(first.counts, other.counts, strict=True)):
        assert np.array_equal(mine.keys, theirs.keys)
        assert np.array_equal(mine.seen, theirs.seen)


def test_user_rows_mean_the_same_users_in_every_fold(result: dict[str, Any], folder: Path) -> None:
    first, second = (load_run(open_run(folder / f"fold-{n}")).dataset.user_ids for n in (1, 2))
    assert second[: len(first)] == first


def test_a_second_call_trains_only_what_is_missing(
    result: dict[str, Any], folder: Path, config: RunConfig, tiny_run: TinyRun, tmp_path: Path
) -> None:
    copy = tmp_path / "folds"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "fold-2")
    before = (copy / "fold-1" / MANIFEST).stat().st_mtime_ns
    again = evaluate_folds(config, 2, copy, base=tiny_run.world)
    assert (copy / "fold-1" / MANIFEST).stat().st_mtime_ns == before
    for section in ("retrieval", "ranking", "funnel"):
        assert again[section] == result[section]


def test_folds_of_another_configuration_are_not_mixed(
    result: dict[str, Any], folder: Path, config: RunConfig, tiny_run: TinyRun
) -> None:
    with pytest.raises(RunError, match="holds folds of another configuration, other data or another number of folds"):
        evaluate_folds(config, 3, folder, base=tiny_run.world)


def test_a_log_without_times_has_no_folds(config: RunConfig, tmp_path: Path) -> None:
    timeless = config.model_copy(update={"data": config.data.model_copy(update={"time": ""})})
    with pytest.raises(ConfigError, match=r"data\.time is empty"):
        evaluate_folds(timeless, 2, tmp_path)


def test_the_command_line_and_the_python_door_read_the_same_folds(
    result: dict[str, Any], folder: Path, config: RunConfig, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for setting in (*TINY, *FAST) for part in ("--set", setting)]
    given = ["evaluate", str(tiny_run.config_file), "--folds", "2", "--run", str(folder), *settings]
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["funnel"] == result["funnel"]
    assert main([*given, "--report", str(folder.with_suffix(".html"))]) == 0
    shown = capsys.readouterr().out
    for text in ("Systems over folds", "difference to funnel", "fold-1", "±"):
        assert text in shown
    assert "Systems over folds" in folder.with_suffix(".html").read_text(encoding="utf-8")
    report = recsys.evaluate_folds(tiny_run.config_file, 2, folder, settings=[*TINY, *FAST])
    assert report["retrieval"] == result["retrieval"]


def test_a_configuration_without_folds_is_wrong_usage(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny_run.config_file)]) == 2
    assert "go together" in capsys.readouterr().err
