"""Runs whose embeddings are kept in fewer bytes: what is trained is checked, what is kept is what answers."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.artifacts.folder import open_run
from recsys.base.errors import RunError
from recsys.funnel.folder import RANKER, TOWERS, load_run
from recsys.funnel.run import TrainedRun
from recsys.pipeline.at_rest import settled_run
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.publish import train_run
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

SAME = ("retrieval.fit.epochs=1", "ranking.fit.epochs=1")
IDS = [str(user) for user in range(1, 40)]


def _with(tiny_run: TinyRun, dtype: str) -> recsys.RunConfig:
    return tiny_run.config(*SAME, f"retrieval.tower.table_dtype={dtype}", f"ranking.model.table_dtype={dtype}")


@pytest.fixture(scope="module")
def plain(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tiny_run.config(*SAME), tmp_path_factory.mktemp("plain") / "run", base=tiny_run.world)


@pytest.fixture(scope="module", params=["float16", "int8"])
def kept(
    request: pytest.FixtureRequest, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("kept") / "run"
    return request.param, train_run(_with(tiny_run, request.param), folder, base=tiny_run.world)


def test_the_folder_is_smaller_and_its_lists_are_those_of_float32(kept: tuple[str, Path], plain: Path) -> None:
    dtype, folder = kept
    for name in (TOWERS, RANKER):
        small, large = (open_run(run).file(name).stat().st_size for run in (folder, plain))
        assert small < large
    one, other = (recsys.load(run).funnel.recommend(IDS, 20) for run in (folder, plain))
    same = [np.isin(mine, theirs).mean() for mine, theirs in zip(one.rows, other.rows, strict=True)]
    assert np.mean(same) >= {"float16": 0.99, "int8": 0.97}[dtype]
    assert not np.array_equal(one.scores, other.scores)


def test_what_is_kept_answers_is_measured_and_is_kept_again(kept: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = kept
    rec = recsys.load(folder)
    retriever = rec.funnel.retriever
    fresh = retriever.searching(None).model.item_vectors(
        retriever.data.items, retriever.model.embed_content(retriever.data.items)
    )
    np.testing.assert_allclose(retriever.item_vectors, fresh.detach().numpy(), atol=1e-6)
    assert evaluate(rec.trained).result["funnel"]["users"] > 0
    rec.save(tmp_path / "again")
    again = recsys.load(tmp_path / "again").funnel.recommend(IDS, 10)
    mine = rec.funnel.recommend(IDS, 10)
    np.testing.assert_allclose(again.scores, mine.scores, atol=2e-3)


def test_a_training_goes_on_from_it_in_float32(kept: tuple[str, Path], tiny_run: TinyRun, tmp_path: Path) -> None:
    dtype, folder = kept
    source = load_run(open_run(folder), with_optimizers=True)
    assert source.retriever is not None
    assert source.retriever.model.table.weight.dtype == torch.float32
    config = _with(tiny_run, dtype)
    grown = train_run(config, tmp_path / "next", base=tiny_run.world, source_run=folder, stage="retrieval")
    before, after = (load_run(open_run(run)) for run in (folder, grown))
    assert before.retriever is not None
    assert after.retriever is not None
    assert after.retriever.model.table.at_rest is not None
    assert not np.array_equal(before.retriever.item_vectors, after.retriever.item_vectors)


def test_lists_that_change_too_much_are_refused(plain: Path, tiny_run: TinyRun) -> None:
    """A column far from the others takes all the steps of int8; what told the items apart is lost."""
    trained = load_run(open_run(plain), with_optimizers=True)
    assert trained.retriever is not None
    with torch.no_grad():
        trained.retriever.model.table.weight[:, 0] += 500
        trained.retriever.model.table.zero_padding()
    with pytest.raises(RunError, match=r"only 0\.\d+ of the best items are the same as in float32, at least 0\.97"):
        settled_run(replace(trained, config=tiny_run.config(*SAME, "retrieval.tower.table_dtype=int8")))


def test_float32_is_left_as_it_is(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = load_run(open_run(plain))
    with caplog.at_level(logging.INFO):
        assert settled_run(trained) is trained
    assert not caplog.records


def test_rankers_alone_are_compared_by_their_best_rows(tiny_run: TinyRun, plain: Path) -> None:
    trained = load_run(open_run(plain), with_optimizers=True)
    alone: TrainedRun = replace(trained, retriever=None, config=_with(tiny_run, "float16"))
    assert settled_run(alone) is alone
    assert alone.ranker is not None
    for table in nonempty(alone.ranker.tables()):
        assert table.at_rest is not None


def test_the_type_at_rest_is_no_part_of_what_is_learned(tiny_run: TinyRun, tmp_path: Path) -> None:
    """A training that was stopped goes on with another one: its checkpoints are the same training's."""
    first = train_run(tiny_run.config(*SAME), tmp_path / "a", base=tiny_run.world, stage="retrieval")
    second = train_run(_with(tiny_run, "float16"), tmp_path / "b", base=tiny_run.world, stage="retrieval")
    one, other = (load_run(open_run(run)) for run in (first, second))
    assert one.training["retrieval"][0]["loss"] == other.training["retrieval"][0]["loss"]
