"""Three steps of every ranker, balance and optimiser on the probe are those of the CPU, and hardly wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recsys.nn.gates import JointGateConfig
from recsys.ranking.balance import BalanceConfig, balance_kinds, build_balance
from recsys.ranking.losses import LossConfig
from recsys.ranking.ranker import Ranker
from recsys.ranking.requests import RequestBatch, RequestRanker, SelectConfig
from recsys.ranking.step import RankingStep, StepBatch
from recsys.testing.toy import Toy
from recsys.tests.devices.steps import Build, Stage, compare, places
from recsys.tests.support.rankers import GATED, KINDS, MIXED, every_kind, variants
from recsys.training.optim import OptimConfig, Optimizer

SURGERY = "ranking/balance/surgery.py"
WAITING = {"gradnorm": "ranking/balance/adaptive.py", "pcgrad": SURGERY, "cagrad": SURGERY}
"""Balances that decide by the size or the direction of gradients, which the host has to know."""
ONCE = {"schedule": "ranking/balance/fixed.py"}
"""Balances that look at a number once an epoch."""


def training(
    toy: Toy,
    kind: str,
    keys: dict[str, Any] | None = None,
    *,
    balance: str = "static",
    loss: LossConfig | None = None,
    optim: OptimConfig | None = None,
) -> Build:
    """Steps of a ranker as `fit_ranker` makes them."""

    def build(device: torch.device) -> Stage:
        ranker = toy.ranker(kind, **(keys or {}))
        weighed = build_balance(BalanceConfig(kind=balance), toy.tasks)
        parts = torch.nn.ModuleDict({"model": ranker, "balance": weighed})
        optimizer = Optimizer(parts, optim or OptimConfig(lr=0.01), 3)
        optimizer.to(device)
        step = RankingStep(ranker, ranker, weighed, loss or LossConfig(), SelectConfig(), None, optimizer, 0)
        batches = [step.prepare(toy.batch(24, seed)) for seed in range(3)]
        return Stage(optimizer, batches, step, step.backward)

    return build


QUICK = {"mmoe", "ple", "esmm", "dupn"}
"""Kinds that are tried each time: experts, levels of them, a product of tasks, a history of its own."""


def marks(kind: str) -> tuple[pytest.MarkDecorator, ...]:
    return () if kind in QUICK else (pytest.mark.exhaustive,)


OFTEN = {"plain", "gated", "mixed", "experts", "target"}
"""Variants that many rankers have: they are tried on one, the others on all."""
SPECIAL = [
    pytest.param(*variant.values, id=variant.id, marks=pytest.mark.exhaustive)
    for variant in variants()
    if (name := str(variant.id)).partition("-")[2] not in OFTEN and not (name.startswith("stem-"))
]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        *(pytest.param(kind, {}, id=kind, marks=marks(kind)) for kind in KINDS),
        *SPECIAL,
        pytest.param("mmoe", {**GATED, "expert_norm": True, "gate": {"hidden": (4,)}}, id="mmoe-gated"),
        pytest.param("mmoe", MIXED, id="mmoe-mixed"),
        *(
            pytest.param("mmoe", {"input": {"target": {"search": search, "search_events": 2}}}, id=f"target-{search}")
            for search in ("none", "match", "hash")
        ),
    ],
)
def test_every_ranker_steps_as_on_the_cpu(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    crossed = compare(training(toy, kind, keys))
    assert not crossed.waits
    assert not crossed.to_device
    assert not crossed.to_host


@pytest.mark.parametrize("field", ["bit", "vector"])
@pytest.mark.parametrize("sharing", ["private", "shared"])
def test_every_gate_steps_as_on_the_cpu(toy: Toy, field: str, sharing: str) -> None:
    joint = JointGateConfig(enabled=True, bias=True, rank=0).model_dump()
    keys = {"hidden_gate": "sigmoid", "input": {"field_gate": {"kind": field, "sharing": sharing}, "joint_gate": joint}}
    assert not compare(training(toy, "shared_bottom", keys)).to_device


@pytest.mark.parametrize("balance", list(balance_kinds()))
def test_every_balance_steps_as_on_the_cpu(toy: Toy, balance: str) -> None:
    crossed = compare(training(toy, "shared_bottom", balance=balance))
    assert places(crossed.waits) <= {place for kind, place in {**WAITING, **ONCE}.items() if kind == balance}
    if balance not in WAITING:
        assert crossed.waits.total() <= (balance in ONCE)
        assert not crossed.to_device
        assert not crossed.to_host


@pytest.mark.parametrize("table_optimizer", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1, 1e9])
def test_every_optimiser_steps_as_on_the_cpu(toy: Toy, table_optimizer: Any, clip_norm: float) -> None:
    optim = OptimConfig(
        lr=0.01, table_optimizer=table_optimizer, clip_norm=clip_norm, weight_decay=0.1, table_weight_decay=0.1
    )
    crossed = compare(training(toy, "mmoe", optim=optim))
    assert not crossed.waits


def test_every_part_of_the_loss_steps_as_on_the_cpu(toy: Toy) -> None:
    loss = LossConfig.model_validate(
        {
            "kl_bound": ("click", "click", "conversion"),
            "kl_weight": 0.1,
            "positive_weight": {"click": 3.0},
            "huber": 1.0,
        }
    )
    assert not compare(training(toy, "mmoe", loss=loss)).waits


def test_requests_step_as_on_the_cpu(toy: Toy) -> None:
    config = SelectConfig(dropout=0.0, hidden=(6,))

    def build(device: torch.device) -> Stage:
        ranker: Ranker = toy.ranker("mmoe")
        model = RequestRanker(ranker, 3, config.model_copy(update={"tower": False}))
        optimizer = Optimizer(model, OptimConfig(lr=0.01), 3)
        optimizer.to(device)
        step = RankingStep(model, ranker, None, LossConfig(), config, None, optimizer, 0)
        batches = []
        for seed in range(3):
            asked = toy.requests(5, 4, seed)
            opinions = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
            taken = torch.isin(torch.arange(20), torch.tensor([2, 11, 15]))
            requests = RequestBatch(asked, opinions, torch.zeros(20), taken)
            batches.append(replace(step.prepare(toy.batch(16, seed)), asked=requests))
        assert all(isinstance(batch, StepBatch) for batch in batches)
        return Stage(optimizer, batches, step, step.backward)

    crossed = compare(build)
    assert not crossed.waits
    assert not crossed.to_device


@every_kind
def test_no_ranker_is_left_out(toy: Toy, kind: str) -> None:
    assert toy.ranker(kind).kind in KINDS


def test_a_tensor_made_without_its_device_is_found(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: `torch.arange` forgets where its numbers are to be."""
    made = torch.arange
    build = training(toy, "dupn")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "arange", lambda *args, **kwargs: made(*args, **{**kwargs, "device": "cpu"}))
        with pytest.raises(RuntimeError, match=r"met a CPU tensor of shape \[\d+\] on the probe: nn."):
            compare(build)
