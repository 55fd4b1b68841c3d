"""A run whose towers hold neighbours: opened again, continued and exported, it answers as when it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recsys
from recsys.cli.main import main
from recsys.funnel.export.predict import check
from recsys.pipeline.publish import train_run
from recsys.retrieval.towers.train import item_vectors
from recsys.tests.support.days import Days

NEIGHBOURS = ("retrieval.tower.neighbours=3", "retrieval.fit.epochs=1", "ranking.fit.epochs=1")


@pytest.mark.slow
def test_a_run_with_neighbours_is_opened_continued_and_exported(days: Days, tmp_path: Path) -> None:
    config = days.tiny.config(*NEIGHBOURS)
    first = train_run(config, tmp_path / "first", base=days.first)
    second = train_run(config, tmp_path / "second", base=days.second, source_run=first)
    for run in (first, second):
        retriever = recsys.load(run).trained.retriever
        assert retriever is not None
        assert (retriever.data.items.bags[-1] > 0).any()
        np.testing.assert_allclose(item_vectors(retriever.model, retriever.data), retriever.item_vectors, atol=1e-6)
    assert main(["export", "--run", str(second), "--format", "onnx", "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out")  # raises where an answer differs
