"""What the probe proves, on a GPU: `pytest -m gpu` on a machine with one, and a skip with its reason elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recsys.base.device import CPU, device_of
from recsys.data.build import load_dataset
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.sequence import ENCODERS
from recsys.pipeline.evaluate import evaluate
from recsys.pipeline.train import train as train_run
from recsys.ranking.balance import balance_kinds
from recsys.retrieval.index import ExactIndex
from recsys.retrieval.towers import objective
from recsys.testing.toy import Toy
from recsys.tests.devices import test_fit, test_ranker_steps, test_tower_steps
from recsys.tests.devices.steps import Build, take
from recsys.tests.support.rankers import KINDS
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun
from recsys.training.checkpoint import Checkpointer
from recsys.training.log import TrainingLog
from recsys.training.optim import OptimConfig, Optimizer
from recsys.training.runtime import Runtime, RuntimeConfig, start_runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

WHERE = "cuda"
LOSSES = list(objective.LOSSES)


def device() -> torch.device:
    return torch.device(WHERE, 0)


def compare(build: Build, tolerance: float = 1e-5) -> None:
    """Three steps here and there agree in every loss and weight, relative to the largest entry of each."""
    expected, found = take(build).tensors, take(build, device()).tensors
    assert found.keys() == expected.keys()
    # Adam divides by the root of a gradient's square, so that a weight whose gradient is all rounding is moved at will.
    losses = {name: tensor for name, tensor in expected.items() if name.startswith("loss")}
    assert losses
    for name, tensor in losses.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_ranker(toy: Toy, kind: str) -> None:
    compare(test_ranker_steps.training(toy, kind))


@pytest.mark.parametrize("balance", list(balance_kinds()))
def test_every_balance(toy: Toy, balance: str) -> None:
    compare(test_ranker_steps.training(toy, "shared_bottom", balance=balance))


@pytest.mark.parametrize("table_optimizer", ["adam", "rowwise_adagrad"])
def test_every_optimiser(toy: Toy, table_optimizer: Any) -> None:
    optim = OptimConfig(lr=0.01, table_optimizer=table_optimizer, clip_norm=0.1, weight_decay=0.1)
    compare(test_ranker_steps.training(toy, "mmoe", optim=optim))


@pytest.mark.parametrize("encoder", list(ENCODERS.entries()))
def test_every_encoder(shop: Shop, encoder: str) -> None:
    compare(test_tower_steps.training(shop, test_tower_steps.section(encoder=encoder)), 1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_tower_loss(shop: Shop, loss: str) -> None:
    compare(test_tower_steps.training(shop, test_tower_steps.section(loss)))


def towers(
    shop: Shop, runtime: Runtime, epochs: int, keeper: Checkpointer | None = None
) -> tuple[nn.Module, TrainingLog]:
    return test_fit.towers(shop, runtime, keeper, epochs)


def test_fifty_steps_lose_what_they_lose_on_the_cpu(shop: Shop) -> None:
    _, here = towers(shop, Runtime(1), 18)
    _, there = towers(shop, Runtime(1, device=device()), 18)
    assert here.records[-1]["steps"] >= 50
    for one, other in zip(here.records, there.records, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 1e-2), ("bf16", 1e-2)])
def test_rounded_products_lose_nearly_the_same(shop: Shop, precision: Any, tolerance: float) -> None:
    _, here = towers(shop, Runtime(1), 2)
    _, there = towers(shop, Runtime(1, precision, device()), 2)
    assert there.records[0]["loss"] == pytest.approx(here.records[0]["loss"], rel=tolerance)


def test_deterministic_runs_are_equal_and_go_on_equal(shop: Shop, tmp_path: Path) -> None:
    config = RuntimeConfig(threads=1, device=WHERE, deterministic=True)
    try:
        whole, _ = towers(shop, start_runtime(config, 0), 3)
        again, _ = towers(shop, start_runtime(config, 0), 3)
        towers(shop, start_runtime(config, 0), 2, Checkpointer(tmp_path))
        resumed, _ = towers(shop, start_runtime(config, 0), 3, Checkpointer(tmp_path, resume=True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert test_fit.alike(again, test_fit.weights(whole))
    assert test_fit.alike(resumed, test_fit.weights(whole))


@pytest.mark.parametrize("first", ["here", "there"])
def test_a_checkpoint_of_one_device_goes_on_on_the_other(shop: Shop, tmp_path: Path, first: str) -> None:
    both = Runtime(1), Runtime(1, device=device())
    begins, ends = both if first == "here" else both[::-1]
    towers(shop, begins, 2, Checkpointer(tmp_path))
    _, history = towers(shop, ends, 3, Checkpointer(tmp_path, resume=True))
    _, whole = towers(shop, Runtime(1), 3)
    assert history.records[-1]["loss"] == pytest.approx(whole.records[-1]["loss"], rel=1e-3)


def test_a_step_takes_little_more_memory_than_weights_and_moments(toy: Toy) -> None:
    """A table of a million rows of 64 with Adam: weights, two moments and a count of steps, and a batch."""
    rows, width = 1_000_000, 64
    table = EmbeddingTable({"id": rows}, width)
    optimizer = Optimizer(table, OptimConfig(), 10)
    optimizer.to(device())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        table(torch.randint(1, rows, (4096,), device=device())).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.cuda.max_memory_allocated() <= 1.2 * 4 * rows * (3 * width + 1)


def test_the_index_finds_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    items, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (50_000, 300))
    items[1000:1400] = items[1000]
    queries[0] = items[1000]
    here, there = ExactIndex(items), ExactIndex(items, device())
    np.testing.assert_array_equal(np.sort(there.search(queries, 50).rows), np.sort(here.search(queries, 50).rows))
    assert there.proofs.share <= 0.02


def test_a_whole_run_is_as_good(tiny_run: TinyRun) -> None:
    """NDCG of a run trained on the GPU lies in the interval of the one trained on the CPU."""
    found = {}
    for where in ("cpu", WHERE):
        config = tiny_run.config(f"runtime.device={where}")
        trained = train_run(load_dataset(config.data, tiny_run.world, config.seed), config)
        assert trained.ranker is not None
        assert device_of(trained.ranker) == CPU, "what is returned answers anywhere"
        found[where] = evaluate(trained, "funnel").result["funnel"]
    low, high = found["cpu"]["ndcg@5_ci"]
    assert low <= found[WHERE]["ndcg@5"] <= high
