"""`fit`: epochs, averages, modes, early stopping, and stopping on numbers that are not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from recsys.base.errors import ConfigError, RecsysError
from recsys.data.loader import Loader
from recsys.training.log import TrainingLog
from recsys.training.loop import FitOptions, evaluation_mode, fit
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import RuntimeConfig, start_runtime

ROWS = 50


class Line:
    """y = 2 x + 1 on 50 points."""

    def __init__(self) -> None:
        self.x = torch.linspace(-1, 1, ROWS).unsqueeze(1)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[rows], 2 * self.x[rows] + 1


class Training:
    """A model of one weight and everything `fit` needs, counting what happens to it."""

    def __init__(self, lr: float = 0.05, batch_size: int = 8) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.0))
        self.loader = Loader(Line(), torch.arange(ROWS), batch_size, seed=1)
        self.optimizer = Optimizer(self.model, OptimConfig(lr=lr), 10 * len(self.loader))
        self.modes: list[bool] = []
        self.losses: list[tuple[float, int]] = []

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.modes.append(self.model[1].training)
        error = self.model(batch[0]) - batch[1]
        terms = {"loss": error.square().mean(), "absolute": error.abs().mean()}
        self.losses.append((terms["loss"].item(), len(error)))
        return terms

    def fit(self, values: list[float] | None = None, **options: object) -> TrainingLog:
        """Fit; with `values`, the metric of each epoch is scripted."""
        script = iter(values or [])
        self.evaluated: list[tuple[bool, bool]] = []
        self.weights: list[Tensor] = []

        def evaluate() -> Mapping[str, float]:
            self.evaluated.append((self.model.training, torch.is_grad_enabled()))
            self.weights.append(self.model[0].weight.detach().clone())
            return {"auc": next(script)}

        return fit(
            self.step,
            self.loader,
            self.optimizer,
            FitOptions(**options),  # type: ignore[arg-type]
            evaluate=evaluate if values else None,
        )


def test_it_learns_and_counts() -> None:
    training = Training()
    history = training.fit(epochs=30)
    assert training.model[0].weight.item() == pytest.approx(2.0, abs=0.05)
    assert training.model[0].bias.item() == pytest.approx(1.0, abs=0.05)  # type: ignore[union-attr]
    assert [record["epoch"] for record in history.records] == list(range(1, 31))
    assert history.records[-1]["steps"] == 30 * 7
    assert history.records[-1]["loss"] < 0.01 < history.records[0]["loss"]
    assert history.records[0]["rows_per_second"] > 0


def test_records_hold_the_mean_over_rows() -> None:
    training = Training()
    record = training.fit(epochs=1).records[0]
    assert [rows for _, rows in training.losses] == [8] * 6 + [2]
    assert record["loss"] == pytest.approx(sum(loss * rows for loss, rows in training.losses) / ROWS, rel=1e-9)
    assert record["absolute"] > 0


def test_steps_train_and_evaluation_does_not() -> None:
    training = Training()
    training.fit([0.1, 0.2, 0.3], epochs=3)
    assert training.modes == [True] * 21
    assert training.evaluated == [(False, False)] * 3
    assert training.model.training


def test_the_mode_found_is_left_behind() -> None:
    training = Training()
    training.model.eval()
    training.fit(epochs=1)
    assert training.modes == [True] * 7
    assert not training.model.training
    training.model.train()
    with pytest.raises(ZeroDivisionError), evaluation_mode(training.model):
        raise ZeroDivisionError
    assert training.model.training


def test_early_stopping_keeps_the_best_weights() -> None:
    training = Training()
    history = training.fit([0.5, 0.7, 0.6, 0.7, 0.9], epochs=5, metric="auc", patience=2)
    assert (history.best_epoch, history.best, history.stopped_early) == (2, 0.7, True)
    assert len(history.records) == 4
    assert torch.equal(training.model[0].weight, training.weights[1])
    assert not torch.equal(training.weights[1], training.weights[3])


@pytest.mark.parametrize(
    ("values", "options", "best", "epochs"),
    [
        ([0.5, 0.4, 0.6, 0.7], {"greater_is_better": False, "patience": 2}, 2, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.9], {"patience": 0}, 5, 5),
        ([0.5, 0.4, 0.6, 0.1, 0.1], {"patience": 2}, 3, 5),
        ([math.nan, 0.4, math.nan, 0.3, 0.9], {"patience": 2}, 2, 4),
    ],
)
def test_the_best_epoch(values: list[float], options: dict[str, object], best: int, epochs: int) -> None:
    history = Training().fit(values, epochs=5, metric="auc", **options)
    assert (history.best_epoch, len(history.records)) == (best, epochs)
    assert history.best == values[best - 1]


@pytest.mark.parametrize(
    ("metric", "stated", "upwards"),
    [("auc", None, True), ("logloss/click", None, False), ("select_loss", None, False), ("select_loss", True, True)],
)
def test_a_loss_is_to_fall_unless_said_otherwise(metric: str, stated: bool | None, upwards: bool) -> None:
    assert FitOptions(metric=metric, greater_is_better=stated).upwards == upwards


def test_without_a_metric_the_last_weights_stay() -> None:
    training = Training()
    history = training.fit([0.9, 0.1, 0.1, 0.1], epochs=4)
    assert (history.best_epoch, len(history.records)) == (0, 4)
    assert torch.equal(training.model[0].weight, training.weights[-1])


def test_metrics_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r'metric = "ndcg" is not measured; there are: .*auc'):
        Training().fit([0.5], epochs=1, metric="ndcg")
    with pytest.raises(ConfigError, match="needs validation rows"):
        Training().fit(epochs=1, metric="auc")


@pytest.mark.parametrize(("value", "said"), [(math.nan, "loss is nan"), (math.inf, "loss is inf")])
def test_a_loss_that_is_not_finite_stops_training_at_once(value: float, said: str) -> None:
    training = Training()
    honest = training.step

    def step(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        terms = honest(batch)
        return {**terms, "loss": terms["loss"] * value} if len(training.losses) == 10 else terms

    with pytest.raises(RecsysError, match=rf"training stopped at step 10 \(epoch 2\): {said}; lower lr"):
        fit(step, training.loader, training.optimizer, FitOptions(epochs=5))
    assert len(training.losses) == 10


def test_a_balance_may_do_the_backward_pass_itself() -> None:
    training = Training()
    seen: list[list[str]] = []

    def backward(terms: dict[str, Tensor]) -> None:
        seen.append(list(terms))
        (terms["absolute"] * 0).backward()

    start = training.model[0].weight.detach().clone()
    fit(training.step, training.loader, training.optimizer, FitOptions(epochs=1), backward=backward)
    assert seen == [["loss", "absolute"]] * 7
    assert torch.equal(training.model[0].weight, start)


def test_gradients_do_not_add_up_over_steps() -> None:
    training = Training()
    sizes: list[float] = []

    def backward(terms: dict[str, Tensor]) -> None:
        (training.model[0].weight.sum() * 3).backward()
        sizes.append(float(training.model[0].weight.grad))

    fit(training.step, training.loader, training.optimizer, FitOptions(epochs=1), backward=backward)
    assert sizes == [3.0] * 7


def test_epochs_are_json_objects_without_nan() -> None:
    epochs = TrainingLog(records=[{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": math.nan}]).epochs()
    assert json.loads(json.dumps(epochs, allow_nan=False)) == [{"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": None}]


def test_every_epoch_is_described_as_it_is_evaluated() -> None:
    training = Training()
    modes: list[bool] = []

    def describe() -> dict[str, object]:
        modes.append(training.model.training or torch.is_grad_enabled())
        return {"gates": {"epoch": len(modes)}}

    options = FitOptions(epochs=2)
    history = fit(training.step, training.loader, training.optimizer, options, describe=describe)
    assert modes == [False, False]
    assert [(epoch["epoch"], epoch["gates"]) for epoch in history.epochs()] == [(1, {"epoch": 1}), (2, {"epoch": 2})]


def test_reduced_arithmetic_reaches_the_backward_pass_and_no_further() -> None:
    training = Training()
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    seen: list[tuple[str, bool]] = []

    def backward(terms: dict[str, Tensor]) -> None:
        seen.append((switch.fp32_precision, torch.is_autocast_enabled("cpu")))
        terms["loss"].backward()

    threads = torch.get_num_threads()
    before = switch.fp32_precision
    runtime = start_runtime(RuntimeConfig(precision="bf16"), seed=0)
    fit(training.step, training.loader, training.optimizer, FitOptions(epochs=1), backward=backward, runtime=runtime)
    assert seen == [("bf16", True)] * 7
    assert switch.fp32_precision == before
    assert not torch.is_autocast_enabled("cpu")
    torch.set_num_threads(threads)
