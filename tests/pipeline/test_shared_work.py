"""Evaluations and bulk lists of several processes are those of one, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import recsys
from recsys.funnel.bulk import write_lists
from recsys.pipeline import trace
from recsys.pipeline.evaluate import evaluate
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.processes import Found, together
from recsys.tests.support.tiny import TinyRun

PART = 16


def evaluated(folder: Path) -> Found:
    """The result as bytes, and the values of every user and row, with blocks that are small for a small world."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("LISTED", 32), ("BLOCK", 8), ("SCORE_ROWS", 100)):
            patch.setattr(trace, name, size)
        found = evaluate(recsys.load(folder).trained, slices=["gender"])
    values = {name: torch.from_numpy(array) for name, array in found.per_user.items()}
    return values | {"result": torch.frombuffer(bytearray(json.dumps(found.result).encode()), dtype=torch.uint8)}


def test_two_processes_measure_what_one_does(tiny_run: TinyRun) -> None:
    expected = evaluated(tiny_run.folder)
    first, second = together(evaluated, tiny_run.folder)
    assert first.keys() == expected.keys()
    for name, values in nonempty(expected.items()):
        assert torch.equal(first[name].nan_to_num(-1), values.nan_to_num(-1)), name
    assert list(second) == ["result"]
    assert torch.equal(second["result"], expected["result"])


def listed(folder: Path, *files: Path) -> Found:
    """Lists of everybody into each file; how many users had been answered before, and the rows."""
    funnel = recsys.load(folder).funnel
    reports = [write_lists(funnel, file, k=5, part=PART) for file in files]
    return {"counts": torch.tensor([(report.resumed, report.rows) for report in reports])}


def test_two_processes_write_the_table_of_one_and_go_on_where_it_stopped(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [tmp_path / name for name in ("alone.parquet", "alone.csv")]
    shared = [tmp_path / name for name in ("shared.parquet", "shared.csv")]
    listed(tiny_run.folder, *alone)

    def stopped(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recsys.artifacts.targets.write_table", stopped)
        with pytest.raises(KeyboardInterrupt):
            listed(tiny_run.folder, shared[0])
    parts = tmp_path / ".shared.parquet.parts"
    for number in (0, 3, 4):
        (parts / f"part-{number:06d}.arrow").unlink()
    first, second = together(listed, tiny_run.folder, *shared)
    assert [file.read_bytes() for file in shared] == [file.read_bytes() for file in alone]
    users = recsys.load(tiny_run.folder).trained.dataset.num_users
    assert first["counts"].tolist() == second["counts"].tolist() == [[users - 3 * PART, users * 5], [0, users * 5]]
    assert not parts.exists()
