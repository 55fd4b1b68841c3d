"""A search is judged by the validation part, goes on after a kill, and is shared by processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.artifacts.names import TUNING
from recsys.base.errors import ConfigError, RunError
from recsys.base.files import locked
from recsys.base.tuned import Choice, Range
from recsys.cli.main import main
from recsys.configs.space import declared_space, read_space
from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.pipeline import tune as tuning
from recsys.pipeline.auto import auto
from recsys.pipeline.encoded import encode
from recsys.pipeline.train import train
from recsys.pipeline.tune import tune
from recsys.pipeline.validation import judged
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.processes import Found, together
from recsys.tests.support.tiny import TINY, TinyRun

pytest.importorskip("optuna")
SPACE = {"retrieval.optim.lr": Range(1e-4, 1e-2, log=True), "retrieval.tower.dim": Choice((4, 8))}


def quick(tiny_run: TinyRun, *overrides: str) -> recsys.RunConfig:
    return tiny_run.config("retrieval.fit.epochs=2", *overrides)


def search(tiny_run: TinyRun, run: Path, trials: int = 4, **keys: Any) -> dict[str, Any]:
    return tune(quick(tiny_run), trials, run, space=SPACE, stage="retrieval", base=tiny_run.world, **keys)


def told(account: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What of trials does not depend on the clock."""
    rows = [(one["trial"], one["state"], one[account["metric"]], one["settings"]) for one in account["trials"]]
    return sorted(rows, key=lambda row: row[0])


@pytest.fixture(scope="module")
def found(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("search") / "best"
    return run, search(tiny_run, run)


def test_the_best_trial_is_the_run(tiny_run: TinyRun, found: tuple[Path, dict[str, Any]]) -> None:
    run, account = found
    values = [one["ndcg@10"] for one in account["trials"] if one["ndcg@10"] is not None]
    assert account["best"]["ndcg@10"] == max(values)
    assert account["trials"][0]["settings"]["retrieval.tower.dim"] == 8  # the configuration's own values come first
    config = recsys.load(run).config
    assert config.retrieval.tower.dim == account["best"]["settings"]["retrieval.tower.dim"]
    assert config.retrieval.optim.lr == pytest.approx(account["best"]["settings"]["retrieval.optim.lr"])
    epochs = open_run(run).read_lines("retrieval/history.jsonl")
    assert max(epoch["ndcg@10"] for epoch in epochs) == pytest.approx(account["best"]["ndcg@10"])
    assert open_run(run).read_json(TUNING)["best"] == account["best"]
    page = (run.with_name("best.search") / "trials.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_called_again_it_goes_on_and_repeats_nothing(
    tiny_run: TinyRun, tmp_path: Path, found: tuple[Path, dict[str, Any]]
) -> None:
    run = tmp_path / "best"
    first = search(tiny_run, run, trials=2)
    again = search(tiny_run, run, trials=4)
    assert told(again)[:2] == told(first)
    assert told(again) == told(found[1])  # in two calls or in one


def test_what_another_process_publishes_is_left_to_it(
    tiny_run: TinyRun, found: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it has just ended: nobody holds the lock any more when one would look for who held it."""

    def held(folder: Path, create: bool = False) -> Any:
        if folder.name == "best":
            raise RunError("another process is writing it")
        return locked(folder, create)

    monkeypatch.setattr(tuning, "locked", held)
    account = search(tiny_run, found[0])
    assert told(account) == told(found[1])
    assert "run" not in account


def test_the_test_part_is_not_opened(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for its rows fails; and with other labels, items and users in it a search is the same to the last bit."""
    asked: list[Any] = []
    rows = Dataset.rows

    def refused(self: Dataset, part: str | Part) -> Any:
        asked.append(part)
        assert part not in (Part.TEST, "test"), "the test part was opened"
        return rows(self, part)

    def spoiled(*arguments: Any, **keys: Any) -> Dataset:
        dataset = encode(*arguments, **keys)
        test = dataset.events.parts == Part.TEST
        assert test.sum() > 50
        rng = np.random.default_rng(0)
        for column in (dataset.events.labels, dataset.events.items):
            column.setflags(write=True)
        dataset.events.labels[test] = 1 - dataset.events.labels[test]
        dataset.events.items[test] = rng.permutation(dataset.events.items[test])
        return dataset

    monkeypatch.setattr(tuning, "_publish", lambda *_: None)
    config = quick(tiny_run, "ranking.fit.epochs=1")
    space = {"retrieval.tower.dim": Choice((4, 8)), "ranking.optim.lr": Range(1e-3, 1e-2, log=True)}
    plain = tune(config, 2, tmp_path / "plain", space=space, base=tiny_run.world)
    monkeypatch.setattr(Dataset, "rows", refused)
    monkeypatch.setattr("recsys.pipeline.tune.encode", spoiled)
    account = tune(config, 2, tmp_path / "spoiled", space=space, base=tiny_run.world)
    assert asked
    assert account["metric"] == "select_ndcg@10"
    assert told(account) == told(plain)


def test_the_command_searches_and_points_to_the_run(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text('"retrieval.tower.dim" = [4, 8]')
    settings = [part for key in (*TINY, "retrieval.fit.epochs=1") for part in ("--set", key)]
    verb = ["tune", str(tiny_run.config_file), "--trials", "1", "--space", "space.toml", "--stage", "retrieval"]
    assert main([*verb, *settings, "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    assert account["run"] == "runs/demo-tuned"
    assert main([*verb, *settings]) == 0
    assert "Trials" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["of"]) == ("demo-tuned", "search")


def test_a_hopeless_trial_ends_early(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rates of nothing are far below the median after their first epoch."""
    monkeypatch.setattr(tuning, "STARTUP", 1)
    monkeypatch.setattr(tuning, "_publish", lambda *_: None)
    space = {"retrieval.optim.lr": Choice((4e-3, 1e-12))}
    config = quick(tiny_run, "retrieval.fit.epochs=3", "retrieval.optim.lr=4e-3", "retrieval.optim.warmup_steps=0")
    account = tune(config, 6, tmp_path / "best", space=space, stage="retrieval", base=tiny_run.world, abreast=1)
    pruned = [one for one in account["trials"] if one["state"] == "pruned"]
    assert pruned
    for one in nonempty(pruned):
        assert one["settings"]["retrieval.optim.lr"] == 1e-12
        assert one["epochs"] < 3
    assert account["best"]["settings"]["retrieval.optim.lr"] == 4e-3


def shared_search(config: recsys.RunConfig, run: Path, world: Path) -> Found:
    """Six trials of which the last hear enough to be suggested; what they were and found, as bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "STARTUP", 2)
        account = tune(config, 6, run, space=SPACE, stage="retrieval", base=world, abreast=2)
    return {"told": torch.frombuffer(bytearray(json.dumps(told(account)).encode()), dtype=torch.uint8)}


def test_processes_that_share_a_search_and_one_that_was_cut_off_find_what_one_finds(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(tiny_run, "retrieval.fit.epochs=1")
    alone = shared_search(config, tmp_path / "alone", tiny_run.world)
    for found in nonempty(together(shared_search, config, tmp_path / "shared", tiny_run.world)):
        assert torch.equal(found["told"], alone["told"])
    calls = 0

    def cut_off(*arguments: Any, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return train(*arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train", cut_off)
        with pytest.raises(KeyboardInterrupt):
            shared_search(config, tmp_path / "cut", tiny_run.world)
    assert torch.equal(shared_search(config, tmp_path / "cut", tiny_run.world)["told"], alone["told"])


def test_more_processes_than_trials_under_way_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "demo", "--trials", "9", "--processes", "5"]) == 2
    assert "--processes 5 needs --abreast 5 or more" in capsys.readouterr().err


PROGRAM = """
import sys
from pathlib import Path
from recsys.base.tuned import Choice, Range
from recsys.configs.run import load_config
from recsys.pipeline.tune import tune
world, run, overrides = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:]
space = {"retrieval.optim.lr": Range(1e-4, 1e-2, log=True), "retrieval.tower.dim": Choice((4, 8))}
tune(load_config(world / "demo.toml", overrides), int(sys.argv[3]), run, space=space, stage="retrieval", base=world)
"""


def started(tiny_run: TinyRun, run: Path, trials: int) -> subprocess.Popen[bytes]:
    arguments = [str(tiny_run.world), str(run), str(trials), *TINY, "retrieval.fit.epochs=1"]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL)


def running(folder: Path) -> int:
    """Trials that have begun."""
    locks = folder / "locks"
    return len(list(locks.iterdir())) if locks.is_dir() else 0


@pytest.mark.exhaustive  # a minute and more
def test_a_killed_search_goes_on_and_two_processes_share_one(tiny_run: TinyRun, tmp_path: Path) -> None:
    """Three processes: one is killed in the middle of a trial, then two go on at once."""
    run = tmp_path / "best"
    folder = run.with_name("best.search")
    first = started(tiny_run, run, 4)
    until = time.monotonic() + 120
    while running(folder) < 2 and first.poll() is None and time.monotonic() < until:
        os.sched_yield()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not run.exists()
    both = [started(tiny_run, run, 4) for _ in range(2)]
    assert [one.wait(300) for one in both] == [0, 0]
    account = tune(
        quick(tiny_run, "retrieval.fit.epochs=1"), 4, run, space=SPACE, stage="retrieval", base=tiny_run.world
    )
    numbers = [one["trial"] for one in account["trials"]]
    assert len(numbers) == len(set(numbers)) == 4
    assert {one["state"] for one in account["trials"]} <= {"complete", "pruned"}
    assert open_run(run).read_json(TUNING)["best"]["ndcg@10"] == account["best"]["ndcg@10"]


def test_another_search_in_the_same_place_is_refused(tiny_run: TinyRun, found: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(RunError, match="a search that differs in space"):
        tune(
            quick(tiny_run),
            1,
            found[0],
            space={"retrieval.tower.dim": Choice((4,))},
            stage="retrieval",
            base=tiny_run.world,
        )


def test_the_classes_declare_what_is_worth_a_search(tiny_run: TinyRun) -> None:
    declared = declared_space(tiny_run.config())
    assert {"retrieval.optim.lr", "retrieval.tower.dim", "ranking.optim.lr", "ranking.model.dropout"} <= set(declared)
    assert not any(key.startswith("ranking.trees") for key in declared)
    assert "ranking.trees.leaves" in declared_space(tiny_run.config("ranking.trees.enabled=true"))


def test_a_space_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        '"ranking.optim.lr" = { low = 1e-4, high = 1e-2, log = true }\n'
        '"ranking.model.kind" = ["mmoe", "ple"]\n[retrieval.tower]\ndim = { low = 16, high = 64, step = 16 }\n'
    )
    assert read_space(file) == {
        "ranking.optim.lr": Range(1e-4, 1e-2, log=True),
        "ranking.model.kind": Choice(("mmoe", "ple")),
        "retrieval.tower.dim": Range(16, 64, step=16),
    }
    assert Range(16, 64, step=16).whole


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('"ranking.optim.lr" = 3', "is no list and no range"),
        ('"ranking.optim.lr" = { low = 1.0, high = 0.1 }', "is above high"),
        ('"ranking.optim.lr" = { low = 0, high = 1, log = true }', "has no logarithm"),
        ('"data.split.kind" = ["time", "random"]', "cannot be searched"),
        ("", "names nothing to search"),
    ],
)
def test_a_wrong_space_is_one_sentence(line: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(line)
    with pytest.raises(ConfigError, match=sentence):
        read_space(tmp_path / "space.toml")


def test_two_stages_are_judged_by_the_order_of_held_out_requests(tiny_run: TinyRun) -> None:
    dataset = recsys.load(tiny_run.folder).trained.dataset
    assert judged(tiny_run.config(), dataset, "all").metric == "select_ndcg@10"
    assert not judged(tiny_run.config(), dataset, "all", "logloss").upwards
    trained = recsys.load(tiny_run.folder).trained
    records = trained.training["ranking"]
    assert judged(tiny_run.config(), dataset, "all").of(trained) == records[-1]["select_ndcg@10"]


def test_without_optuna_one_sentence_says_what_to_install(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs the package Optuna; run `pip install 'recsys-funnel\[tune\]'`"):
        search(tiny_run, tmp_path / "best")


def test_auto_keeps_the_best_of_what_there_was_time_for(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "auto"
    account = auto(quick(tiny_run), 60, run, stage="retrieval", base=tiny_run.world)
    names = [one["settings"]["recipe"] for one in account["trials"]]
    assert names == ["as configured", "towers that read the order of histories", "wider vectors"]
    assert account["best"]["ndcg@10"] == max(one["ndcg@10"] for one in account["trials"])
    assert recsys.load(run).recommend(["1"], k=3) is not None
    assert json.loads(open_run(run).file(TUNING).read_text())["best"] == account["best"]


def test_without_time_auto_trains_the_first_to_its_end(tiny_run: TinyRun, tmp_path: Path) -> None:
    account = auto(quick(tiny_run), 0, tmp_path / "auto", stage="retrieval", base=tiny_run.world)
    assert [one["state"] for one in account["trials"]] == ["complete"]
