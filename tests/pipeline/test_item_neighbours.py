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
from recsys.tests.support.nonempty import nonempty

NEIGHBOURS = ("retrieval.tower.neighbours=3", "retrieval.fit.epochs=1", "ranking.fit.epochs=1")


@pytest.fixture(scope="module")
def trained(days: Days, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and one that went on from it."""
    config, folder = days.tiny.config(*NEIGHBOURS), tmp_path_factory.mktemp("neighbours")
    first = train_run(config, folder / "first", base=days.first)
    return first, train_run(config, folder / "second", base=days.second, source_run=first)


def test_a_run_with_neighbours_is_opened_and_continued(trained: tuple[Path, Path]) -> None:
    for run in nonempty(trained):
        retriever = recsys.load(run).trained.retriever
        assert retriever is not None
        assert (retriever.data.items.bags[-1] > 0).any()
        np.testing.assert_allclose(item_vectors(retriever.model, retriever.data), retriever.item_vectors, atol=1e-6)


def test_a_run_is_opened_with_the_neighbours_it_was_trained_with_and_counts_none(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = recsys.load(trained[0]).trained.retriever

    def refuse(*_: object) -> None:
        raise AssertionError("neighbours are counted in a training alone")

    monkeypatch.setattr("recsys.retrieval.towers.windows.item_neighbours", refuse)
    opened = recsys.load(trained[0]).trained.retriever
    assert counted is not None
    assert opened is not None
    before, now = counted.data.near, opened.data.near
    assert before is not None
    assert now is not None
    assert now.shape == (opened.data.num_items, 3)
    assert now.equal(before)


@pytest.mark.exhaustive  # the networks without neighbours are exported in tests/funnel/export
def test_a_run_with_neighbours_is_exported(trained: tuple[Path, Path], tmp_path: Path) -> None:
    assert main(["export", "--run", str(trained[1]), "--format", "onnx", "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out")  # raises where an answer differs
