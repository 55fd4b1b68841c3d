"""A run with a searched blend: shipped as a table, used by the lists, shown by the evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import recsys
from recsys.artifacts.folder import open_run
from recsys.cli.render import print_json
from recsys.funnel.folder import BLEND, load_run
from recsys.funnel.funnel import Funnel
from recsys.pipeline.evaluate import evaluate_run
from recsys.pipeline.publish import train_run
from recsys.report import Report
from recsys.report.page import evaluation_page
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose configuration asks for a search."""
    config = tiny_run.config("blend.search=true", "blend.tries=30", "retrieval.fit.epochs=1", "ranking.fit.epochs=1")
    written: Path = train_run(config, tmp_path_factory.mktemp("runs") / "searched", base=tiny_run.world)
    return written


def test_the_table_is_a_file_of_the_run_and_makes_the_lists(folder: Path) -> None:
    shipped = open_run(folder).read_json(BLEND)
    assert set(shipped["weights"]) == {"click", "conversion", "select"}
    assert shipped["objective"] == "ndcg@10 of held-out requests"
    assert recsys.load(folder).funnel.blend.weights == shipped["weights"]


def test_the_evaluation_shows_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate_run(folder)
    assert result["blend"]["chosen_by"] == "search on the validation part"
    assert result["blend"]["weights"] == open_run(folder).read_json(BLEND)["weights"]
    assert "chosen by search on the validation part" in " ".join(str(Report(result)).split())
    print_json(result)
    assert json.loads(capsys.readouterr().out)["blend"]["tries"] == 30
    assert '<section id="blend">' in evaluation_page(result)


def test_weights_of_the_configuration_win_over_those_found(folder: Path) -> None:
    stages = load_run(open_run(folder))
    for change, weights in (({"weights": {"click": 1.0}}, {"click": 1.0}), ({"search": False}, {"select": 1.0})):
        changed = stages.config.model_copy(update={"blend": stages.config.blend.model_copy(update=change)})
        assert Funnel(replace(stages, config=changed)).blend.weights == weights


def test_a_run_that_did_not_search_says_where_its_weights_come_from(tiny_run: TinyRun, tmp_path: Path) -> None:
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert BLEND not in open_run(tiny_run.folder)
    assert stages.found_blend is None
    assert Funnel(stages).blend.weights == {"select": 1.0}


def test_the_gates_of_every_epoch_are_in_the_evaluation(folder: Path) -> None:
    gates = evaluate_run(folder, "ranking")["gates"]
    assert [one["epoch"] for one in gates["epochs"]] == [1]
    assert list(gates["levels"][0]["gates"]) == list(gates["epochs"][0]["levels"][0]["gates"])
    assert gates["levels"][0]["experts"] == ["expert 0", "expert 1"]
