"""What the parameters of every ranker promise: experts, gates, towers and tables are trained, padding is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recsys.ranking.balance import BalanceConfig, balance_kinds, build_balance
from recsys.ranking.layers import Experts
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rankers import (
    KINDS,
    KINDS_WITH_EXPERTS,
    LOSS,
    every_kind,
    every_network,
    every_variant,
    gradient,
    optimisers,
    step,
    total,
    with_experts,
)
from recsys.tests.support.toy import Toy
from recsys.training.runtime import Runtime


@every_variant
def test_every_parameter_gets_a_gradient(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    ranker = toy.ranker(kind, **keys)
    reached: dict[str, bool] = {}
    for seed in range(6):
        ranker.zero_grad()
        total(ranker, toy.batch(64, seed)).backward()
        for name, parameter in ranker.named_parameters():
            reached[name] = reached.get(name, False) or bool(gradient(parameter).any())
    assert [name for name, found in reached.items() if not found] == []


def test_a_ranker_has_experts_exactly_if_its_configuration_sizes_them(toy: Toy) -> None:
    """Keeps `with_experts` honest: no kind with experts escapes the tests of experts and gates."""
    kinds = [kind for kind in KINDS if any(isinstance(module, Experts) for module in toy.ranker(kind).modules())]
    assert kinds == KINDS_WITH_EXPERTS
    assert len(kinds) >= 6


@with_experts
def test_every_single_expert_gets_a_gradient(toy: Toy, kind: str) -> None:
    ranker = toy.ranker(kind)
    total(ranker, toy.batch(128)).backward()
    experts = {name: module for name, module in ranker.named_modules() if isinstance(module, Experts)}
    assert sum(module.num_experts for module in experts.values()) > 1
    for name, module in experts.items():
        for weight in (module.weight, *module.deep_weight):
            assert gradient(weight).view(module.num_experts, -1).any(1).all(), name


@every_kind
def test_bfloat16_arithmetic_is_close_and_its_gradients_are_float32(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind), toy.batch(64)
    exact = ranker.losses(batch, LOSS)
    with Runtime(1, "bf16").arithmetic():
        rounded = ranker.losses(batch, LOSS)
        torch.stack(list(rounded.values())).sum().backward()
    for name, value in nonempty(rounded.items()):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.01, atol=0.01)
    assert any(not torch.equal(rounded[name], value) for name, value in exact.items())
    assert {gradient(parameter).dtype for parameter in ranker.parameters()} == {torch.float32}


@every_variant
def test_no_parameter_is_used_under_two_names(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    ranker = toy.ranker(kind, **keys)
    places = [parameter.data_ptr() for _, parameter in ranker.named_parameters(remove_duplicate=False)]
    assert len(places) == len(set(places))


@every_variant
def test_weights_differ_from_neuron_to_neuron(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    """Constant initialisation leaves a layer with one neuron's worth of width, for ever."""
    ranker = toy.ranker(kind, **keys)
    for _ in range(2):
        for name, parameter in nonempty(ranker.named_parameters()):
            if parameter.dim() < 2:
                continue
            rows = parameter.detach().flatten(0, -2)
            if "table" not in name and parameter.shape[-1] > 1:
                assert len(torch.unique(rows, dim=0)) == len(rows), name
        step(total(ranker, toy.batch(32)), optimisers(ranker, 0.01))


@every_kind
def test_every_tensor_of_the_model_follows_a_move(toy: Toy, kind: str) -> None:
    """A tensor that is neither parameter nor buffer stays behind; on the meta device that is an error."""
    ranker = toy.ranker(kind).to("meta")
    out = ranker(toy.batch(8).to("meta"))
    assert all(logit.device.type == "meta" for logit in out.values())


@every_kind
def test_base_rates_are_where_training_starts(toy: Toy, kind: str) -> None:
    ranker, batch = toy.ranker(kind, input={"init_std": 0.01}), toy.batch(64)
    before = ranker(batch)
    ranker.set_base_rates({"click": 0.01, "conversion": 0.9, "watch": 2.5})
    after = ranker(batch)
    for task, shift in (("click", torch.logit(torch.tensor(0.01))), ("conversion", torch.logit(torch.tensor(0.9)))):
        torch.testing.assert_close(after[task] - before[task], shift.expand(64), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after["watch"] - before["watch"], torch.full((64,), 2.5), rtol=1e-4, atol=1e-4)
    ranker.set_base_rates({"click": 0.0, "conversion": float("nan")})  # unusable rates change nothing
    torch.testing.assert_close(ranker(batch)["click"], after["click"])


@every_kind
@pytest.mark.parametrize("balance", list(balance_kinds()))
def test_every_balance_moves_every_ranker(toy: Toy, kind: str, balance: str) -> None:
    ranker, batch = toy.ranker(kind), toy.batch(48)
    balancer = build_balance(BalanceConfig(kind=balance), toy.tasks)
    balancer.begin_epoch(0)
    value = balancer.backward(ranker.losses(batch, LOSS), ranker)
    assert torch.isfinite(value)
    assert not value.requires_grad
    silent = [name for name, parameter in ranker.named_parameters() if not gradient(parameter).any()]
    assert len(silent) < len(list(ranker.parameters())) / 4  # a dead neuron or two, not a layer of the model
    assert all(torch.isfinite(gradient(parameter)).all() for parameter in ranker.parameters())


@every_variant
def test_gate_weights_are_a_distribution_in_every_row(toy: Toy, kind: str, keys: dict[str, Any]) -> None:
    gates = toy.ranker(kind, **keys).gate_weights(toy.batch(16))
    assert bool(gates) == (kind in KINDS_WITH_EXPERTS)
    for name, weights in gates.items():
        assert weights.shape[0] == 16, name
        assert weights.shape[1] > 1, name
        assert (weights >= 0).all(), name
        torch.testing.assert_close(weights.sum(1), torch.ones(16), rtol=0, atol=1e-6)


@every_network
def test_each_task_has_the_tower_widths_it_was_given(toy: Toy, kind: str) -> None:
    def widths(**towers: tuple[int, ...]) -> list[int]:
        ranker = toy.ranker(kind, towers=towers, tower_hidden=(13,))
        return [module.out_features for module in ranker.modules() if isinstance(module, nn.Linear)]

    everywhere, one_differs = widths(), widths(watch=(11, 13))
    assert 11 not in everywhere
    assert one_differs.count(11) == 1
    assert widths(click=(11, 13), watch=(11, 13)).count(11) == 2


@every_kind
def test_padding_rows_get_no_gradient_that_moves_anything(toy: Toy, kind: str) -> None:
    """Row 0 of each vocabulary is zero before and after training on histories and bags that are not full."""
    ranker, batch = toy.ranker(kind), toy.batch(32)
    assert (batch.query.sequences[0] == 0).any()
    assert (batch.item.bags[0] == 0).any()
    tables = list(ranker.tables())
    before = [table.weight.detach().clone() for table in tables]
    optimiser = optimisers(ranker, 0.01)
    for _ in range(3):
        step(total(ranker, batch), optimiser)
    assert len(tables) > 0
    for table, weight in zip(tables, before, strict=True):
        assert len(table.pad_rows) == len(table.sizes)
        assert not table.weight[table.pad_rows].any()
        assert not torch.equal(table.weight, weight)
