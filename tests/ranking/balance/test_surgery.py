"""CAGrad and MetaBalance: what their papers promise of the step, on gradients and on a ranker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.base.errors import ConfigError
from recsys.ranking.balance import BalanceConfig, build_balance
from recsys.ranking.balance.surgery import CAGrad, MetaBalance, length, worst_case_weights
from recsys.ranking.losses import LossConfig
from recsys.testing.toy import Toy
from recsys.tests.support.nonempty import nonempty


def cagrad(conflict: float) -> CAGrad:
    found = build_balance(BalanceConfig(kind="cagrad", conflict=conflict), Toy.tasks)
    assert isinstance(found, CAGrad)
    return found


def random_gradients(seed: int) -> Tensor:
    """Three tasks of different sizes, of which two pull against each other."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(3, 12, generator=generator) * torch.tensor([[1.0], [3.0], [0.2]])
    gradients[1] -= 2 * gradients[0]
    return gradients


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_cagrads_step_is_the_best_for_the_worst_task_in_its_ball(seed: int, c: float) -> None:
    """No other step of the ball, among thousands, helps the worst-off task more; and the step is in the ball."""
    gradients = random_gradients(seed)
    mean = gradients.mean(0)
    step = cagrad(c).operate(gradients).sum(0) / 3
    radius = c * float(mean.norm())
    assert float((step - mean).norm()) == pytest.approx(radius, rel=1e-3)
    worst = float((gradients @ step).min())
    assert worst >= float((gradients @ mean).min()) - 1e-5
    generator = torch.Generator().manual_seed(seed + 50)
    others = torch.randn(20_000, 12, generator=generator)
    others = mean + radius * others / others.norm(dim=1, keepdim=True)
    assert float((others @ gradients.T).min(1).values.max()) <= worst + 1e-3 * abs(worst) + 1e-4


def test_cagrad_without_a_ball_is_the_plain_sum() -> None:
    gradients = random_gradients(1)
    assert torch.equal(cagrad(0.0).operate(gradients), gradients)


def test_the_dual_of_two_tasks_is_the_one_on_a_grid() -> None:
    gradients = random_gradients(2)[:2].double()
    products = (gradients @ gradients.T).numpy()
    weights = worst_case_weights(products, 0.5)
    shares = np.linspace(0, 1, 2001)
    both = np.stack([shares, 1 - shares])
    values = (both * products.mean(1)[:, None]).sum(0) + 0.5 * np.sqrt(products.mean()) * np.sqrt(
        np.einsum("in,ij,jn->n", both, products, both)
    )
    assert weights[0] == pytest.approx(shares[values.argmin()], abs=2e-3)


def losses_and(toy: Toy, kind: str, **keys: Any) -> tuple[Any, dict[str, Tensor], Any]:
    ranker = toy.ranker("shared_bottom", bottom_hidden=(8,))
    balance = build_balance(BalanceConfig(kind=kind, **keys), toy.tasks)
    balance.meet(ranker)
    return ranker, ranker.losses(toy.batch(64), LossConfig()), balance


def per_task(ranker: nn.Module, losses: dict[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
    found = {}
    for name, loss in losses.items():
        (grad,) = torch.autograd.grad(loss, [parameter], retain_graph=True, allow_unused=True)
        if grad is not None:
            found[name.removeprefix("loss/")] = grad
    return found


def test_cagrad_leaves_towers_and_tables_alone(toy: Toy) -> None:
    ranker, losses, balance = losses_and(toy, "cagrad", conflict=0.9)
    trunk, table = ranker.bottom.last_weight, ranker.tables()[0].weight
    tower = next(iter(ranker.towers["click"].parameters()))
    expected = {id(p): sum(grad.to_dense() for grad in per_task(ranker, losses, p).values()) for p in (table, tower)}
    plain = sum(per_task(ranker, losses, trunk).values())
    balance.backward(losses, ranker)
    for parameter in (table, tower):
        torch.testing.assert_close(parameter.grad.to_dense(), expected[id(parameter)])
    assert not torch.allclose(trunk.grad, plain)


@pytest.mark.parametrize("strategy", ["both", "reduce", "raise"])
def test_metabalance_brings_gradients_to_the_size_of_the_targets(toy: Toy, strategy: str) -> None:
    keys = {"relax": 1.0, "beta": 0.0, "strategy": strategy, "target": "conversion"}
    ranker, losses, balance = losses_and(toy, "metabalance", **keys)
    trunk = ranker.bottom.last_weight
    grads = per_task(ranker, losses, trunk)
    size = float(grads["conversion"].norm())
    assert len({float(grad.norm()) > size for name, grad in grads.items() if name != "conversion"}) == 2
    expected = torch.zeros_like(trunk)
    for name, grad in nonempty(grads.items()):
        larger = float(grad.norm()) > size
        asked = name != "conversion" and (strategy == "both" or larger == (strategy == "reduce"))
        expected += grad * size / grad.norm() if asked else grad
    balance.backward(losses, ranker)
    torch.testing.assert_close(trunk.grad, expected, rtol=1e-4, atol=1e-7)


def test_metabalance_relaxed_to_nothing_is_the_plain_sum(toy: Toy) -> None:
    ranker, losses, balance = losses_and(toy, "metabalance", relax=0.0)
    expected = [sum(grad.to_dense() for grad in per_task(ranker, losses, p).values()) for p in ranker.parameters()]
    balance.backward(losses, ranker)
    for parameter, plain in nonempty(list(zip(ranker.parameters(), expected, strict=True))):
        torch.testing.assert_close(parameter.grad.to_dense(), plain)


def test_metabalance_scales_tables_and_remembers_lengths(toy: Toy) -> None:
    ranker, losses, balance = losses_and(toy, "metabalance", beta=0.5, relax=1.0)
    assert isinstance(balance, MetaBalance)
    place = [id(p) for p in ranker.parameters()].index(id(ranker.tables()[0].weight))
    first = {name: float(length(grad)) for name, grad in per_task(ranker, losses, ranker.tables()[0].weight).items()}
    balance.backward(losses, ranker)
    torch.testing.assert_close(balance.lengths[:, place], torch.tensor(list(first.values())))
    losses = ranker.losses(toy.batch(64, seed=9), LossConfig())
    second = {name: float(length(grad)) for name, grad in per_task(ranker, losses, ranker.tables()[0].weight).items()}
    balance.backward(losses, ranker)
    mean = torch.tensor([0.5 * first[name] + 0.5 * second[name] for name in first])
    torch.testing.assert_close(balance.lengths[:, place], mean)
    again = build_balance(BalanceConfig(kind="metabalance"), toy.tasks)
    again.meet(ranker)
    again.load_state_dict(balance.state_dict())
    assert torch.equal(again.lengths, balance.lengths)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no task"):
        build_balance(BalanceConfig(kind="metabalance", target="buy"), Toy.tasks)
