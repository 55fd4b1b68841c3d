"""`recsys train --processes`: an ordinary run folder, and one sentence whatever fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import recsys
from recsys.base.pairs import torchrec_finding
from recsys.cli.main import main
from recsys.tests.support.tiny import TINY, TinyRun

SHORT = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1", "ensemble.seeds=1")


def command(world: Path, *words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    settings = [word for key in (*TINY, *SHORT) for word in ("--set", key)]
    place = {"PYTHONPATH": str(Path(recsys.__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "recsys.cli.main", "train", "demo.toml", *settings, *words],
        cwd=world,
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        check=False,
    )


def errors(finished: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in finished.stderr.splitlines() if line.startswith("error:")]


@pytest.mark.slow
def test_two_processes_publish_an_ordinary_run(tiny_run: TinyRun) -> None:
    finished = command(tiny_run.world, "--run", "runs/two", "--processes", "2")
    assert (finished.returncode, finished.stdout) == (0, "runs/two\n"), finished.stderr
    run = recsys.load(tiny_run.world / "runs" / "two")
    assert len(run.recommend([run.trained.dataset.user_ids[0]], k=3)) == 3
    left = sorted(path.name for path in (tiny_run.world / "runs").iterdir() if path.name.startswith(".two"))
    assert left == []


ADAGRAD = tuple(
    f"{stage}.optim.{key}"
    for stage in ("retrieval", "ranking")
    for key in ('table_optimizer="rowwise_adagrad"', "clip_norm=0")
)


@pytest.mark.torchrec
@pytest.mark.slow
@pytest.mark.skipif(torchrec_finding().level != "ok", reason=torchrec_finding().sentence)
def test_a_run_trained_in_pieces_is_an_ordinary_one(tiny_run: TinyRun) -> None:
    settings = [word for key in (*ADAGRAD, "runtime.shard_from=100") for word in ("--set", key)]
    words = ("--run", "runs/pieces", "--processes", "2", "--engine", "torchrec", *settings)
    finished = command(tiny_run.world, *words)
    assert (finished.returncode, finished.stdout) == (0, "runs/pieces\n"), finished.stderr
    run = recsys.load(tiny_run.world / "runs" / "pieces")
    assert len(run.recommend([run.trained.dataset.user_ids[0]], k=3)) == 3


@pytest.mark.exhaustive  # ours in the next test, an outer one here
def test_a_launcher_outside_is_taken_as_found_and_a_failure_is_told_once(tiny_run: TinyRun) -> None:
    outside = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    wrong = ("--set", "name=refused", "--set", "ranking.balance.kind=pcgrad")
    finished = command(tiny_run.world, *wrong, launcher=outside)
    assert finished.returncode != 0
    assert [line.partition(" needs")[0] for line in errors(finished)] == ['error: ranking.balance.kind = "pcgrad"']
    assert not (tiny_run.world / "runs" / "refused").exists()


@pytest.mark.slow
def test_our_launcher_tells_a_failure_once_and_does_not_repeat_it(tiny_run: TinyRun) -> None:
    finished = command(tiny_run.world, "--run", "runs/no", "--processes", "2", "--set", "data.events=gone.csv")
    assert finished.returncode == 1
    assert len(errors(finished)) == 1
    assert "gone.csv" in errors(finished)[0]
    assert "Traceback" not in finished.stderr


def test_a_configuration_for_several_processes_does_not_train_in_one(tiny_run: TinyRun) -> None:
    with pytest.raises(recsys.ConfigError, match=r"runtime.processes = 2 needs that many processes"):
        recsys.train(config=tiny_run.config("runtime.processes=2"), run=tiny_run.world / "runs" / "never")


def test_ray_is_for_several_processes_and_has_to_be_there(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(tiny_run.config_file), "--launcher", "ray"]
    assert main(words) == 2
    assert "say how many with --processes N" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*words, "--processes", "2"]) == 2
    assert "--launcher ray needs the package Ray; run `pip install 'recsys-funnel[ray]'`" in capsys.readouterr().err
