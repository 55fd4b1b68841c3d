"""The best epoch on disk is the best epoch in memory, and leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recsys.base.errors import RunError
from recsys.training import best as best_module
from recsys.training.best import Best


@pytest.fixture(params=["memory", "disk"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        monkeypatch.setattr(best_module, "IN_MEMORY", 0)
    return str(request.param)


def test_what_is_kept_does_not_move_with_the_weights(where: str) -> None:
    best, weight = Best(None), torch.arange(4.0)
    assert not best
    best.keep({"best": {"w": weight}, "best_optimizer": {}})
    weight.add_(1.0)
    assert best
    assert torch.equal(best.group("best")["w"], torch.arange(4.0))
    assert best.group("best_optimizer") == {}
    assert bool(best.in_memory("best")) is (where == "memory")
    best.close()


def test_a_temporary_folder_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(best_module, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    best = Best(None)
    for value in (1.0, 2.0):
        best.keep({"best": {"w": torch.tensor(value)}})
        best.forget_older()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    best.close()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_names_a_file_that_outlives_a_better_epoch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed after a better epoch was written and before a checkpoint names it, a training goes on with the old one."""
    monkeypatch.setattr(best_module, "IN_MEMORY", 0)
    best = Best(tmp_path)
    best.keep({"best": {"w": torch.tensor(1.0)}})
    state = best.state()
    best.keep({"best": {"w": torch.tensor(2.0)}})
    resumed = Best(tmp_path)
    resumed.restore(state, {"best": {}})
    assert resumed.group("best")["w"].item() == 1.0
    assert len(list(tmp_path.iterdir())) == 2
    best.forget_older()
    [file] = tmp_path.iterdir()
    assert load_file(file)["best/w"].item() == 2.0
    with pytest.raises(RunError, match=r"best-1.safetensors, the best epoch of the checkpoint, is gone"):
        Best(tmp_path).restore(state, {"best": {}})
