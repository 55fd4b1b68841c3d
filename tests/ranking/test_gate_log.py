"""Reading the gates of any mixture: every epoch, on the same validation rows, with a warning that says where."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.dataset import Dataset
from recsys.data.split import Part
from recsys.ranking import gate_log
from recsys.ranking.config import RankingConfig
from recsys.ranking.gate_log import mixture_report, read_gates, warn_of_unused
from recsys.ranking.mixture import MixtureRanker
from recsys.ranking.ranker import build_ranker, ranker_class, ranker_kinds
from recsys.ranking.train import TrainedRanker, build_training, fit_ranker, train_ranker
from recsys.tests.support.shop import Shop
from recsys.training.runtime import Runtime

RUNTIME = Runtime(1)
MIXTURES = [kind for kind, ranker in ranker_kinds().items() if issubclass(ranker, MixtureRanker)]
SMALL: dict[str, Any] = {"expert_hidden": [8], "tower_hidden": [4], "input": {"embedding_dim": 4}}


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    found: Dataset = shop.dataset()
    return found


def train(dataset: Dataset, epochs: int = 2, **model: Any) -> TrainedRanker:
    config = {
        "model": {"kind": "cgc", "task_experts": {"click": 1, "like": 2}, "shared_experts": 2, **SMALL, **model},
        "batch_size": 64,
        "fit": {"epochs": epochs, "metric": ""},
    }
    return train_ranker(dataset, RankingConfig.model_validate(config), RUNTIME, 0)


def fresh(dataset: Dataset, kind: str, **model: Any) -> Any:
    config = ranker_class(kind).Config.model_validate({"kind": kind, **SMALL, **model})
    return build_ranker(config, dataset.layout, dataset.config.tasks, 0)


def test_every_epoch_is_logged_on_validation_rows(dataset: Dataset) -> None:
    trained = train(dataset, epochs=3)
    reports = [detail["gates"] for detail in trained.history.details]
    assert len(reports) == 3
    assert reports[-1] == read_gates(trained.ranker, dataset, dataset.rows(Part.VALID))
    assert reports[0] != reports[-1]
    assert reports[-1] != read_gates(trained.ranker, dataset, dataset.rows(Part.TEST))


def test_weights_are_means_over_the_rows_and_hidden_experts_have_none(dataset: Dataset) -> None:
    ranker, rows = (
        fresh(dataset, "cgc", task_experts={"click": 1, "like": 2}, shared_experts=2),
        dataset.rows(Part.VALID),
    )
    report = read_gates(ranker, dataset, rows)
    assert report["rows"] == len(rows)
    (level,) = report["levels"]
    assert level["experts"] == ["click 0", "like 0", "like 1", "shared 0", "shared 1"]
    means = {name: weights.mean(0).tolist() for name, weights in ranker.gate_weights(dataset.batch(rows)).items()}
    click, like = level["gates"]["click"]["weights"], level["gates"]["like"]["weights"]
    assert click[1:3] == [None, None]
    assert [click[0], *click[3:]] == pytest.approx(means["click"], abs=1e-4)
    assert like[0] is None
    assert like[1:] == pytest.approx(means["like"], abs=1e-4)


@pytest.mark.parametrize("kind", MIXTURES)
def test_every_mixture_can_be_read(dataset: Dataset, kind: str) -> None:
    report = read_gates(fresh(dataset, kind), dataset, dataset.rows(Part.VALID))
    assert len(report["levels"]) == (2 if kind in ("ple", "home") else 1)
    for level in report["levels"]:
        assert len(set(level["experts"])) == len(level["experts"]) == len(level["zeros"])
        assert 0 <= level["similarity"] <= 1
        for gate in level["gates"].values():
            seen = [weight for weight in gate["weights"] if weight is not None]
            assert sum(seen) == pytest.approx(1, abs=1e-3)
            assert 0 <= gate["entropy"] <= gate["entropy_of_mean"] <= 1


def test_a_ranker_without_experts_has_nothing_to_report(dataset: Dataset) -> None:
    config = ranker_class("shared_bottom").Config.model_validate({"input": {"embedding_dim": 4}})
    ranker = build_ranker(config, dataset.layout, dataset.config.tasks, 0)
    assert read_gates(ranker, dataset, dataset.rows(Part.VALID)) == {}
    assert read_gates(fresh(dataset, "mmoe"), dataset, torch.empty(0, dtype=torch.int64)) == {}


def test_a_sample_is_spread_evenly_and_always_the_same(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_log, "ROWS", 10)
    ranker, rows = fresh(dataset, "mmoe"), dataset.rows(Part.TRAIN)
    report = read_gates(ranker, dataset, rows)
    assert report["rows"] == 10
    assert report == read_gates(ranker, dataset, rows)
    chosen = rows[torch.from_numpy(np.linspace(0, len(rows) - 1, 10).astype(int))]
    assert report == read_gates(ranker, dataset, chosen)


def test_dropped_experts_of_training_do_not_blur_the_report(dataset: Dataset) -> None:
    ranker, rows = fresh(dataset, "mmoe", gate={"dropout": 0.5}).train(), dataset.rows(Part.VALID)
    assert read_gates(ranker, dataset, rows) == read_gates(ranker, dataset, rows)
    assert ranker.training


def test_a_training_ends_with_a_warning_that_says_where(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = {"model": {"kind": "ple", **SMALL, "gate": {"bias": True}}, "fit": {"epochs": 1, "metric": ""}}
    section = RankingConfig.model_validate(config)
    training = build_training(dataset, section, RUNTIME, 0)
    ranker: Any = training.ranker
    with torch.no_grad():
        ranker.levels[1].task_gates["like"].layers[0].bias[0] = -20.0
    with caplog.at_level(logging.WARNING):
        fit_ranker(training, section, RUNTIME, 0)
    (message,) = [record.getMessage() for record in caplog.records if "gate" in record.getMessage()]
    for word in ("'like'", "level 2", "'like 0'"):
        assert word in message
    caplog.clear()
    warn_of_unused({})
    assert not caplog.records


def test_a_report_of_rows_that_still_have_gradients_is_the_same(dataset: Dataset) -> None:
    ranker = fresh(dataset, "mmoe").eval()
    rows = dataset.rows(Part.VALID)[:20]
    with_gradients = ranker.batch_mixtures(dataset.batch(rows))
    assert with_gradients[0].weights.requires_grad
    assert mixture_report(with_gradients) == read_gates(ranker, dataset, rows)
