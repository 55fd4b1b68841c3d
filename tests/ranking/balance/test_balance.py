"""Balances: schedule, uncertainty, GradNorm and PCGrad against their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.base.errors import ConfigError
from recsys.data.schema import TaskSpec
from recsys.ranking.balance import BalanceConfig, balance_kinds, build_balance
from recsys.ranking.balance.adaptive import GradNorm, Uncertainty, gradient_norm
from recsys.ranking.balance.surgery import project_conflicts
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty

LOSS = LossConfig()
TASKS = (TaskSpec(name="a", weight=2.0), TaskSpec(name="b"), TaskSpec(name="c", kind="regression"))


def balance(kind: str, **keys: Any) -> Any:
    return build_balance(BalanceConfig(kind=kind, **keys), TASKS)


def losses_of(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def dense_gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else (p.grad.to_dense() if p.grad.is_sparse else p.grad.clone())
        for name, p in module.named_parameters()
    }


def test_every_balance_explains_itself() -> None:
    kinds = balance_kinds()
    assert {"static", "schedule", "uncertainty", "gradnorm", "pcgrad", "cagrad", "metabalance"} <= set(kinds)
    assert all(kind.summary for kind in kinds.values())


def test_static_takes_the_tasks_weights_unless_told_otherwise() -> None:
    found = balance("static").total(losses_of({"loss/a": 1.0, "loss/b": 10.0, "loss/c": 100.0, "aux/x": 1000.0}))
    assert float(found.detach()) == 2 + 10 + 100 + 1000
    told = balance("static", weights={"a": 0.5, "c": 0.0})
    assert float(told.total(losses_of({"loss/a": 1.0, "loss/b": 10.0, "loss/c": 100.0})).detach()) == 0.5 + 10


def test_the_schedule_multiplies_by_gamma_every_epoch() -> None:
    found = balance("schedule", gamma={"a": 0.5})
    for epoch in (0, 1, 3):
        found.begin_epoch(epoch)
        assert found.weights() == {"a": 2.0 * 0.5**epoch, "b": 1.0, "c": 1.0}
    again = balance("schedule", gamma={"a": 0.5})
    again.load_state_dict(found.state_dict())
    assert again.weights() == found.weights()


def test_uncertainty_finds_its_optimum_and_may_go_below_zero() -> None:
    found = balance("uncertainty")
    assert isinstance(found, Uncertainty)
    optimiser = torch.optim.Adam(found.parameters(), lr=0.1)
    fixed = {"a": 0.05, "b": 4.0, "c": 0.7}
    for _ in range(300):
        optimiser.zero_grad()
        found.total({f"loss/{name}": torch.tensor(value) for name, value in fixed.items()}).backward()
        optimiser.step()
    expected = [math.log(2 * 0.05), math.log(2 * 4.0), math.log(0.7)]
    torch.testing.assert_close(found.log_variance.detach(), torch.tensor(expected), rtol=1e-3, atol=1e-3)
    assert found.weights()["a"] > 2.0  # up-weighted beyond the fixed weight: nothing clamps s at 0


def test_uncertainty_ignores_a_task_without_rows() -> None:
    found = balance("uncertainty")
    found.total({"loss/a": torch.tensor(0.0), "loss/b": torch.tensor(1.0)}).backward()
    assert float(found.log_variance.grad[0]) == 0.0
    assert float(found.log_variance.grad[1]) == pytest.approx(-0.5)


@pytest.mark.parametrize(("alpha", "slow_task_is_raised"), [(0.0, False), (0.5, False), (1.0, True), (4.0, True)])
def test_gradnorms_step_is_the_gradient_of_its_definition(toy: Toy, alpha: float, slow_task_is_raised: bool) -> None:
    """The closed form against a second-order graph, logarithms of the weights as leaves."""
    ranker, batch = toy.ranker("mmoe"), toy.batch(48)
    lr = 0.1
    gradnorm = build_balance(BalanceConfig(kind="gradnorm", alpha=alpha, lr=lr), toy.tasks)
    assert isinstance(gradnorm, GradNorm)
    gradnorm.first_losses.copy_(torch.tensor([50.0, 50.0, 0.5]))
    losses = list(ranker.losses(batch, LOSS).values())
    log_weights = torch.zeros(3, requires_grad=True)
    layer = ranker.shared_layer()
    norms = torch.stack(
        [
            torch.autograd.grad(log_weight.exp() * loss, layer, create_graph=True)[0].norm()
            for log_weight, loss in zip(log_weights, losses, strict=True)
        ]
    )
    progress = torch.stack(losses).detach() / gradnorm.first_losses
    target = (norms.mean() * (progress / progress.mean()) ** alpha).detach()
    (gradient,) = torch.autograd.grad((norms - target).abs().sum(), log_weights)
    expected = torch.exp(-lr * gradient / norms.detach().mean())
    gradnorm.backward(ranker.losses(batch, LOSS), ranker)
    torch.testing.assert_close(gradnorm.task_weights, expected * 3 / expected.sum(), rtol=1e-4, atol=1e-5)
    assert (gradnorm.weights()["watch"] > 1.0) == slow_task_is_raised


def test_gradnorm_equalises_norms_and_keeps_the_sum(toy: Toy) -> None:
    ranker, batch = toy.ranker("shared_bottom"), toy.batch(48)
    gradnorm = build_balance(BalanceConfig(kind="gradnorm", alpha=0.0, lr=0.05), toy.tasks)

    def spread() -> float:
        weights = gradnorm.weights()
        parts = ranker.losses(batch, LOSS)
        norms = [
            weights[t.name] * float(gradient_norm(parts[f"loss/{t.name}"], ranker.shared_layer())) for t in toy.tasks
        ]
        return max(norms) / min(norms)

    before = spread()
    for _ in range(150):  # weights only: the ranker stays
        gradnorm.backward(ranker.losses(batch, LOSS), ranker)
    assert before > 2
    assert spread() < 1.3
    assert sum(gradnorm.weights().values()) == pytest.approx(3.0, rel=1e-4)


def test_gradnorm_trains_the_ranker_at_the_present_weights(toy: Toy) -> None:
    ranker, batch = toy.ranker("mmoe"), toy.batch(48)
    weights = {"click": 0.5, "conversion": 1.5, "watch": 1.0}
    build_balance(BalanceConfig(kind="gradnorm", weights=weights), toy.tasks).backward(
        ranker.losses(batch, LOSS), ranker
    )
    adaptive = dense_gradients(ranker)
    ranker.zero_grad()
    build_balance(BalanceConfig(kind="static", weights=weights), toy.tasks).backward(ranker.losses(batch, LOSS), ranker)
    for name, grad in nonempty(dense_gradients(ranker).items()):
        torch.testing.assert_close(adaptive[name], grad, rtol=1e-4, atol=1e-6)


def test_adaptive_state_is_saved_whole(toy: Toy) -> None:
    ranker, batch = toy.ranker("mmoe"), toy.batch(48)
    first = build_balance(BalanceConfig(kind="gradnorm"), toy.tasks)
    for _ in range(3):
        first.backward(ranker.losses(batch, LOSS), ranker)
    second = build_balance(BalanceConfig(kind="gradnorm"), toy.tasks)
    second.load_state_dict(first.state_dict())
    for found in (first, second):
        found.backward(ranker.losses(batch, LOSS), ranker)
    assert first.weights() == second.weights()


def test_without_conflict_pcgrad_changes_nothing() -> None:
    gradients = torch.tensor([[1.0, 0.2, 0.0], [0.5, 1.0, 0.1], [0.0, 0.3, 1.0]])
    assert torch.equal(project_conflicts(gradients), gradients)


def test_two_conflicting_tasks_end_without_conflict() -> None:
    gradients = torch.randn(2, 20)
    gradients[1] -= 2 * gradients[0]
    assert float(gradients[0] @ gradients[1]) < 0
    projected = project_conflicts(gradients)
    for own, other in ((0, 1), (1, 0)):
        assert float(projected[own] @ gradients[other]) == pytest.approx(0.0, abs=1e-3)
    g, h = gradients
    torch.testing.assert_close(projected[0], g - (g @ h) / (h @ h) * h, rtol=1e-4, atol=1e-5)


def test_pcgrad_projects_on_the_original_gradients() -> None:
    """Two tasks: projecting the second on the already projected first would change nothing of it."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(project_conflicts(gradients), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))


@pytest.mark.parametrize("kind", ["mmoe", "ple", "single_task", "stem"])
def test_pcgrad_on_agreeing_losses_is_the_plain_sum(toy: Toy, kind: str) -> None:
    """The same loss for every task: no gradients of shared layers can conflict."""
    ranker, batch = toy.ranker(kind), toy.batch(48)

    def losses() -> dict[str, Tensor]:
        same = torch.stack(list(ranker.losses(batch, LOSS).values())).sum()
        return {f"loss/{task.name}": same / 3 for task in toy.tasks}

    found = {}
    for name in ("pcgrad", "static"):
        ranker.zero_grad()
        build_balance(BalanceConfig(kind=name), toy.tasks).backward(losses(), ranker)
        found[name] = dense_gradients(ranker)
    for name, grad in nonempty(found["static"].items()):
        torch.testing.assert_close(found["pcgrad"][name], grad, rtol=1e-4, atol=1e-6)


def test_pcgrad_operates_on_the_trunk_and_leaves_the_rest(toy: Toy) -> None:
    ranker, batch = toy.ranker("shared_bottom", bottom_hidden=(8,)), toy.batch(48)
    trunk = [name for name, _ in ranker.named_parameters() if name.startswith("bottom.") or ".missing" in name]

    def gradients(losses: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
        ranker.zero_grad()
        build_balance(BalanceConfig(kind=kind), toy.tasks).backward(losses, ranker)
        return dense_gradients(ranker)

    def opposed() -> dict[str, Tensor]:
        parts = ranker.losses(batch, LOSS)
        return {"loss/click": parts["loss/click"], "loss/watch": parts["loss/watch"] - 3 * parts["loss/click"]}

    plain, projected = gradients(opposed(), "static"), gradients(opposed(), "pcgrad")
    separate = [gradients({name: opposed()[name]}, "static") for name in ("loss/click", "loss/watch")]
    flat = [torch.cat([part[name].flatten() for name in trunk]) for part in separate]
    assert float(flat[0] @ flat[1]) < 0
    changed = [name for name in plain if not torch.allclose(plain[name], projected[name], rtol=1e-4, atol=1e-6)]
    assert any(name.startswith("bottom.") for name in changed)
    assert not any("table" in name or name.startswith("towers.watch") for name in changed)


def test_names_and_weights_are_checked() -> None:
    with pytest.raises(ConfigError, match="no tasks"):
        balance("static", weights={"z": 1.0})
    with pytest.raises(ConfigError, match="negative"):
        balance("static", weights={"a": -1.0})
    with pytest.raises(ConfigError, match="metabalance, pcgrad, schedule"):
        balance("gradnrom")


def test_auxiliary_losses_reach_parameters_outside_the_ranker(toy: Toy) -> None:
    ranker, batch = toy.ranker("mmoe"), toy.batch(16)
    for kind in nonempty(balance_kinds()):
        outside = nn.Linear(1, 1)
        losses = {**ranker.losses(batch, LOSS), "aux/head": outside(torch.ones(1, 1)).sum()}
        build_balance(BalanceConfig(kind=kind), toy.tasks).backward(losses, ranker)
        assert outside.weight.grad is not None, kind


def test_uncertainty_starts_at_the_fixed_weights_halved_for_regression() -> None:
    found = balance("uncertainty")
    assert found.weights() == {"a": 2.0, "b": 1.0, "c": 0.5}
    losses = losses_of({"loss/a": 3.0, "loss/b": 5.0, "loss/c": 7.0})
    found.total(losses).backward()
    assert [float(loss.grad) for loss in losses.values()] == [2.0, 1.0, 0.5]


def test_gradnorm_leaves_out_tasks_without_rows_and_tasks_without_weight(toy: Toy) -> None:
    """What does not train moves nobody's weight: the others' are those of a training without it."""
    ranker, batch = toy.ranker("mmoe"), toy.batch(48)
    config = BalanceConfig(kind="gradnorm", alpha=1.0, lr=0.1, weights={"click": 1.0, "conversion": 2.0, "watch": 0.0})
    with_it, without = (
        build_balance(config, toy.tasks),
        build_balance(
            BalanceConfig(kind="gradnorm", alpha=1.0, lr=0.1, weights={"click": 1.0, "conversion": 2.0}), toy.tasks[:2]
        ),
    )
    for factor in (1.0, 0.3, 0.2):
        losses = ranker.losses(batch, LOSS)
        losses["loss/click"] = losses["loss/click"] * factor
        with_it.backward(dict(losses), ranker)
        losses = ranker.losses(batch, LOSS)
        losses["loss/click"] = losses["loss/click"] * factor
        without.backward({name: losses[name] for name in ("loss/click", "loss/conversion")}, ranker)
    found, expected = with_it.weights(), without.weights()
    assert found["watch"] == 0.0
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found["click"] != pytest.approx(1.0, rel=1e-3)

    empty = build_balance(BalanceConfig(kind="gradnorm", alpha=1.0, lr=0.1), toy.tasks)
    losses = ranker.losses(batch, LOSS)
    losses["loss/conversion"] = losses["loss/conversion"] * 0.0
    empty.backward(losses, ranker)
    moved = empty.weights()
    assert sum(moved.values()) == pytest.approx(3.0)
    assert moved["click"] / moved["watch"] != pytest.approx(1.0, rel=0.05), "the others go on"
    assert isinstance(empty, GradNorm)
    assert [value > 0 for value in empty.first_losses.tolist()] == [True, False, True]


def test_gradnorm_says_once_that_a_ranker_shares_no_layer(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    shares, alone = toy.ranker("mmoe"), toy.ranker("dupn", frozen=True)
    for ranker, warnings in ((shares, 0), (alone, 1)):
        caplog.clear()
        gradnorm = build_balance(BalanceConfig(kind="gradnorm"), toy.tasks)
        for _ in range(3):
            gradnorm.backward(ranker.losses(toy.batch(24), LOSS), ranker)
        assert len([record for record in caplog.records if "shares no layer" in record.message]) == warnings
