"""A run answers on another device as on the CPU, and one that asks for a GPU that is not there says so."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.device import CPU, kept_device
from recsys.base.errors import ConfigError
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.funnel.funnel import Funnel
from recsys.ranking.scoring import row_metrics
from recsys.retrieval.index import ExactIndex, index_device, on_device
from recsys.retrieval.towers.train import validation_metrics
from recsys.tests.devices.probe import NAME, probe
from recsys.tests.support.tiny import TinyRun

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_answers_and_metrics_of_another_device_are_those_of_the_cpu(tiny_run: TinyRun) -> None:
    trained = load_run(open_run(tiny_run.folder), with_index=False)
    assert trained.retriever is not None
    assert trained.ranker is not None
    retriever, rows, six = trained.retriever, trained.dataset.rows(Part.VALID), np.arange(6)
    users = [*list(trained.dataset.user_rows)[:6], "nobody"]
    answers = Funnel(trained).recommend(users, 7)
    metrics = validation_metrics(retriever.model, retriever.data), row_metrics(trained.ranker, trained.dataset, rows)
    with probe():
        trained.to(torch.device(NAME, 0))
        moved = Funnel(trained).recommend(users, 7)
        again = validation_metrics(retriever.model, retriever.data), row_metrics(trained.ranker, trained.dataset, rows)
        index = on_device(ExactIndex(retriever.item_vectors), torch.device(NAME, 0))
        assert isinstance(index, ExactIndex)
        queries, histories = retriever.queries(six, Part.VALID), retriever.histories(six, Part.VALID)
        searched = retriever.searching(index).propose("two_tower", queries, histories, 9)
        assert index.proofs.asked == 6
    np.testing.assert_array_equal(moved.rows, answers.rows)
    np.testing.assert_array_equal(moved.scores, answers.scores)
    np.testing.assert_array_equal(searched, retriever.searching(None).propose("two_tower", queries, histories, 9))
    assert again == metrics


@without_gpu
def test_a_device_that_is_asked_for_must_be_there(tiny_run: TinyRun) -> None:
    with pytest.raises(ConfigError, match=r'device = "cuda" needs a GPU'):
        load_run(open_run(tiny_run.folder), device="cuda")
    assert load_run(open_run(tiny_run.folder), device="auto").model is not None


@without_gpu
def test_a_stored_device_that_is_not_there_is_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert kept_device("cuda:3", "the run") == CPU
    assert 'the run: device = "cuda:3" is not there; the CPU is used' in caplog.text


@without_gpu
def test_auto_takes_no_gpu_for_a_small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.retrieval.index.device.kept_device", lambda name, _: torch.device("cuda", 0))
    assert index_device("auto", 99_999) == CPU
    assert index_device("auto", 100_000).type == index_device("cuda", 5).type == "cuda"


@without_gpu
def test_a_training_that_asks_for_a_gpu_ends_with_one_sentence(tiny_run: TinyRun, tmp_path: Path) -> None:
    from recsys.pipeline.publish import train_run

    with pytest.raises(ConfigError, match=r'set device = "cpu" or "auto"'):
        train_run(tiny_run.config("runtime.device=cuda"), tmp_path / "run", base=tiny_run.world)
    assert not (tmp_path / "run").exists()
