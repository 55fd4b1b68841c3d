"""The optimiser of a whole model: dense AdamW, tables, schedule, clipping, and its state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from recsys.base.errors import RecsysError, RunError
from recsys.nn.embedding import EmbeddingTable
from recsys.training.optim import OptimConfig, Optimizer, lr_factor


class Net(nn.Module):
    """A table and a linear layer."""

    def __init__(self, users: int = 20, outputs: int = 2) -> None:
        super().__init__()
        self.table = EmbeddingTable({"user": users, "item": 30}, 4, std=0.3)
        self.linear = nn.Linear(8, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.linear(self.table(rows).flatten(1))
        return out


def net(**sizes: int) -> Net:
    torch.manual_seed(2)
    return Net(**sizes)


def batch(seed: int, users: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randint(1, 20, (64,), generator=generator), torch.randint(1, 30, (64,), generator=generator) + users], 1
    )


def train(model: Net, optimizer: Optimizer, seeds: range, users: int = 20) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        model(batch(seed, users)).square().mean().backward()
        optimizer.step()


def test_dense_parameters_follow_adamw_with_decay_on_matrices_only() -> None:
    model, twin = net(), net()
    optimizer = Optimizer(model, OptimConfig(lr=0.01, weight_decay=0.1), 10)
    reference = torch.optim.AdamW(
        [{"params": [twin.linear.weight], "weight_decay": 0.1}, {"params": [twin.linear.bias], "weight_decay": 0.0}],
        lr=0.01,
    )
    for seed in range(5):
        model(batch(seed)).square().mean().backward()
        twin.linear.weight.grad, twin.linear.bias.grad = model.linear.weight.grad, model.linear.bias.grad
        optimizer.step()
        reference.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.linear.weight, twin.linear.weight)
    torch.testing.assert_close(model.linear.bias, twin.linear.bias)


def test_training_lowers_the_loss_through_both_kinds_of_parameters() -> None:
    model = net()
    before = model.table.weight.detach().clone()
    loss = model(batch(0)).square().mean().item()
    train(model, Optimizer(model, OptimConfig(lr=0.01), 40), range(40))
    assert model(batch(0)).square().mean().item() < 0.2 * loss
    moved = (model.table.weight != before).any(1)
    assert moved[torch.unique(torch.cat([batch(s) for s in range(40)]))].all()


def test_tables_have_a_rate_of_their_own() -> None:
    model = net()
    before = model.table.weight.detach().clone()
    train(model, Optimizer(model, OptimConfig(lr=1e-9, table_lr=0.1), 1), range(1))
    rows = torch.unique(batch(0))
    torch.testing.assert_close(
        (model.table.weight - before)[rows].abs(), torch.full((len(rows), 4), 0.1), rtol=0.05, atol=0
    )
    torch.testing.assert_close(model.linear.weight, net().linear.weight, rtol=0, atol=1e-7)


def test_schedule() -> None:
    config = OptimConfig(warmup_steps=4, schedule="cosine", final_fraction=0.2)
    factors = [lr_factor(config, step, 44) for step in range(50)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[24] == pytest.approx(0.6)
    assert all(a > b for a, b in itertools.pairwise(factors[4:44]))
    assert factors[44:] == [pytest.approx(0.2)] * 6
    constant = OptimConfig(warmup_steps=2)
    assert [lr_factor(constant, step, 20) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert lr_factor(constant, 0, 9) == 1.0  # a warm-up takes no more than a tenth of the steps


def test_the_schedule_reaches_dense_parameters_and_tables() -> None:
    """With constant gradients Adam moves by the learning rate itself."""
    model = net()
    optimizer = Optimizer(model, OptimConfig(lr=0.1, warmup_steps=4), 40)
    for expected in (0.025, 0.05, 0.075, 0.1, 0.1):
        before = [model.table.weight[3].detach().clone(), model.linear.bias.detach().clone()]
        (model.table(torch.tensor([3])).sum() + model.linear.bias.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        for old, new in zip(before, [model.table.weight[3], model.linear.bias], strict=True):
            torch.testing.assert_close(old - new, torch.full_like(old, expected), rtol=1e-3, atol=0)


def test_clipping_is_by_the_norm_of_the_dense_gradient() -> None:
    model, twin = net(), net()
    rows = torch.cat([batch(0), torch.tensor([[0, 20]] * 8)])  # padding rows have no part in the norm
    (model(rows).square().sum() * 100).backward()
    whole = model.table.weight.grad.to_dense()  # type: ignore[union-attr]
    whole[[0, 20]] = 0.0
    norm = math.sqrt(sum(float(g.square().sum()) for g in (whole, model.linear.weight.grad, model.linear.bias.grad)))
    assert norm > 10
    # the states of the first step keep the size of the gradient, which the steps themselves do not
    clipped = Optimizer(model, OptimConfig(clip_norm=1.0, table_optimizer="rowwise_adagrad"), 1)
    clipped.step()
    state = clipped.state_dict()
    squares = torch.cat([state["table/table/user/square"], state["table/table/item/square"]])
    torch.testing.assert_close(squares, (whole / norm).square().mean(1), rtol=1e-4, atol=1e-9)
    (twin(rows).square().sum() * 100).backward()
    torch.testing.assert_close(
        state["dense/linear.bias/exp_avg"], twin.linear.bias.grad / norm * 0.1, rtol=1e-4, atol=0
    )


def test_small_gradients_are_not_clipped() -> None:
    model, twin = net(), net()
    train(model, Optimizer(model, OptimConfig(clip_norm=1e6), 3), range(3))
    train(twin, Optimizer(twin, OptimConfig(), 3), range(3))
    assert torch.equal(model.table.weight, twin.table.weight)
    assert torch.equal(model.linear.weight, twin.linear.weight)


def test_a_gradient_that_is_not_finite_stops_a_clipped_step() -> None:
    model = net()
    (model(batch(0)).sum() * math.inf).backward()
    with pytest.raises(RecsysError, match=r"the gradient is .* at step 1"):
        Optimizer(model, OptimConfig(clip_norm=1.0), 1).step()


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
def test_state_continues_exactly_through_safetensors(kind: str) -> None:
    config = OptimConfig(lr=0.01, schedule="cosine", warmup_steps=3, table_optimizer=kind, clip_norm=0.5)  # type: ignore[arg-type]
    model = net()
    train(model, Optimizer(model, config, 30), range(12))
    stopped = net()
    optimizer = Optimizer(stopped, config, 30)
    train(stopped, optimizer, range(5))
    state = load(save(optimizer.state_dict()))
    resumed = Optimizer(stopped, config, 30)
    resumed.load_state_dict(state)
    train(stopped, resumed, range(5, 12))
    assert torch.equal(stopped.table.weight, model.table.weight)
    assert torch.equal(stopped.linear.weight, model.linear.weight)


def test_the_state_shares_no_memory_with_the_optimiser() -> None:
    model = net()
    optimizer = Optimizer(model, OptimConfig(), 4)
    train(model, optimizer, range(2))
    state = optimizer.state_dict()
    copy = {name: tensor.clone() for name, tensor in state.items()}
    train(model, optimizer, range(2, 4))
    assert all(torch.equal(state[name], copy[name]) for name in state)


def test_warm_start_carries_moments_into_grown_vocabularies_under_a_new_schedule() -> None:
    config = OptimConfig(schedule="cosine")
    model = net()
    optimizer = Optimizer(model, config, 4)
    train(model, optimizer, range(4))
    grown = net(users=26)
    again = Optimizer(grown, config, 4)
    again.warm_start(optimizer.state_dict())
    assert again.lr == config.lr
    old, new = optimizer.state_dict(), again.state_dict()
    assert torch.equal(new["dense/linear.weight/exp_avg"], old["dense/linear.weight/exp_avg"])
    assert torch.equal(new["table/table/item/mean"], old["table/table/item/mean"])
    assert torch.equal(new["table/table/user/steps"][:20], old["table/table/user/steps"])
    assert not new["table/table/user/steps"][20:].any()
    train(grown, again, range(2), users=26)
    with pytest.raises(RunError, match="vocabulary"):
        Optimizer(net(users=26), config, 4).load_state_dict(old)


def test_state_of_another_model_is_refused() -> None:
    model = net()
    optimizer = Optimizer(model, OptimConfig(), 4)
    train(model, optimizer, range(1))
    for load_state in (Optimizer.load_state_dict, Optimizer.warm_start):
        with pytest.raises(RunError, match=r'"linear.weight" has shape \[2, 8\], the model has \[3, 8\]'):
            load_state(Optimizer(net(outputs=3), OptimConfig(), 4), optimizer.state_dict())


def test_frozen_parameters_stay_and_helpers_learn() -> None:
    model = net()
    model.table.weight.requires_grad_(False)
    model.linear.bias.requires_grad_(False)
    balance = nn.ParameterDict({"log_variance": torch.zeros(2)})
    optimizer = Optimizer(nn.ModuleDict({"model": model, "balance": balance}), OptimConfig(), 3)
    for seed in range(3):
        optimizer.zero_grad()
        (model(batch(seed)) * balance["log_variance"].exp()).square().mean().backward()
        optimizer.step()
    assert torch.equal(model.table.weight, net().table.weight)
    assert torch.equal(model.linear.bias, net().linear.bias)
    assert balance["log_variance"].ne(0).all()
    assert {key.split("/")[1] for key in optimizer.state_dict() if "/" in key} == {
        "model.linear.weight",
        "balance.log_variance",
    }
