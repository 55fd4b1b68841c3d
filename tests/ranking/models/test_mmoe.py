"""MoE and MMoE: gates, degenerate cases that must equal simpler models, who gets whose gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.nn.split import SplitInput
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

LOSS = LossConfig()


def copy(source: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


def rows_of(toy: Toy, ranker: Any, rows: int = 16) -> SplitInput:
    return SplitInput.of(torch.randn(rows, ranker.width))


def test_the_mixture_is_the_papers_formula(toy: Toy) -> None:
    ranker = toy.ranker("mmoe", num_experts=3, expert_hidden=(6,))
    x = torch.randn(5, ranker.width)
    out = ranker.logits(SplitInput.of(x))
    for task in ("click", "watch"):
        gate = torch.softmax(x @ ranker.gates[task].layers[0].weight.T, dim=1)
        experts = torch.relu(x @ ranker.experts.weight.T + ranker.experts.bias).view(5, 3, 6)
        mixed = sum(gate[:, i : i + 1] * experts[:, i] for i in range(3))
        torch.testing.assert_close(out[task], ranker.towers[task](mixed), rtol=1e-5, atol=1e-5)


def test_one_expert_is_a_shared_bottom(toy: Toy) -> None:
    mmoe = toy.ranker("mmoe", num_experts=1, expert_hidden=(10,))
    bottom = toy.ranker("shared_bottom", bottom_hidden=(10,))
    copy(mmoe.experts.weight, bottom.bottom[0].weight)
    copy(mmoe.experts.bias, bottom.bottom[0].bias)
    bottom.towers.load_state_dict(mmoe.towers.state_dict())
    bottom.inputs.load_state_dict(mmoe.inputs.state_dict())
    batch = toy.batch(16)
    for task, logit in bottom(batch).items():
        torch.testing.assert_close(mmoe(batch)[task], logit, rtol=1e-6, atol=1e-6)
    torch.stack(list(mmoe.losses(batch, LOSS).values())).sum().backward()
    assert all(not parameter.grad.any() for parameter in mmoe.gates.parameters())


def test_tied_gates_make_mmoe_the_one_gate_model(toy: Toy) -> None:
    moe, mmoe = toy.ranker("moe"), toy.ranker("mmoe")
    mmoe.inputs.load_state_dict(moe.inputs.state_dict())
    mmoe.experts.load_state_dict(moe.experts.state_dict())
    mmoe.towers.load_state_dict(moe.towers.state_dict())
    for gate in mmoe.gates.values():
        gate.load_state_dict(moe.gate.state_dict())
    batch = toy.batch(16)
    for task, logit in nonempty(moe(batch).items()):
        torch.testing.assert_close(mmoe(batch)[task], logit, rtol=1e-6, atol=1e-6)


def test_with_one_task_the_two_have_the_same_parameters(toy: Toy) -> None:
    one = toy.tasks[:1]
    moe, mmoe = toy.ranker("moe", tasks=one), toy.ranker("mmoe", tasks=one)
    sizes = [sorted(tuple(p.shape) for p in ranker.parameters()) for ranker in (moe, mmoe)]
    assert sizes[0] == sizes[1]
    state = {name.replace("gate.", "gates.click.", 1): value for name, value in moe.state_dict().items()}
    mmoe.load_state_dict(state)
    batch = toy.batch(16)
    torch.testing.assert_close(mmoe(batch)["click"], moe(batch)["click"])


def test_permuting_experts_with_their_gate_rows_changes_nothing(toy: Toy) -> None:
    ranker = toy.ranker("mmoe", num_experts=5, expert_hidden=(6,))
    x = rows_of(toy, ranker)
    before = ranker.logits(x)
    order = torch.tensor([3, 0, 4, 1, 2])
    copy(ranker.experts.weight.view(5, 6, -1)[order].reshape(30, -1).clone(), ranker.experts.weight)
    copy(ranker.experts.bias.view(5, 6)[order].flatten().clone(), ranker.experts.bias)
    for gate in ranker.gates.values():
        copy(gate.layers[0].weight[order].clone(), gate.layers[0].weight)
    for task, logit in nonempty(ranker.logits(x).items()):
        torch.testing.assert_close(logit, before[task], rtol=1e-5, atol=1e-5)


def test_gradients_go_where_the_paper_says(toy: Toy) -> None:
    batch = toy.batch(64)
    for task in ("click", "conversion", "watch"):
        ranker = toy.ranker("mmoe", num_experts=4)
        ranker.losses(batch, LOSS)[f"loss/{task}"].backward()
        per_expert = ranker.experts.weight.grad.view(4, -1)
        assert per_expert.any(1).all(), "every expert learns from every task"
        for other, gate in ranker.gates.items():
            grad = gate.layers[0].weight.grad
            assert (grad is not None and bool(grad.any())) == (other == task)


def test_every_gate_is_a_parameter_and_moves(toy: Toy) -> None:
    ranker = toy.ranker("mmoe", gate={"bias": True})
    named = dict(ranker.named_parameters())
    before = {name: value.detach().clone() for name, value in named.items() if name.startswith("gates.")}
    assert sorted(before) == [
        f"gates.{t}.layers.0.{p}" for t in ("click", "conversion", "watch") for p in ("bias", "weight")
    ]
    optimiser = torch.optim.SGD([value for name, value in named.items() if "table" not in name], lr=0.1)
    torch.stack(list(ranker.losses(toy.batch(32), LOSS).values())).sum().backward()
    optimiser.step()
    assert all(not torch.equal(old, named[name]) for name, old in before.items())


@pytest.mark.parametrize("bias", [False, True])
def test_the_parameter_count_is_the_papers(toy: Toy, bias: bool) -> None:
    ranker = toy.ranker("mmoe", num_experts=8, expert_hidden=(16,), tower_hidden=(8,), gate={"bias": bias})
    width, tasks = ranker.width, 3
    expected = 8 * (width * 16 + 16) + tasks * 8 * width + tasks * 8 * bias + tasks * (16 * 8 + 8 + 8 + 1)
    network = [p for name, p in ranker.named_parameters() if not name.startswith("inputs.")]
    assert sum(p.numel() for p in network) == expected


def test_gates_are_named_by_task_and_moe_has_one(toy: Toy) -> None:
    batch = toy.batch(6)
    weights = toy.ranker("mmoe", num_experts=4).gate_weights(batch)
    assert list(weights) == ["click", "conversion", "watch"]
    assert all(gate.shape == (6, 4) for gate in weights.values())
    assert [gate.shape for gate in toy.ranker("moe", num_experts=4).gate_weights(batch).values()] == [(6, 4)]
    assert toy.ranker("shared_bottom").gate_weights(batch) == {}


def test_the_gate_depends_on_the_row(toy: Toy) -> None:
    weights = toy.ranker("mmoe").gate_weights(toy.batch(16))["click"]
    assert float(weights.std(0).mean().detach()) > 1e-3
