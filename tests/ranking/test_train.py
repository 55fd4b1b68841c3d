"""Training the ranker: both losses fall, the best epoch stays, held-out users never train, and runs repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.artifacts.folder import open_run
from recsys.base.errors import ConfigError
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig
from recsys.data.split import Part
from recsys.funnel.folder import load_run
from recsys.pipeline.requests import select_requests
from recsys.ranking.config import RankingConfig
from recsys.ranking.held import held_out
from recsys.ranking.labels import base_rates, label_values, row_metric
from recsys.ranking.losses import LossConfig, task_loss
from recsys.ranking.requests import SELECT, RequestSet
from recsys.ranking.scoring import row_metrics, score_rows, select_metrics
from recsys.ranking.train import TrainedRanker, build_training, train_ranker
from recsys.tests.support.tiny import TinyRun
from recsys.training.runtime import Runtime

RUNTIME = Runtime(1)


@pytest.fixture(scope="module")
def world(tiny_run: TinyRun) -> tuple[Dataset, RequestSet]:
    """The tiny world, and requests from its trained retriever."""
    stages = load_run(open_run(tiny_run.folder), with_index=False)
    assert stages.retriever is not None
    return stages.dataset, select_requests(stages.dataset, stages.retriever, stages.config)


def ranking(epochs: int = 1, metric: str = "", **keys: Any) -> RankingConfig:
    return RankingConfig.model_validate(
        {
            "model": {"kind": "mmoe", "num_experts": 2, "expert_hidden": [16], "input": {"embedding_dim": 4}},
            "batch_size": 256,
            "select": {"requests_per_step": 8, "hidden": [16], "weight": 1.0, **keys},
            "optim": {"lr": 5e-3, "warmup_steps": 5},
            "fit": {"epochs": epochs, "metric": metric},
            "calibration": {"kind": "platt"},
        }
    )


def train(world: tuple[Dataset, RequestSet], config: RankingConfig, seed: int = 0) -> TrainedRanker:
    return train_ranker(world[0], config, RUNTIME, seed, world[1])


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_logged_rows_and_requests_are_learned_together(world: tuple[Dataset, RequestSet]) -> None:
    trained = train(world, ranking(epochs=4))
    first, last = trained.history.records[0], trained.history.records[-1]
    for term in ("loss/click", "loss/conversion", f"aux/{SELECT}", "loss"):
        assert last[term] < first[term], term


def test_the_same_seed_gives_the_same_ranker(world: tuple[Dataset, RequestSet]) -> None:
    one, again, other = (train(world, ranking(), seed) for seed in (3, 3, 4))
    assert same(one.model, again.model)
    assert not same(one.model, other.model)
    assert one.calibrators.keys() == {"click", "conversion"}


def test_requests_of_held_out_users_never_train(world: tuple[Dataset, RequestSet]) -> None:
    dataset, asked = world
    config = ranking(holdout=0.3)
    held = held_out(dataset.num_users, 0.3, 0)[asked.users]
    assert 0 < held.sum() < len(held)
    first = np.arange(asked.rows.shape[1]) == 0
    taken, prior = asked.taken.copy(), asked.prior.copy()
    taken[held] = first
    prior[held] = prior[held][:, ::-1]
    before = train((dataset, asked), config)
    after = train((dataset, replace(asked, taken=taken, prior=prior)), config)
    assert same(before.model, after.model)
    taken = asked.taken.copy()
    taken[~held] = first
    assert not same(before.model, train((dataset, replace(asked, taken=taken)), config).model)


@pytest.mark.parametrize(("metric", "key", "best"), [("auto", "select_loss", min), ("select_ndcg@10",) * 2 + (max,)])
def test_the_best_epoch_is_the_one_that_stays(
    world: tuple[Dataset, RequestSet], metric: str, key: str, best: Callable[[list[float]], float]
) -> None:
    dataset, asked = world
    trained = train(world, ranking(epochs=5, metric=metric))
    values = [record[key] for record in trained.history.records]
    assert len(set(values)) > 1
    held = asked.take(np.flatnonzero(held_out(dataset.num_users, 0.15, 0)[asked.users]))
    assert select_metrics(trained.model, held)[key] == pytest.approx(best(values), abs=1e-9)


def test_rows_are_scored_alike_in_any_block(world: tuple[Dataset, RequestSet], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = world
    ranker = train(world, ranking()).ranker
    rows = dataset.rows(Part.VALID)
    whole = score_rows(ranker, dataset, rows)
    monkeypatch.setattr("recsys.ranking.scoring.SCORE_ROWS", 37)
    blocks = score_rows(ranker, dataset, rows)
    for name in ("click", "conversion"):
        assert len(whole[name]) == len(rows)
        assert np.allclose(whole[name], blocks[name], atol=1e-5)


def test_metrics_are_over_rows_in_the_sample_space(world: tuple[Dataset, RequestSet]) -> None:
    dataset, _ = world
    ranker = train(world, ranking()).ranker
    rows = dataset.rows(Part.VALID)
    found = row_metrics(ranker, dataset, rows)
    logits = score_rows(ranker, dataset, rows)
    for column, task in enumerate(("click", "conversion")):
        inside = dataset.events.mask[rows.numpy(), column]
        labels, scores = dataset.events.labels[rows.numpy(), column][inside] > 0, logits[task][inside]
        pairs = scores[labels][:, None] - scores[~labels][None, :]
        assert found[f"auc/{task}"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert found["auc"] == pytest.approx((found["auc/click"] + found["auc/conversion"]) / 2)


def test_every_task_starts_at_its_rate(world: tuple[Dataset, RequestSet]) -> None:
    dataset, asked = world
    ranker = build_training(dataset, ranking(), RUNTIME, 0, asked).ranker
    seen = {name: torch.sigmoid(ranker.output_bias(name)).item() for name in ("click", "conversion")}
    train_rows = dataset.rows(Part.TRAIN).numpy()
    for column, name in enumerate(("click", "conversion")):
        inside = dataset.events.mask[train_rows, column]
        assert seen[name] == pytest.approx(dataset.events.labels[train_rows, column][inside].mean(), abs=1e-4)


def test_select_alone_is_learned_without_any_task(world: tuple[Dataset, RequestSet]) -> None:
    dataset, asked = world
    without = replace(dataset, config=dataset.config.model_copy(update={"tasks": ()}))
    trained = train((without, replace(asked, dataset=without)), ranking(epochs=6))
    losses = [record["loss"] for record in trained.history.records]
    assert losses[-1] < losses[0]
    assert trained.calibrators == {}


def table(rows: int = 900, tasks: Sequence[Mapping[str, Any]] = ({"name": "rich"},)) -> Dataset:
    """Rows that name neither users nor items, as of a census; `hours` grow with the age."""
    rng = np.random.default_rng(0)
    age, job = rng.integers(18, 80, rows), rng.choice(["a", "b", "c"], rows)
    rich = (rng.random(rows) < 1 / (1 + np.exp(-(age - 50) / 8 - (job == "a")))).astype(int)
    hours = np.maximum(age + 20 * (job == "a") + rng.normal(0, 8, rows), 0.0)
    frame = pd.DataFrame({"age": age, "job": job, "rich": rich, "hours": hours, "poor": 0})
    features = [{"name": "age", "side": "context", "kind": "numeric"}, {"name": "job", "side": "context"}]
    split = {"kind": "random", "valid": 0.2, "test": 0.2}
    given = {"user": "", "item": "", "time": "", "features": features, "tasks": list(tasks), "split": split}
    return build_dataset(read_tables(frame), DataConfig.model_validate({"events": "e", **given}), 0)


def test_rows_without_users_and_items_train_a_ranker_alone() -> None:
    dataset = table()
    trained = train_ranker(dataset, ranking(epochs=8, metric="auto"), RUNTIME, 0)
    assert trained.model is trained.ranker
    best = max(record["auc"] for record in trained.history.records)
    assert best > 0.8
    assert row_metrics(trained.ranker, dataset, dataset.rows(Part.VALID))["auc"] == pytest.approx(best)


def test_a_regression_task_alone_is_trained_by_its_order_and_measured_in_its_own_unit() -> None:
    dataset = table(tasks=[{"name": "hours", "kind": "regression", "log1p": True}])
    rows = dataset.rows(Part.VALID)
    assert row_metric(dataset, rows) == "spearman"
    trained = train_ranker(dataset, ranking(epochs=8, metric="auto"), RUNTIME, 0)
    best = max(record["spearman"] for record in trained.history.records)
    metrics = row_metrics(trained.ranker, dataset, rows)
    assert metrics["spearman"] == metrics["spearman/hours"] == pytest.approx(best)
    assert best > 0.8
    labels = dataset.events.labels[rows.numpy(), 0]
    hours = np.expm1(score_rows(trained.ranker, dataset, rows)["hours"].astype(np.float64))
    assert metrics["rmse/hours"] == pytest.approx(np.sqrt(np.mean((hours - labels) ** 2)))
    assert metrics["rmse/hours"] < labels.std()
    assert label_values(dataset.config.tasks[0], np.log1p(np.array([3.0]))) == pytest.approx([3.0])


def test_a_regression_task_starts_at_its_mean_label() -> None:
    dataset = table(tasks=[{"name": "hours", "kind": "regression", "log1p": True}])
    labels = dataset.events.labels[dataset.rows(Part.TRAIN).numpy(), 0]
    rates = base_rates(dataset, dataset.rows(Part.TRAIN))
    assert rates == {"hours": pytest.approx(np.log1p(labels).mean(), rel=1e-5)}
    ranker = train_ranker(dataset, ranking(), RUNTIME, 0).ranker
    assert ranker.output_bias("hours").item() == pytest.approx(rates["hours"], abs=0.2)


def test_a_weighted_task_starts_where_its_weighted_loss_is_least_over_constants(
    world: tuple[Dataset, RequestSet],
) -> None:
    """The constant logit of least `task_loss`, found by descent, has the rate that the output starts with."""
    plain = world[0]
    rows = plain.rows(Part.TRAIN)
    drawn = np.random.default_rng(0).uniform(0.0, 3.0, len(plain.events)).astype(np.float32)
    heavy = replace(plain, events=replace(plain.events, weights=np.where(drawn < 0.3, 0.0, drawn).astype(np.float32)))
    for dataset, positive in ((plain, {}), (plain, {"click": 4.0}), (heavy, {}), (heavy, {"click": 4.0})):
        rates, loss = base_rates(dataset, rows, positive), LossConfig(positive_weight=positive)
        batch = dataset.batch(rows)
        for column, task in enumerate(dataset.config.tasks):
            logit = torch.tensor(math.log(rates[task.name]) - math.log1p(-rates[task.name]), requires_grad=True)
            label, mask = batch.labels[:, column], batch.mask[:, column]
            task_loss(logit.expand(len(rows)), label, mask, batch.weight, task, loss).backward()
            assert logit.grad is not None
            assert abs(float(logit.grad)) < 1e-5, (task.name, positive)
    assert base_rates(plain, rows, {"click": 4.0})["click"] > 1.5 * base_rates(plain, rows)["click"]
    config = ranking()
    config = config.model_copy(update={"loss": LossConfig(positive_weight={"click": 4.0})})
    fresh = build_training(plain, config, RUNTIME, 0).ranker
    rate = base_rates(plain, rows, {"click": 4.0})["click"]
    assert torch.sigmoid(fresh.output_bias("click")).item() == pytest.approx(rate, rel=1e-5)


def test_where_a_task_has_one_class_only_the_least_logloss_picks_the_epoch() -> None:
    dataset = table(tasks=[{"name": "poor"}])
    assert row_metric(dataset, dataset.rows(Part.VALID)) == "logloss"
    assert row_metric(dataset, dataset.rows(Part.VALID)[:0]) == ""
    assert row_metric(table(), table().rows(Part.VALID)) == "auc"


def test_a_metric_that_is_not_measured_is_named(world: tuple[Dataset, RequestSet]) -> None:
    with pytest.raises(ConfigError, match=r'"auc/clicks" is not measured; there are: .*auc/click'):
        train(world, ranking(metric="auc/clicks"))


def test_what_positives_weighed_in_training_is_taken_out_of_the_probabilities(
    world: tuple[Dataset, RequestSet],
) -> None:
    dataset, plain = world[0], ranking()
    loss = plain.loss.model_copy(update={"positive_weight": {"click": 10.0}})
    closed = plain.calibration.model_copy(update={"kind": "reweighting"})
    config = plain.model_copy(update={"loss": loss, "calibration": closed})
    trained = train_ranker(dataset, config, RUNTIME, 0)
    rows = dataset.rows(Part.TEST)
    logits = score_rows(trained.ranker, dataset, rows)["click"].astype(np.float64)
    base = float(dataset.events.labels[rows.numpy(), dataset.task_names.index("click")].mean())
    before = float((1 / (1 + np.exp(-logits))).mean())
    assert before > 1.5 * base  # the weights did pull at the network
    assert trained.calibrators["click"].shift == pytest.approx(-np.log(10.0))
    others = [task.name for task in dataset.config.tasks if task.kind == "binary" and task.name != "click"]
    assert all(trained.calibrators[name].shift == 0.0 for name in others)


def test_weights_without_a_closed_form_are_refused_before_anything_is_trained(
    world: tuple[Dataset, RequestSet],
) -> None:
    dataset, plain = world[0], ranking()
    config = plain.model_copy(update={"calibration": plain.calibration.model_copy(update={"kind": "reweighting"})})
    weights = np.linspace(1, 2, len(dataset.events), dtype=np.float32)
    heavy = replace(dataset, events=replace(dataset.events, weights=weights))
    with pytest.raises(ConfigError, match="no closed form"):
        train_ranker(heavy, config, RUNTIME, 0)
    taught = config.model_copy(update={"distil": config.distil.model_copy(update={"share": 0.5})})
    with pytest.raises(ConfigError, match="teachers"):
        train_ranker(dataset, taught, RUNTIME, 0)
