"""STEM: all experts forward, own experts backward; a table per task and a shared one."""

from __future__ import annotations

import torch
from torch import nn

from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy

LOSS = LossConfig()


def touched(module: nn.Module) -> bool:
    grads = [p.grad.to_dense() for p in module.parameters() if p.grad is not None]
    return any(bool(grad.any()) for grad in grads)


def test_every_task_has_tables_of_its_own_beside_the_shared_ones(toy: Toy) -> None:
    ranker = toy.ranker("stem")
    assert len(ranker.tables()) == 4
    assert len(toy.ranker("single_task").tables()) == 3
    assert len(toy.ranker("mmoe").tables()) == 1


def test_a_task_trains_its_own_and_the_shared_part_only(toy: Toy) -> None:
    ranker = toy.ranker("stem")
    ranker.losses(toy.batch(48), LOSS)["loss/click"].backward()
    assert touched(ranker.inputs)
    assert touched(ranker.shared_experts)
    for part in (ranker.task_inputs, ranker.task_experts, ranker.gates, ranker.towers):
        assert touched(part["click"])
        assert not touched(part["watch"])


def test_a_task_still_reads_the_other_tasks_experts(toy: Toy) -> None:
    ranker, batch = toy.ranker("stem"), toy.batch(16)
    before = ranker(batch)["click"]
    with torch.no_grad():
        ranker.task_experts["watch"].bias += 1.0
    assert not torch.allclose(ranker(batch)["click"], before)


def test_the_forward_pass_is_the_plain_mixture(toy: Toy) -> None:
    ranker, batch = toy.ranker("stem"), toy.batch(8)
    (mixture,) = ranker.batch_mixtures(batch)
    torch.testing.assert_close(mixture.mixed, torch.einsum("rse,reh->rsh", mixture.weights, mixture.experts))
    own, shared = ranker.task_inputs["click"](batch).flat(), ranker.inputs(batch).flat()
    gate = torch.softmax((own + shared) @ ranker.gates["click"].layers[0].weight.T, dim=1)
    torch.testing.assert_close(mixture.weights[:, 0], gate)


def test_single_task_shares_nothing(toy: Toy) -> None:
    ranker = toy.ranker("single_task")
    assert not hasattr(ranker, "inputs")
    ranker.losses(toy.batch(48), LOSS)["loss/click"].backward()
    for part in (ranker.task_inputs, ranker.trunks, ranker.towers):
        assert touched(part["click"])
        assert not touched(part["watch"])
