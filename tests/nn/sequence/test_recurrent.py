"""DUPN: properties steer the gates only, attention is a softmax over what happened, and the kernel is torch's own."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recsys.data.batch import SideLayout
from recsys.nn.sequence import DUPNEncoder, PropertyGatedLSTM, SequenceConfig, build_sequence_encoder
from recsys.nn.sequence.recurrent import masked_softmax
from recsys.retrieval.towers.inputs import TowerLayout
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTower, TwoTowerConfig
from recsys.testing.toy import Toy

B, L, DE, DP, H = 3, 9, 5, 4, 6


def gated(property_width: int = DP, peephole: bool = False) -> PropertyGatedLSTM:
    torch.manual_seed(2)
    lstm = PropertyGatedLSTM(DE, property_width, H, peephole).double()
    for parameter in lstm.parameters():
        nn.init.normal_(parameter, std=0.6)
    return lstm


def by_the_equations(lstm: PropertyGatedLSTM, e: Tensor, p: Tensor) -> Tensor:
    """Step by step, gate by gate, from the written definition."""
    we, wh, bias = lstm.weight_event.chunk(4), lstm.weight_hidden.chunk(4), lstm.bias.chunk(4)
    wp = lstm.weight_property.chunk(3)
    v = torch.zeros(3, H).double() if lstm.peephole is None else lstm.peephole
    h = c = torch.zeros(len(e), H).double()
    states = []
    for t in range(e.shape[1]):
        i = torch.sigmoid(e[:, t] @ we[0].T + p[:, t] @ wp[0].T + h @ wh[0].T + bias[0] + v[0] * c)
        f = torch.sigmoid(e[:, t] @ we[1].T + p[:, t] @ wp[1].T + h @ wh[1].T + bias[1] + v[1] * c)
        c = f * c + i * torch.tanh(e[:, t] @ we[2].T + h @ wh[2].T + bias[2])
        o = torch.sigmoid(e[:, t] @ we[3].T + p[:, t] @ wp[2].T + h @ wh[3].T + bias[3] + v[2] * c)
        h = o * torch.tanh(c)
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("peephole", [False, True])
def test_the_fused_kernel_computes_the_equations(peephole: bool) -> None:
    lstm = gated(peephole=peephole)
    e, p = torch.randn(B, L, DE).double(), torch.randn(B, L, DP).double()
    ours, plain = lstm(torch.cat([e, p], -1)), by_the_equations(lstm, e, p)
    torch.testing.assert_close(ours, plain)
    direction = torch.randn_like(ours)
    for parameter in lstm.parameters():
        (a,) = torch.autograd.grad((ours * direction).sum(), parameter, retain_graph=True)
        (b,) = torch.autograd.grad((plain * direction).sum(), parameter, retain_graph=True)
        torch.testing.assert_close(a, b)


def test_without_property_weights_it_is_the_standard_lstm() -> None:
    lstm = gated()
    nn.init.zeros_(lstm.weight_property)
    standard = nn.LSTM(DE, H, batch_first=True).double()
    with torch.no_grad():
        standard.weight_ih_l0.copy_(lstm.weight_event)
        standard.weight_hh_l0.copy_(lstm.weight_hidden)
        standard.bias_ih_l0.copy_(lstm.bias)
        standard.bias_hh_l0.zero_()
    e, p = torch.randn(B, L, DE).double(), torch.randn(B, L, DP).double()
    torch.testing.assert_close(lstm(torch.cat([e, p], -1)), standard(e)[0])


def test_the_content_has_no_derivative_in_the_properties() -> None:
    lstm = gated()
    # Gates saturated by their biases: what is left of the state is the content, tanh(content) through open gates.
    with torch.no_grad():
        lstm.bias[:H] = lstm.bias[3 * H :] = 1e3
        lstm.bias[H : 2 * H] = -1e3
    e, p = torch.randn(B, L, DE).double(), torch.randn(B, L, DP).double().requires_grad_()
    lstm(torch.cat([e, p], -1)).square().sum().backward()
    assert p.grad is not None
    assert p.grad.abs().max() == 0.0
    ordinary = gated()
    q = p.detach().requires_grad_()
    ordinary(torch.cat([e, q], -1)).square().sum().backward()
    assert q.grad is not None
    assert (q.grad.abs() > 1e-6).any(-1).all()  # while the gates do depend on them
    weight = lstm.input_weight()
    assert torch.equal(weight[2 * H : 3 * H, DE:], torch.zeros(H, DP).double())
    assert sum(weights.numel() for weights in lstm.parameters()) == 4 * H * (DE + H + 1) + 3 * H * DP


def test_forget_gates_start_open() -> None:
    assert torch.equal(PropertyGatedLSTM(DE, DP, H).bias, torch.tensor([0.0, 1, 0, 0]).repeat_interleave(H))


def dupn() -> DUPNEncoder:
    torch.manual_seed(4)
    config = SequenceConfig(encoder="dupn", hidden=H, attention_hidden=7, dropout=0.0)
    encoder = build_sequence_encoder(config, DE, DP, 2).eval()
    assert isinstance(encoder, DUPNEncoder)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return encoder


def test_attention_is_a_distribution_over_valid_events() -> None:
    encoder, lengths = dupn(), torch.tensor([9, 4, 0])
    e, p, q = torch.randn(B, L, DE), torch.randn(B, L, DP), torch.randn(B, 2)
    weights = encoder.attention(e, p, lengths, q)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 0.0]))
    assert (weights[1, 4:] == 0).all()
    assert (weights[2] == 0).all()
    assert (weights[1, :4] > 0).all()
    assert weights[0].std() > 0.01  # and not simply even
    assert (encoder.attention(e, p, lengths, q + 1.0) - weights).abs().max() > 1e-3  # the user's query matters


def test_the_summary_is_the_weighted_sum_of_the_lstm_states() -> None:
    encoder, lengths = dupn(), torch.tensor([9, 4, 1])
    e, p, q = torch.randn(B, L, DE), torch.randn(B, L, DP), torch.randn(B, 2)
    states = encoder.layers[0](torch.cat([encoder.input.norm(e), p], -1))
    expected = torch.einsum("bl,bld->bd", encoder.attention(e, p, lengths, q), states)
    torch.testing.assert_close(encoder.last(e, p, lengths, query=q), expected)


def test_attention_reads_state_user_and_properties_each_by_itself() -> None:
    """The score is an MLP of all three: with properties that steer no gate, they still move the weights, and alone."""
    encoder, lengths = dupn(), torch.full((B,), L)
    gate = encoder.layers[0]
    assert isinstance(gate, PropertyGatedLSTM)
    nn.init.zeros_(gate.weight_property)
    e, p, q = torch.randn(B, L, DE), torch.randn(B, L, DP), torch.randn(B, 2)
    before = encoder.attention(e, p, lengths, q)
    states = encoder.layers[0](torch.cat([encoder.input.norm(e), p], -1))
    for row in range(DP):
        moved = p.clone()
        moved[:, 4, row] += 1.0
        torch.testing.assert_close(encoder.layers[0](torch.cat([encoder.input.norm(e), moved], -1)), states)
        assert (encoder.attention(e, moved, lengths, q)[:, 4] - before[:, 4]).abs().min() > 1e-4
    for row in range(2):
        shifted = q.clone()
        shifted[:, row] += 1.0
        assert (encoder.attention(e, p, lengths, shifted) - before).abs().amax(1).min() > 1e-4
    assert (encoder.attention(e + 1.0, p, lengths, q) - before).abs().amax(1).min() > 1e-4


def test_the_score_is_the_written_formula() -> None:
    """`v . tanh(W_h h + W_p p + W_q q + b)`, softmax over the valid events."""
    encoder, lengths = dupn(), torch.tensor([9, 4, 1])
    e, p, q = torch.randn(B, L, DE), torch.randn(B, L, DP), torch.randn(B, 2)
    h = encoder.layers[0](torch.cat([encoder.input.norm(e), p], -1))
    w, user = encoder.score_state, encoder.score_query
    assert user is not None
    inner = h @ w.weight[:, :H].T + p @ w.weight[:, H:].T + w.bias + (q @ user.weight.T)[:, None]
    scores = torch.tanh(inner) @ encoder.score_out.weight[0]
    for row, length in enumerate(lengths.tolist()):
        expected = scores[row, :length].softmax(0)
        torch.testing.assert_close(encoder.attention(e, p, lengths, q)[row, :length], expected)


@pytest.mark.parametrize(
    ("name", "norm", "scales"),
    [("dupn", None, False), ("dupn", True, True), ("lstm", None, True), ("lstm", False, False)],
)
def test_events_are_normalised_where_the_option_says(name: str, norm: bool | None, scales: bool) -> None:
    """A layer norm makes the scale of the events unimportant; dupn is published without one."""
    config = SequenceConfig(encoder=name, hidden=H, event_norm=norm)
    torch.manual_seed(0)
    encoder = build_sequence_encoder(config, DE).eval()
    e, lengths = torch.randn(B, L, DE), torch.full((B,), L)
    same = torch.allclose(encoder.last(e, None, lengths), encoder.last(10 * e, None, lengths), atol=1e-3)
    assert same == scales


@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_running_attention_survives_scores_of_any_size(spread: float) -> None:
    encoder = dupn()
    with torch.no_grad():
        encoder.score_out.weight.mul_(spread)
    e, p, q = torch.randn(B, L, DE), torch.randn(B, L, DP), torch.randn(B, 2)
    states = encoder(e, p, query=q)
    for t in range(L):
        exact = encoder.last(e, p, torch.full((B,), t + 1), query=q)
        torch.testing.assert_close(states[:, t], exact, rtol=1e-4, atol=1e-5)
    states.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_masked_softmax_of_nothing_is_zero_with_zero_gradient() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([0, 2]))
    assert torch.equal(weights[0], torch.zeros(3))
    (weights * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(scores.grad[0], torch.zeros(3))
    assert scores.grad[1, :2].abs().min() > 0


def python_calls(work: Callable[[], object]) -> int:
    """Calls that the interpreter makes meanwhile, into Python and into PyTorch alike."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("training", [False, True])
def test_python_takes_no_step_per_event(training: bool) -> None:
    def calls(length: int, peephole: bool = False) -> int:
        config = SequenceConfig(encoder="dupn", hidden=H, layers=2, peephole=peephole)
        encoder = build_sequence_encoder(config, DE, DP).train(training)
        e, p, lengths = torch.randn(B, length, DE), torch.randn(B, length, DP), torch.full((B,), length)
        work = encoder.last if not training else encoder
        work(e, p, lengths)  # what happens once happens now
        return min(python_calls(lambda: work(e, p, lengths)) for _ in range(3))  # a collector's call-back adds some

    assert calls(5) == calls(80)
    assert calls(80, peephole=True) > calls(5, peephole=True) + 75  # the count would notice


def test_rankers_and_towers_have_the_same_encoder(toy: Toy) -> None:
    history = TowerHistory(encoder="dupn", hidden=H, attention_hidden=4)
    ranker = toy.ranker("dupn", input={"history": {"hidden": H}})
    sizes = {"item": 9, "gap": 5, "user": 4}
    layout = TowerLayout(
        item=SideLayout(("item",)), user=SideLayout(("user",)), events=("gap",), sizes=sizes, item_id="item"
    )
    tower = TwoTower(TwoTowerConfig(dim=DE, history=history), layout)
    inside = ranker.inputs.encoder.query.encoders["history"]
    assert type(inside) is type(tower.encoder) is DUPNEncoder
    assert inside.state_dict().keys() == tower.encoder.state_dict().keys()
    assert tower.encoder.property_width == DE  # event features steer the gates in the tower, too
    assert inside.property_width == 4


@pytest.mark.parametrize("layers", [1, 3])
def test_an_lstm_is_torchs_stack_over_events_and_properties(layers: int) -> None:
    config = SequenceConfig(encoder="lstm", hidden=H, layers=layers, dropout=0.0)
    encoder = build_sequence_encoder(config, DE, DP).eval()
    stack = nn.LSTM(DE + DP, H, num_layers=layers, batch_first=True)
    for depth, layer in enumerate(encoder.layers):
        for name, parameter in layer.named_parameters():
            stack.get_parameter(name.replace("l0", f"l{depth}")).data.copy_(parameter.data)
    e, p = torch.randn(B, L, DE), torch.randn(B, L, DP)
    torch.testing.assert_close(encoder(e, p), stack(torch.cat([encoder.input.norm(e), p], -1))[0])
    assert len(encoder.layers) == layers


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_of_dupn_stand_on_each_other_and_each_reads_the_properties(layers: int) -> None:
    config = SequenceConfig(encoder="dupn", hidden=H, attention_hidden=7, layers=layers, dropout=0.0)
    encoder = build_sequence_encoder(config, DE, DP).eval()
    e, p = torch.randn(B, L, DE), torch.randn(B, L, DP)
    states = e
    assert len(encoder.layers) == layers
    for layer in encoder.layers:
        states = layer(torch.cat([states, p], -1))
    weights = encoder.attention(e, p, torch.full((B,), L))
    expected = torch.einsum("bl,blh->bh", weights, states)
    torch.testing.assert_close(encoder.last(e, p, torch.full((B,), L)), expected)


def test_weights_start_within_one_over_the_root_of_the_width_on_both_sides() -> None:
    lstm, bound = PropertyGatedLSTM(50, 40, 64), 1 / 8
    for weight in (lstm.weight_event, lstm.weight_hidden, lstm.weight_property):
        assert weight.max().item() == pytest.approx(bound, rel=0.01)
        assert weight.min().item() == pytest.approx(-bound, rel=0.01)
        assert abs(weight.mean().item()) < 0.05 * bound
