"""Whole trainings of both stages on the probe: batches, steps, validation, the best epoch and a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recsys.base.device import CPU, device_of
from recsys.ranking.config import RankingConfig
from recsys.ranking.train import TrainedRanker, build_training, fit_ranker
from recsys.retrieval.towers.train import RetrievalConfig, build_towers, fit_towers
from recsys.tests.devices.probe import NAME, probe
from recsys.tests.devices.steps import same
from recsys.tests.support.shop import Shop
from recsys.training.checkpoint import Checkpointer
from recsys.training.log import TrainingLog
from recsys.training.runtime import Runtime

TIMED = {"seconds", "rows_per_second"}
TOWERS = RetrievalConfig.model_validate(
    {
        "loss": "mixed",
        "negatives": 8,
        "tokens": 200,
        "tower": {"dim": 8, "dropout": 0.0, "history": {"encoder": "decayed_mean", "dropout": 0.0}},
        "fit": {"epochs": 3},
    }
)
RANKING = RankingConfig.model_validate(
    {
        "model": {"kind": "mmoe", "expert_hidden": (8,), "tower_hidden": (8,), "dropout": 0.0},
        "fit": {"epochs": 2},
        "optim": {"clip_norm": 1.0},
        "batch_size": 64,
    }
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def there() -> Runtime:
    return Runtime(1, device=torch.device(NAME, 0))


def towers(
    shop: Shop, runtime: Runtime, keeper: Checkpointer | None = None, epochs: int = 3
) -> tuple[nn.Module, TrainingLog]:
    config = TOWERS.model_copy(update={"fit": TOWERS.fit.model_copy(update={"epochs": epochs})})
    training = build_towers(shop.dataset("leave_last"), TOWERS, 0)
    return training.model, fit_towers(training, config, runtime, 0, keeper)


def ranker(shop: Shop, runtime: Runtime) -> TrainedRanker:
    training = build_training(shop.dataset("time"), RANKING, runtime, 0)
    return fit_ranker(training, RANKING, runtime, 0)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def alike(one: nn.Module | dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    found = weights(one) if isinstance(one, nn.Module) else one
    return found.keys() == other.keys() and all(same(tensor, other[name]) for name, tensor in found.items())


def records(history: TrainingLog) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMED} for record in history.records]


def test_towers_trained_there_are_those_trained_here(shop: Shop) -> None:
    model, history = towers(shop, Runtime(1))
    with probe():
        moved, same_history = towers(shop, there())
        assert device_of(moved).type == NAME
        assert alike(moved, weights(model))
    assert records(same_history) == records(history)
    assert history.best_epoch > 0


def test_a_ranker_trained_there_is_the_one_trained_here(shop: Shop) -> None:
    expected = ranker(shop, Runtime(1))
    with probe():
        found = ranker(shop, there())
        assert device_of(found.ranker).type == NAME
        assert alike(found.ranker, weights(expected.ranker))
    assert records(found.history) == records(expected.history)
    for task, calibrator in expected.calibrators.items():
        for name, values in calibrator.to_arrays().items():
            np.testing.assert_array_equal(found.calibrators[task].to_arrays()[name], values)


@pytest.mark.parametrize("first", ["here", "there"])
def test_a_checkpoint_of_one_device_goes_on_on_the_other(shop: Shop, tmp_path: Path, first: str) -> None:
    """Two epochs on one, the third on the other: the weights of a training that never moved."""
    whole, _ = towers(shop, Runtime(1))
    with probe():
        begins, ends = (Runtime(1), there()) if first == "here" else (there(), Runtime(1))
        towers(shop, begins, Checkpointer(tmp_path), epochs=2)
        found, history = towers(shop, ends, Checkpointer(tmp_path, resume=True))
        assert len(history.records) == 3
        assert alike(found, weights(whole))


def test_a_trained_model_comes_back_to_the_cpu(shop: Shop) -> None:
    with probe():
        model, _ = towers(shop, there(), epochs=1)
        kept = weights(model)
        model.to(CPU)
        assert device_of(model) == CPU
    assert alike(model, kept)
