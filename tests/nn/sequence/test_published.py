"""Encoders by the names of their papers: each is its paper's equation, written a second time, and what it claims."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.sequence import (
    BERT4RecEncoder,
    ESASRecEncoder,
    GRU4RecEncoder,
    HSTUEncoder,
    SASRecEncoder,
    SequenceConfig,
    SequenceEncoder,
    build_sequence_encoder,
)
from recsys.nn.sequence.attention import Positions, time_bucket
from recsys.tests.support.nonempty import nonempty

B, L, H = 3, 7, 8


def encoder(name: str, width: int = H, **options: object) -> SequenceEncoder:
    torch.manual_seed(4)
    given = {"hidden": H, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": L + 1, "fast": False, **options}
    model = build_sequence_encoder(SequenceConfig.model_validate({"encoder": name, **given}), width).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def events(width: int = H) -> Tensor:
    return torch.randn(B, L, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def heads_of(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query, key and value of each of two heads: rows of the stacked weight, by hand."""
    parts = F.linear(x, weight, bias).split(H, -1)
    return [tuple(part[..., head * 4 : head * 4 + 4] for part in parts) for head in (0, 1)]  # type: ignore[misc]


def softmax_attention(x: Tensor, weight: Tensor, bias: Tensor | None, seen: Tensor) -> Tensor:
    """Both heads side by side; `seen` bool [L, L], who may look at whom."""
    found = []
    for query, key, value in heads_of(x, weight, bias):
        weights = torch.exp(torch.einsum("btd,bsd->bts", query, key) / math.sqrt(4)) * seen
        found.append((weights / weights.sum(-1, keepdim=True)) @ value)
    return torch.cat(found, -1)


CAUSAL = torch.ones(L, L, dtype=torch.float64).tril()


def test_sasrec_is_the_papers_formula() -> None:
    model = encoder("sasrec")
    assert isinstance(model, SASRecEncoder)
    x = events() + model.positions.weight[:L]
    for block in nonempty(model.blocks):
        x = x + softmax_attention(block.attention_norm(x), block.project.weight, None, CAUSAL)
        first, _, _, second = block.feed
        x = x + second(first(block.feed_norm(x)).clamp(min=0))
    torch.testing.assert_close(model(events()), model.norm(x))
    assert model.blocks[0].feed[0].weight.shape == (H, H)


def test_esasrec_weighs_each_sublayer_by_a_gate_that_reads_its_input() -> None:
    model = encoder("esasrec")
    assert isinstance(model, ESASRecEncoder)
    x = events() + model.positions.weight[:L]
    for block in nonempty(model.blocks):
        project = block.project_in
        mixed = block.project_out(softmax_attention(block.attention_norm(x), project.weight, project.bias, CAUSAL))
        x = x + mixed / (1 + torch.exp(-block.attention_gate(x)))
        normed, spread = block.feed_norm(x), block.feed.spread.weight
        gate, content = normed @ spread[: 4 * H].T, normed @ spread[4 * H :].T
        fed = (gate / (1 + torch.exp(-gate)) * content) @ block.feed.gather.weight.T
        x = x + fed / (1 + torch.exp(-block.feed_gate(x)))
    torch.testing.assert_close(model(events()), model.norm(x))


def test_closed_gates_let_the_input_through() -> None:
    model = encoder("esasrec")
    assert isinstance(model, ESASRecEncoder)
    for block in nonempty(model.blocks):
        for gate in (block.attention_gate, block.feed_gate):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, -1e4)
    torch.testing.assert_close(model(events()), model.norm(events() + model.positions.weight[:L]))


def test_gru4rec_is_the_gated_recurrent_unit() -> None:
    model = encoder("gru4rec", width=5, layers=1)
    assert isinstance(model, GRU4RecEncoder)
    (layer,) = model.layers
    (wr, wz, wn), (ur, uz, un) = layer.weight_ih_l0.chunk(3), layer.weight_hh_l0.chunk(3)
    (br, bz, bn), (cr, cz, cn) = layer.bias_ih_l0.chunk(3), layer.bias_hh_l0.chunk(3)
    h, states = torch.zeros(B, H, dtype=torch.float64), []
    for x in events(5).unbind(1):
        r = torch.sigmoid(x @ wr.T + br + h @ ur.T + cr)
        z = torch.sigmoid(x @ wz.T + bz + h @ uz.T + cz)
        n = torch.tanh(x @ wn.T + bn + r * (h @ un.T + cn))
        h = (1 - z) * n + z * h
        states.append(h)
    torch.testing.assert_close(model(events(5)), torch.stack(states, 1))


def by_sums(x: Tensor, model: HSTUEncoder, times: Tensor) -> Tensor:
    """HSTU head by head and pair by pair."""
    at = torch.arange(L)
    distance, classes = (at[:, None] - at[None]).clamp(min=0), time_bucket(times, 32)
    for unit in nonempty(model.units):
        normed = F.layer_norm(x, (H,), eps=1e-6)
        u, v, q, k = F.silu(normed @ unit.project_in.T).split(H, -1)
        sums = []
        for head in (0, 1):
            own = slice(head * 4, head * 4 + 4)
            bias = model.position_bias[head][distance] + model.time_bias[head][classes]
            weights = F.silu(torch.einsum("btd,bsd->bts", q[..., own], k[..., own]) + bias) * CAUSAL
            sums.append(weights @ v[..., own] / (L + 1))
        x = x + unit.project_out(F.layer_norm(torch.cat(sums, -1), (H,), eps=1e-6) * u)
    return x


def test_hstu_is_the_papers_formula() -> None:
    model = encoder("hstu")
    assert isinstance(model, HSTUEncoder)
    times = torch.rand(B, L, dtype=torch.float64).mul(1e5).sort(1).values
    expected = by_sums(events() + model.positions.weight[:L], model, times)
    torch.testing.assert_close(model(events(), times=times), expected)


def test_hstu_adds_up_what_was_done_where_a_softmax_forgets_how_often() -> None:
    """The same event once more adds its share again; no other event's share gets smaller."""
    model = encoder("hstu", layers=1)
    assert isinstance(model, HSTUEncoder)
    (unit,) = model.units
    query, key, value = (torch.randn(1, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    bias, seen = torch.zeros(1, 2, 5, 5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.bool)
    once = unit.mixed(value, query, key, bias, seen)
    again = [torch.cat([part, part[:, :, 2:3]], 2) for part in (value, query, key)]
    more = unit.mixed(*again, torch.zeros(1, 2, 6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.bool))
    share = F.silu(query @ key[:, :, 2:3].transpose(2, 3)) * value[:, :, 2:3] / (L + 1)
    torch.testing.assert_close(more[:, :, :5], once + share)


def both_ways(model: BERT4RecEncoder, x: Tensor) -> Tensor:
    """BERT4Rec's blocks over whole windows."""
    x = model.input_norm(x)
    everything = torch.ones(x.shape[1], x.shape[1], dtype=torch.float64)
    for block in nonempty(model.blocks):
        project = block.project_in
        mixed = block.project_out(softmax_attention(x, project.weight, project.bias, everything))
        x = block.attention_norm(x + mixed)
        first, _, second = block.feed
        x = block.feed_norm(x + second(F.gelu(first(x))))
    linear, _, norm = model.head
    said: Tensor = norm(F.gelu(linear(x)))
    return said


def bert() -> BERT4RecEncoder:
    model = encoder("bert4rec")
    assert isinstance(model, BERT4RecEncoder)
    return model


FULL = torch.full((B,), L)


def test_bert4rec_is_the_papers_formula_of_hidden_events() -> None:
    model = bert()
    hidden = torch.zeros(B, L, dtype=torch.bool)
    hidden[:, 2] = hidden[0, 0] = hidden[1, 6] = True
    x = torch.where(hidden[..., None], model.mask, events()) + model.positions[:L]
    said = model.filled(events(), None, hidden, FULL)
    torch.testing.assert_close(said[hidden], both_ways(model, x)[hidden])
    torch.testing.assert_close(said[1:, 0], model.no_history.expand(2, -1))  # the first, where it is not hidden


def test_a_request_is_a_hidden_event_behind_the_history() -> None:
    model = bert()
    x = torch.cat([events(), model.mask.expand(B, 1, H)], 1) + model.positions
    torch.testing.assert_close(model.last(events(), None, FULL), both_ways(model, x)[:, -1])


def test_of_a_full_window_the_hidden_event_still_stands_at_a_place_that_training_knows() -> None:
    """Eight places, eight events and the hidden one: the two oldest share the first place."""
    model = bert()
    many = torch.cat([events(), events()[:, :1]], 1)
    places = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])
    x = torch.cat([many, model.mask.expand(B, 1, H)], 1) + model.positions[places]
    torch.testing.assert_close(model.last(many, None, torch.full((B,), L + 1)), both_ways(model, x)[:, -1])


def test_what_is_hidden_is_not_read_and_both_sides_are() -> None:
    model = bert()
    hidden = torch.zeros(B, L, dtype=torch.bool)
    hidden[:, 3] = True
    said = model.filled(events(), None, hidden, FULL)[:, 3]
    for place in range(L):
        changed = events()
        changed[:, place] = changed[:, place].flip(-1)
        moved = (model.filled(changed, None, hidden, FULL)[:, 3] - said).abs().amax(1)
        assert (moved > 1e-4).all() if place != 3 else not moved.any(), place
    shorter = torch.tensor([5, L, 4])
    padded = events()
    padded[0, 5:] = padded[2, 4:] = 9.0
    again = model.filled(padded, None, hidden, shorter)[:, 3]
    torch.testing.assert_close(again[0], model.filled(events()[:1, :5], None, hidden[:1, :5], shorter[:1])[0, 3])


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_every_place_that_an_answer_stands_at_is_one_that_a_training_learns(name: str) -> None:
    """States before events are learned, and the one after a full window is asked for."""
    model = encoder(name, max_length=L)
    positions = model.positions
    assert isinstance(positions, Positions)
    (model.before(model(events())) * torch.randn(B, L, H)).sum().backward()
    learned = positions.weight.grad.abs().sum(1) > 0
    assert learned.all()
    places = torch.arange(L).clamp(max=len(learned) - 1)
    torch.testing.assert_close(positions(torch.zeros(1, L, H).double())[0], positions.weight[places])
    assert positions.weight.shape == (L - 1, H)


@pytest.mark.parametrize("name", ["sasrec", "esasrec", "bert4rec", "hstu"])
def test_items_enter_as_they_are_unless_they_are_of_another_width(name: str) -> None:
    model = encoder(name)
    assert isinstance(model.project, nn.Identity)
    assert isinstance(encoder(name, width=5).project, nn.Linear)


@pytest.mark.parametrize("name", ["sasrec", "esasrec", "bert4rec"])
def test_order_is_in_the_positions_alone(name: str) -> None:
    """Without them the last state of one block does not know the order of the events before it."""
    model = encoder(name, layers=1)
    weight = model.positions if isinstance(model, BERT4RecEncoder) else model.positions.weight
    turned = torch.cat([events()[:, :-1].flip(1), events()[:, -1:]], 1)
    assert (model.last(turned, None, FULL) - model.last(events(), None, FULL)).abs().max() > 1e-3
    nn.init.zeros_(weight)  # type: ignore[arg-type]
    torch.testing.assert_close(model.last(turned, None, FULL), model.last(events(), None, FULL))


@pytest.mark.parametrize("name", ["sasrec", "esasrec", "gru4rec", "bert4rec", "hstu"])
def test_dropout_is_of_training_and_reaches_every_state(name: str) -> None:
    model = encoder(name, dropout=0.5)
    still = model(events())
    torch.testing.assert_close(model(events()), still)
    model.train()
    assert ((model(events()) - still).abs().amax(-1) > 1e-6).all()
