"""Three steps of the towers, with every encoder and every loss, on the probe are those of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.data.split import Part
from recsys.nn.sequence import ENCODERS
from recsys.retrieval.towers import objective
from recsys.retrieval.towers.exposures import Exposures
from recsys.retrieval.towers.step import RetrievalStep
from recsys.retrieval.towers.train import RetrievalConfig, build_two_tower, item_vectors, query_vectors
from recsys.retrieval.towers.windows import TowerData, WindowLoader
from recsys.tests.devices.probe import NAME, probe
from recsys.tests.devices.steps import Build, Stage, compare, places
from recsys.tests.support.shop import Shop
from recsys.training.optim import Optimizer

MINING = {
    *("base/device.py", "base/reservoir.py", "base/topk.py", "retrieval/index/exact.py", "retrieval/index/halves.py"),
    *("retrieval/towers/negatives.py", "retrieval/towers/step.py"),
}
"""Where hard negatives are searched for, which needs the host."""
LOSSES = list(objective.LOSSES)


def section(loss: str = "full_softmax", encoder: str = "mean", **keys: Any) -> RetrievalConfig:
    tower = {"dim": 8, "dropout": 0.0, "history": {"encoder": encoder, "dropout": 0.0, "hidden": 8, "fast": False}}
    optim = {"lr": 0.01, "warmup_steps": 0}
    given = {"loss": loss, "negatives": 6, "tower": {**tower, **keys.pop("tower", {})}, "optim": optim, **keys}
    return RetrievalConfig.model_validate({**given, "positive": "click" if loss == "exposures" else ""})


def training(shop: Shop, config: RetrievalConfig) -> Build:
    """Steps of the towers as `fit_towers` makes them."""
    dataset = shop.dataset("time" if config.loss == "exposures" else "leave_last")
    data = TowerData.of(dataset, config.tower, config.positive)
    exposures = Exposures.of(dataset, data.history, config.positive) if config.loss == "exposures" else None
    loader = WindowLoader(data, Part.VALID, 60, 0, exposures)
    windows = [batch for batch, _ in zip(loader, range(3), strict=False)]

    def build(device: torch.device) -> Stage:
        model = build_two_tower(data, config.tower, 3)
        optimizer = Optimizer(model, config.optim, 3)
        optimizer.to(device)
        step = RetrievalStep(model, data, config, 0, False, exposures, device)
        batches = [step.prepare(batch) for batch in windows]
        return Stage(optimizer, batches, step, lambda terms: terms["loss"].backward())

    return build


@pytest.mark.parametrize("encoder", list(ENCODERS.entries()))
def test_every_encoder_steps_as_on_the_cpu(shop: Shop, encoder: str) -> None:
    crossed = compare(training(shop, section(encoder=encoder, tower={"event_features": ("gap", "request_gap")})))
    looks = 3 if encoder == "dupn" else 0  # once a step: which form of its running sums is stable
    assert places(crossed.waits) == ({"nn/sequence/recurrent.py"} if looks else set())
    assert crossed.waits.total() == looks
    assert not crossed.to_device
    assert not crossed.to_host


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_steps_as_on_the_cpu(shop: Shop, loss: str) -> None:
    crossed = compare(training(shop, section(loss, horizon=1 if loss == "exposures" else 3)))
    assert not crossed.waits
    assert not crossed.to_device
    assert not crossed.to_host


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": "in_batch", "memory": 30, "memory_after": 1},
        {"loss": "mixed", "tower": {"interests": 2, "similarity": "cosine"}},
        {"loss": "estimated", "tower": {"interests": 2}},
        {"loss": "full_softmax", "tower": {"neighbours": 3}},
        {"loss": "mixed", "tower": {"neighbours": 3}},
        {"loss": "full_softmax", "tower": {"interests": 2, "item_hidden": (6,), "activation": "tanh"}},
        {"loss": "sampled", "tower": {"field_gate": {"kind": "bit"}, "hidden_gate": "tanh"}},
    ],
)
def test_options_of_towers_and_losses_step_as_on_the_cpu(shop: Shop, keys: dict[str, Any]) -> None:
    crossed = compare(training(shop, section(**keys)))
    assert not crossed.waits
    assert not crossed.to_device


def test_hard_negatives_are_the_cpus_and_only_their_search_waits(shop: Shop) -> None:
    crossed = compare(training(shop, section("mixed", hard_negatives=3, hard_refresh=2)))
    assert places(crossed.waits) <= MINING
    assert places(crossed.to_host | crossed.to_device) <= MINING


def test_ids_are_hidden_on_the_device_without_a_wait(shop: Shop) -> None:
    """The draw is the device's own, as dropout's is: on the probe the CPU's generator."""
    crossed = compare(training(shop, section("mixed", tower={"id_dropout": 0.5})))
    assert not crossed.waits


def test_a_tensor_made_without_its_device_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: `torch.arange` forgets where its numbers are to be."""
    made, build = torch.arange, training(shop, section("mixed"))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "arange", lambda *args, **kwargs: made(*args, **{**kwargs, "device": "cpu"}))
        with pytest.raises(RuntimeError, match=r"met a CPU tensor of shape \[\d+\]"):
            compare(build)


def test_vectors_of_items_and_users_leave_by_one_copy_a_block(shop: Shop) -> None:
    config = section(encoder="decayed_mean")
    data = TowerData.of(shop.dataset("leave_last"), config.tower, "")
    model, users = build_two_tower(data, config.tower, 3), shop.dataset("leave_last").events.users[:40]
    expected = item_vectors(model, data), query_vectors(model, data, users, data.ends(Part.VALID)[users])
    with probe() as crossings:
        model.to(torch.device(NAME, 0))
        crossings.clear()
        found = item_vectors(model, data), query_vectors(model, data, users, data.ends(Part.VALID)[users])
        assert crossings.to_host.total() == crossings.waits.total() == 2
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))
