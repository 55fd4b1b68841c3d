"""GateNet's and GemNN's gates: parameter counts, what each gate sees, what makes it disappear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.nn.features import Encoded, SideFields
from recsys.nn.gates import FieldGate, JointGate
from recsys.nn.inputs import InputConfig, InputLayer
from recsys.nn.split import SplitInput
from recsys.testing.toy import Toy

FIELDS, DIM = (2, 3), 4


def encoded(rows: int = 6, seed: int = 0) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    sides = [
        SideFields(torch.randn(rows, fields, DIM, generator=generator), torch.randn(rows, 2, generator=generator))
        for fields in FIELDS
    ]
    return Encoded(sides[0], sides[1], None)


def field_gate(bitwise: bool, shared: bool, activation: str = "sigmoid") -> FieldGate:
    return FieldGate(FIELDS, DIM, bitwise=bitwise, shared=shared, activation=activation)


def fields_of(found: Encoded) -> Tensor:
    """Fields of both sides, [R, F, K]."""
    return torch.cat([found.query.fields, found.item.fields], dim=1)


@pytest.mark.parametrize(
    ("bitwise", "shared", "count"),
    [(False, False, 5 * DIM), (False, True, DIM), (True, False, 5 * DIM**2), (True, True, DIM**2)],
)
def test_the_four_parameter_counts_are_the_papers(bitwise: bool, shared: bool, count: int) -> None:
    assert sum(p.numel() for p in field_gate(bitwise, shared).parameters()) == count


@pytest.mark.parametrize("bitwise", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "linear", "relu"])
def test_each_field_is_scaled_by_what_it_says_itself(bitwise: bool, shared: bool, activation: str) -> None:
    gate, x = field_gate(bitwise, shared, activation), encoded()
    found = fields_of(gate(x))
    act = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "linear": lambda v: v, "relu": torch.relu}[activation]
    for field in range(5):
        e = fields_of(x)[:, field]
        weight = gate.weight[0 if shared else field]  # [K, 1 or K]
        torch.testing.assert_close(found[:, field], e * act(e @ weight), rtol=1e-5, atol=1e-6)
    assert torch.equal(gate(x).query.dense, x.query.dense), "numbers pass unchanged"


@pytest.mark.parametrize("bitwise", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_changing_a_field_changes_that_field_alone(bitwise: bool, shared: bool) -> None:
    gate, x = field_gate(bitwise, shared), encoded()
    moved_fields = x.item.fields.clone()
    moved_fields[:, 1] += 1.0
    moved = replace(x, item=replace(x.item, fields=moved_fields))
    changed = (fields_of(gate(x)) - fields_of(gate(moved))).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False, False, False, True, False]


def test_vector_wise_is_one_number_per_field_and_bit_wise_one_per_coordinate() -> None:
    x = encoded()
    vector = fields_of(field_gate(False, False)(x)) / fields_of(x)
    torch.testing.assert_close(vector, vector[:, :, :1].expand_as(vector), rtol=1e-3, atol=1e-4)
    assert vector[:, :, 0].std(1).min() > 1e-4, "and differs between fields"
    bit = fields_of(field_gate(True, False)(x)) / fields_of(x)
    assert bit.std(2).max() > 1e-3


@pytest.mark.parametrize("bitwise", [False, True])
def test_equal_embeddings_are_gated_equally_when_shared_and_not_when_private(bitwise: bool) -> None:
    same = torch.randn(6, 1, DIM)
    x = Encoded(
        SideFields(same.expand(6, 2, DIM), torch.empty(6, 0)),
        SideFields(same.expand(6, 3, DIM), torch.empty(6, 0)),
        None,
    )
    for shared in (True, False):
        out = fields_of(field_gate(bitwise, shared)(x))
        assert torch.allclose(out, out[:, :1].expand_as(out), atol=1e-6) == shared


def test_a_sigmoid_gate_only_shrinks_and_halves_at_zero_weight() -> None:
    gate, x = field_gate(True, False), encoded()
    assert (fields_of(gate(x)).abs() <= fields_of(x).abs()).all()
    torch.nn.init.zeros_(gate.weight)
    torch.testing.assert_close(fields_of(gate(x)), fields_of(x) / 2)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "linear"])
def test_no_gate_starts_by_killing_the_signal(activation: str) -> None:
    for bitwise in (False, True):
        assert fields_of(field_gate(bitwise, False, activation)(encoded())).abs().mean() > 1e-2


def test_padding_stays_zero_under_any_gate() -> None:
    x = Encoded(
        SideFields(torch.zeros(3, 2, DIM), torch.empty(3, 0)),
        SideFields(torch.zeros(3, 3, DIM), torch.empty(3, 0)),
        None,
    )
    for activation in ("sigmoid", "tanh", "linear"):
        assert not fields_of(field_gate(True, False, activation)(x)).any()


def joint_input(rows: int = 6) -> SplitInput:
    return SplitInput(torch.randn(rows, 8), torch.randn(rows, 12))


@pytest.mark.parametrize(
    ("keys", "count"),
    [({}, 20 * 20 + 20), ({"bias": False}, 400), ({"rank": 3}, 2 * 20 * 3 + 20), ({"rank": 3, "bias": False}, 120)],
)
def test_the_joint_gate_counts_d_squared_or_two_d_r(keys: dict[str, Any], count: int) -> None:
    assert sum(p.numel() for p in JointGate(20, **keys).parameters()) == count


@pytest.mark.parametrize("rank", [0, 3])
def test_every_coordinate_of_the_joint_gate_sees_every_field(rank: int) -> None:
    gate = JointGate(20, rank=rank)

    def values(flat: Tensor) -> Tensor:
        return gate.gate(SplitInput.of(flat.unsqueeze(0)))[0]

    jacobian: Tensor = torch.autograd.functional.jacobian(values, torch.randn(20))
    assert (jacobian.abs() > 1e-9).all()
    x = joint_input()
    assert gate(x).width == 20


def test_block_diagonal_without_bias_the_joint_gate_is_gatenets() -> None:
    gatenet, gemnn = field_gate(True, False), JointGate(5 * DIM, bias=False)
    with torch.no_grad():
        gemnn.weight.copy_(torch.block_diag(*(weight.T for weight in gatenet.weight)))
    x = encoded()
    flat = SplitInput(x.query.fields.flatten(1), x.item.fields.flatten(1))
    torch.testing.assert_close(gemnn(flat).flat(), fields_of(gatenet(x)).flatten(1), rtol=1e-5, atol=1e-6)


def test_a_joint_gate_of_one_is_no_gate_and_the_scale_doubles() -> None:
    gate, x = JointGate(20), joint_input()
    torch.nn.init.zeros_(gate.weight)
    assert gate.bias is not None
    torch.nn.init.constant_(gate.bias, 100.0)
    torch.testing.assert_close(gate(x).flat(), x.flat())
    torch.nn.init.zeros_(gate.bias)
    doubled = JointGate(20, scale=2.0)
    doubled.load_state_dict(gate.state_dict())
    torch.testing.assert_close(doubled(x).flat(), x.flat())


def input_layer(toy: Toy, **keys: Any) -> InputLayer:
    torch.manual_seed(0)
    return InputLayer(
        InputConfig.model_validate({"embedding_dim": DIM, "history": {"encoder": "mean"}, **keys}), toy.layout
    )


def test_a_gate_forced_to_one_recovers_the_base_input(toy: Toy) -> None:
    batch: Batch = toy.batch(8)
    base = input_layer(toy)(batch).flat()
    layer = input_layer(toy, field_gate={"kind": "bit", "activation": "linear"})
    layer.encoder.load_state_dict(input_layer(toy).encoder.state_dict())
    assert layer.field_gate is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FieldGate, "gate", lambda self, fields, weight: torch.ones_like(fields))
        torch.testing.assert_close(layer(batch).flat(), base)
    assert not torch.allclose(layer(batch).flat(), base)


def test_gates_keep_the_width_and_field_gates_keep_the_split(toy: Toy) -> None:
    batch = toy.requests(candidates=4, queries=2)
    plain = input_layer(toy)(batch)
    gated = input_layer(toy, field_gate={"kind": "vector"})(batch)
    joint = input_layer(toy, joint_gate={"enabled": True})(batch)
    assert plain.width == gated.width == joint.width
    assert gated.query.shape == plain.query.shape
    assert gated.owner is not None
    assert joint.owner is None
    assert joint.rows == 8
