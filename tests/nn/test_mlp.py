"""The plain network: layers in their order, dropout while training, initialisation by the activation that follows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.nn.mlp import MLP, init_linear
from recsys.nn.split import SplitInput


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_is_linear_then_activation_layer_by_layer(activation: str) -> None:
    network = MLP(4, (5, 3), activation=activation)  # type: ignore[arg-type]
    x = torch.randn(6, 4)
    first, second = (layer for layer in network if isinstance(layer, nn.Linear))
    act = torch.relu if activation == "relu" else torch.tanh
    expected = act(act(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(network(SplitInput(x[:, :1], x[:, 1:])), expected)
    assert network.width == 3
    assert network.last_weight is second.weight


def test_without_layers_it_is_the_identity() -> None:
    x = torch.randn(6, 4)
    assert MLP(4, ())(x) is x
    assert MLP(4, ()).width == 4
    assert torch.equal(MLP(4, ())(SplitInput(x[:, :3], x[:, 3:])), x)


def test_dropout_works_behind_every_layer_and_while_training_only() -> None:
    network, x = MLP(4, (64, 64), dropout=0.5, activation="tanh"), torch.randn(200, 4)
    hidden: list[torch.Tensor] = []
    for layer in network:
        layer.register_forward_hook(lambda _module, _given, out: hidden.append(out))
    out = network.train()(x)
    assert (out == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    behind_first = next(i for i, h in enumerate(hidden) if (h == 0).any())
    assert behind_first < len(hidden) - 1, "the first layer has its own"
    assert not (network.eval()(x) == 0).any()
    assert torch.equal(network(x), network(x))
    plain = [type(layer) for layer in MLP(4, (64, 64), activation="tanh")]
    assert plain == [nn.Linear, nn.Tanh] * 2, "and none is put in where none was asked for"


def test_hidden_gates_stand_behind_the_activation() -> None:
    plain, gated = MLP(4, (5,)), MLP(4, (5,), hidden_gate="tanh")
    gated[0].load_state_dict(plain[0].state_dict())
    x = torch.randn(6, 4)
    a = plain(x)
    torch.testing.assert_close(gated(x), a * torch.tanh(a @ gated[2].weight.T))


@pytest.mark.parametrize(("relu", "bound"), [(True, math.sqrt(6 / 100)), (False, math.sqrt(6 / (100 + 60)))])
def test_weights_have_the_spread_that_their_activation_needs(relu: bool, bound: float) -> None:
    layer = init_linear(nn.Linear(100, 60), relu=relu)
    assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert not layer.bias.any()
    assert init_linear(nn.Linear(3, 2, bias=False), relu=relu).bias is None
