"""Activations: values, gradients, and that what a gradient needs is not overwritten."""

from __future__ import annotations

import pytest
import torch

from recsys.nn.activation import HiddenGate, Rectifier, activate, relu

X = torch.tensor([[-2.0, -0.5, 0.0], [0.5, 1.0, 3.0]])


@pytest.mark.parametrize(
    ("name", "at_minus_two", "at_one"),
    [("sigmoid", 0.1192029, 0.7310586), ("tanh", -0.9640276, 0.7615942), ("relu", 0.0, 1.0), ("linear", -2.0, 1.0)],
)
def test_names_mean_what_they_say(name: str, at_minus_two: float, at_one: float) -> None:
    found = activate(X.clone(), name)
    assert found.shape == X.shape
    assert found[0, 0].item() == pytest.approx(at_minus_two, abs=1e-6)
    assert found[1, 1].item() == pytest.approx(at_one, abs=1e-6)


def test_a_rectifier_keeps_its_input_where_a_gradient_is_wanted() -> None:
    x = X.clone().requires_grad_()
    middle = x * 1.0
    for layer in (relu, Rectifier()):
        y = layer(middle)
        assert torch.equal(middle, X)
        (gradient,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert torch.equal(gradient, (X > 0).float())
        assert torch.equal(y, X.clamp(min=0))


def test_without_a_gradient_it_takes_no_memory_of_its_own() -> None:
    x = X.clone()
    assert relu(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, X.clamp(min=0))


@pytest.mark.parametrize("experts", [None, 1, 3])
def test_hidden_gates_of_experts_are_separate_gates(experts: int | None) -> None:
    gate = HiddenGate(3, num_experts=experts)
    assert gate.weight.shape == ((3, 3) if experts is None else (experts, 3, 3))
    a = X if experts is None else X.expand(experts, -1, -1)
    weights = gate.weight[None] if experts is None else gate.weight
    expected = torch.stack([X * torch.tanh(X @ weight.T) for weight in weights])
    torch.testing.assert_close(gate(a), expected[0] if experts is None else expected)
    bound = (6 / (3 + 3)) ** 0.5  # Xavier, of each matrix by itself
    assert 0.5 * bound < gate.weight.abs().max().item() <= bound
    assert len(torch.unique(gate.weight)) == gate.weight.numel()
