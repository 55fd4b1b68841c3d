"""The input layer: embedding, then field gate, then joint gate, then cross layers, each where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.nn.inputs import InputConfig, InputLayer
from recsys.testing.toy import Toy


def layer(toy: Toy, **keys: Any) -> InputLayer:
    history = {"encoder": "mean", "dropout": 0.0}
    config = InputConfig.model_validate({"embedding_dim": 4, "init_std": 0.5, "history": history, **keys})
    return InputLayer(config, toy.layout).eval()


def test_plain_it_is_the_encoded_columns(toy: Toy) -> None:
    found, batch = layer(toy), toy.batch(6)
    assert torch.equal(found(batch).flat(), found.encoder(batch).split().flat())
    assert found.width == found(batch).width
    assert not any((found.field_gate, found.joint_gate, found.cross))


@pytest.mark.parametrize(("layers", "rank"), [(1, 3), (3, 5)])
def test_cross_layers_have_the_number_and_the_rank_asked_for(toy: Toy, layers: int, rank: int) -> None:
    found = layer(toy, cross_layers=layers, cross_rank=rank)
    assert found.cross is not None
    width = found.width
    assert sum(p.numel() for p in found.cross.parameters()) == layers * (2 * width * rank + width)
    assert found(toy.batch(6)).flat().shape == (6, width)


def test_gates_and_cross_layers_follow_each_other_in_this_order(toy: Toy) -> None:
    found = layer(
        toy,
        field_gate={"kind": "bit"},
        joint_gate={"enabled": True, "rank": 2, "scale": 2.0, "activation": "tanh", "bias": False},
        cross_layers=1,
        cross_rank=2,
    )
    batch = toy.batch(6)
    assert found.field_gate is not None
    assert found.joint_gate is not None
    assert found.cross is not None
    x = found.field_gate(found.encoder(batch)).split()
    assert not torch.allclose(x.flat(), found.encoder(batch).split().flat())
    gate = found.joint_gate
    assert gate.down is not None
    gated = x.flat() * 2.0 * torch.tanh(x.flat() @ gate.down.T @ gate.weight.T)
    assert gate.down.shape[0] == 2
    assert gate.bias is None
    (down,), (up,), (bias,) = found.cross.down, found.cross.up, found.cross.bias
    expected = gated * (gated @ (up @ down).T + bias) + gated
    torch.testing.assert_close(found(batch).flat(), expected, rtol=1e-4, atol=1e-5)
