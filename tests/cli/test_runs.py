"""`recsys runs` lists what there is, and removes nothing that is kept or written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recsys.artifacts.listing import kept_names, listed, remove_run
from recsys.artifacts.locate import point_latest
from recsys.base.errors import RunError
from recsys.base.files import locked
from recsys.cli.main import main
from recsys.tests.support.tiny import TinyRun


@pytest.fixture
def base(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A folder with two runs, a training in progress and a folder that is none."""
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(tiny_run.folder, runs / name)
    (runs / "notes").mkdir()
    (runs / ".third.writing").mkdir()
    point_latest(runs / "second", runs)
    return runs


def test_runs_are_listed_with_their_figures(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--in", str(base), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == {"first", "second"}
    assert found["second"]["latest"]
    assert not found["first"]["latest"]
    assert found["first"]["stages"] == ["retrieval", "ranking"]
    assert 0 <= found["first"]["validation"]["retrieval.ndcg@10"] <= 1
    assert found["first"]["test"] == {}
    assert main(["evaluate", "--run", str(base / "first"), "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    figures = next(one for one in listed(base) if one["name"] == "first")["test"]
    task = next(iter(evaluation["ranking"]))
    assert figures[f"ranking.{task}.auc"] == pytest.approx(evaluation["ranking"][task]["auc"])
    assert main(["runs", "--in", str(base)]) == 0
    assert "first" in capsys.readouterr().out


def test_a_kept_run_stays_until_the_mark_is_taken_away(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--in", str(base), "keep", "first"]) == 0
    assert kept_names(base) == {"first"}
    assert main(["runs", "--in", str(base), "rm", "first"]) == 1
    assert "is kept" in capsys.readouterr().err
    assert (base / "first").is_dir()
    assert main(["runs", "--in", str(base), "keep", "--off", "first"]) == 0
    assert main(["runs", "--in", str(base), "rm", "first"]) == 0
    assert [one["name"] for one in listed(base)] == ["second"]
    assert (base / "notes").is_dir()


def test_a_run_that_is_written_or_no_run_is_not_removed(base: Path, tiny_run: TinyRun) -> None:
    with locked(base / "first"), pytest.raises(RunError, match="another process"):
        remove_run(Path("first"), base)
    with pytest.raises(RunError, match="no run"):
        remove_run(Path("notes"), base)
    with pytest.raises(RunError, match="is not in"):
        remove_run(tiny_run.folder, base)
    assert (base / "first" / "manifest.json").is_file()


def test_the_newest_run_can_be_removed_by_way_of_latest(base: Path) -> None:
    assert remove_run(Path("latest"), base) == base / "second"
    assert [one["latest"] for one in listed(base)] == [True]


def test_a_damaged_run_is_listed_as_such(base: Path) -> None:
    (base / "first" / "manifest.json").write_text("{")
    fault = next(one for one in listed(base) if one["name"] == "first")["fault"]
    assert "truncated or damaged" in fault
