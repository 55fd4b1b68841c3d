"""Experts, gates, mixtures and towers against the plainest way of writing them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.nn.activation import HiddenGate
from recsys.nn.mlp import MLP
from recsys.nn.split import SplitInput
from recsys.ranking.layers import Experts, Gate, GateConfig, Tower, mix, read_together, softmax

HIDDEN_GATES = ["none", "tanh", "linear", "sigmoid"]


def one_expert(experts: Experts, x: Tensor, number: int) -> Tensor:
    """The same expert as a stack of separate linear layers."""
    width = experts.hidden[0]
    rows = slice(number * width, (number + 1) * width)
    h = x @ experts.weight[rows].T + experts.bias[rows]
    for level in range(len(experts.hidden)):
        if level > 0:
            bias = experts.deep_bias[level - 1].view(experts.num_experts, -1)[number]
            h = h @ experts.deep_weight[level - 1][number] + bias
        if experts.normalise and level == len(experts.hidden) - 1:
            h = nn.functional.silu((h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True, correction=0) + 1e-5).sqrt())
        else:
            h = torch.relu(h)
        if len(experts.gates):
            gate = experts.gates[level]
            assert isinstance(gate, HiddenGate)
            scale = h @ gate.weight[number].T
            h = h * {"tanh": torch.tanh, "linear": lambda v: v, "sigmoid": torch.sigmoid}[gate.activation](scale)
    return h


@pytest.mark.parametrize("hidden", [(6,), (6, 5), (4, 7, 3)])
@pytest.mark.parametrize("hidden_gate", HIDDEN_GATES)
@pytest.mark.parametrize("normalise", [False, True])
def test_batched_experts_equal_separate_ones(hidden: tuple[int, ...], hidden_gate: str, normalise: bool) -> None:
    experts = Experts(9, 5, hidden, hidden_gate=hidden_gate, normalise=normalise)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    x = torch.randn(11, 9)
    out = experts(SplitInput.of(x))
    assert out.shape == (11, 5, hidden[-1])
    for number in range(5):
        torch.testing.assert_close(out[:, number], one_expert(experts, x, number), rtol=1e-5, atol=1e-5)


def test_experts_differ_at_the_start() -> None:
    experts = Experts(9, 4, (6, 5))
    weights = experts.weight.view(4, -1)
    assert len(torch.unique(weights, dim=0)) == 4
    assert len(torch.unique(experts.deep_weight[0].flatten(1), dim=0)) == 4
    bound = (6.0 / 9) ** 0.5
    assert 0.8 * bound < float(experts.weight.detach().abs().max()) <= bound


def test_dropout_acts_on_experts_in_training_only() -> None:
    experts, x = Experts(9, 4, (50,), dropout=0.5), SplitInput.of(torch.randn(40, 9))
    plain = Experts(9, 4, (50,))
    plain.load_state_dict(experts.state_dict())
    assert torch.equal(experts.eval()(x), plain(x))
    zeros = (experts.train()(x) == 0).float().mean() - (plain(x) == 0).float().mean()
    assert 0.15 < float(zeros) < 0.35  # half of the positive half


@pytest.mark.parametrize(
    ("mixtures", "experts", "hidden"), [(1, 1, 1), (1, 8, 16), (2, 8, 16), (4, 8, 16), (3, 20, 64)]
)
def test_mix_is_the_weighted_sum(mixtures: int, experts: int, hidden: int) -> None:
    weights = torch.randn(13, mixtures, experts, dtype=torch.float64, requires_grad=True)
    values = torch.randn(13, experts, hidden, dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("rse,reh->rsh", weights, values)
    found = mix(weights, values)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(found, [weights, values], upstream),
        torch.autograd.grad(expected, [weights, values], upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("experts", [1, 2, 15, 16, 40])
def test_softmax_is_over_the_experts(experts: int) -> None:
    x = torch.randn(7, experts) * 30
    expected = torch.exp(x.double() - x.double().logsumexp(1, keepdim=True)).float()
    torch.testing.assert_close(softmax(x), expected)


def test_reading_together_is_reading_one_by_one() -> None:
    x = SplitInput(torch.randn(3, 4), torch.randn(10, 5), torch.randint(0, 3, (10,)))
    gates = [Gate(9, 4, GateConfig()), Gate(9, 2, GateConfig(bias=True, hidden=(7,)))]
    readers: list[Experts | Gate] = [Experts(9, 3, (6, 5)), *gates]
    for gate in gates:
        for parameter in gate.parameters():
            nn.init.normal_(parameter)
    for together, reader in zip(read_together(x, readers), readers, strict=True):
        torch.testing.assert_close(together, reader(x))
        torch.testing.assert_close(together, reader(SplitInput.of(x.flat())), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("config", "parameters"), [({}, 36), ({"bias": True}, 40), ({"hidden": (5,)}, 50 + 20)])
def test_a_gate_has_the_parameters_of_the_paper(config: dict[str, object], parameters: int) -> None:
    gate = Gate(9, 4, GateConfig.model_validate(config))
    assert sum(parameter.numel() for parameter in gate.parameters()) == parameters


def test_temperature_spreads_the_weight() -> None:
    x = SplitInput.of(torch.randn(50, 9))
    hot, cold = Gate(9, 4, GateConfig(temperature=10.0)), Gate(9, 4, GateConfig())
    hot.load_state_dict(cold.state_dict())

    def entropy(weights: Tensor) -> float:
        return float(-(weights * weights.log()).sum(1).mean().detach())

    assert entropy(hot(x)) > entropy(cold(x))
    sharp = Gate(9, 4, GateConfig(temperature=0.01))
    sharp.load_state_dict(cold.state_dict())
    assert float(sharp(x).detach().max(1).values.mean()) > 0.9


def test_expert_dropout_renormalises_and_never_drops_all() -> None:
    gate, x = Gate(9, 3, GateConfig(dropout=0.5)), SplitInput.of(torch.randn(2000, 9))
    dropped = gate.train()(x)
    assert 0.34 < float((dropped == 0).float().mean()) < 0.41  # 1/2, less the 1/8 of rows that would lose all three
    torch.testing.assert_close(dropped.sum(1), torch.ones(2000))
    whole = gate.eval()(x)
    assert (whole > 0).all()
    kept = dropped > 0
    torch.testing.assert_close(dropped, whole * kept / (whole * kept).sum(1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_a_tower_without_hidden_layers_is_linear_and_several_outputs_are_columns() -> None:
    x = torch.randn(6, 9)
    linear = Tower(9, ())
    torch.testing.assert_close(linear(x), (x @ linear.output.weight.T + linear.output.bias).squeeze(1))
    torch.testing.assert_close(linear(SplitInput.of(x)), linear(x))
    assert Tower(9, (4,), outputs=3)(x).shape == (6, 3)
    assert Tower(9, (4,))(x[:1]).shape == (1,)


@pytest.mark.parametrize("hidden_gate", HIDDEN_GATES[1:])
def test_hidden_gates_add_the_square_of_every_width(hidden_gate: str) -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    plain, gated = MLP(9, (7, 5)), MLP(9, (7, 5), hidden_gate=hidden_gate)
    assert count(gated) - count(plain) == 7**2 + 5**2
    assert count(Experts(9, 3, (7, 5), hidden_gate=hidden_gate)) - count(Experts(9, 3, (7, 5))) == 3 * (7**2 + 5**2)
    assert count(Tower(9, (7,), hidden_gate=hidden_gate)) - count(Tower(9, (7,))) == 7**2


def test_a_hidden_gate_scales_a_layer_by_a_function_of_itself() -> None:
    gate, a = HiddenGate(5, "tanh"), torch.rand(4, 5)
    torch.testing.assert_close(gate(a), a * torch.tanh(a @ gate.weight.T))
    experts = HiddenGate(5, "sigmoid", num_experts=3)
    stacked = torch.rand(3, 4, 5)
    for number in range(3):
        expected = stacked[number] * torch.sigmoid(stacked[number] @ experts.weight[number].T)
        torch.testing.assert_close(experts(stacked)[number], expected)


def test_an_mlp_reads_a_split_input_as_the_flat_one() -> None:
    x = SplitInput(torch.randn(2, 4), torch.randn(6, 5), torch.tensor([0, 0, 1, 1, 0, 1]))
    for mlp in (MLP(9, (7, 5), hidden_gate="tanh"), MLP(9, ())):
        torch.testing.assert_close(mlp(x), mlp(x.flat()), rtol=1e-5, atol=1e-5)


def test_an_mlp_is_linear_then_relu_at_every_layer() -> None:
    mlp, x = MLP(9, (7, 5)), torch.randn(6, 9)
    first, second = (layer for layer in mlp if isinstance(layer, nn.Linear))
    expected = torch.relu(torch.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(mlp(x), expected)
    assert mlp.last_weight is second.weight


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_expert_dropout_drops_the_share_it_is_told_to(rate: float) -> None:
    gate = Gate(6, 8, GateConfig(dropout=rate)).train()
    weights = gate(SplitInput.of(torch.randn(3000, 6)))
    kept_all = rate**8  # rows that would lose every expert keep them
    assert (weights == 0).float().mean().item() == pytest.approx(rate - kept_all, abs=0.02)
    torch.testing.assert_close(weights.sum(1), torch.ones(3000))
