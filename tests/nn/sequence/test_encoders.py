"""What every history encoder promises: causal, indifferent to padding and batch mates, finite without history."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from recsys.base.errors import ConfigError
from recsys.nn.sequence import ENCODERS, SequenceConfig, SequenceEncoder, build_sequence_encoder
from recsys.tests.support.nonempty import nonempty

B, L, DE, DP, DQ = 5, 12, 6, 3, 4


def encoder_of(name: str, **options: object) -> SequenceEncoder:
    torch.manual_seed(1)
    config = SequenceConfig(encoder=name, hidden=8, heads=2, attention_hidden=5, **options)
    model = build_sequence_encoder(config, DE, DP, DQ).eval()
    for parameter in model.parameters():  # zero-initialised biases and no-history vectors must matter too
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(length: int = L, batch: int = B) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    times = torch.rand(batch, length, generator=generator, dtype=torch.float64).mul(1e6).sort(1).values + 9e8
    query = torch.randn(batch, DQ, generator=generator)
    events = torch.randn(batch, length, DE, generator=generator)
    properties = torch.randn(batch, length, DP, generator=generator)
    return events, properties, {"times": times, "query": query}


LENGTHS = torch.tensor([12, 7, 1, 0, 3])
VARIANTS = [
    *((name, {}) for name in sorted(ENCODERS)),
    ("mean", {"window": 3}),
    ("lstm", {"layers": 2}),
    ("dupn", {"layers": 2}),
    ("dupn", {"peephole": True}),
    ("transformer", {"layers": 2, "max_length": 4}),
]
every_encoder = pytest.mark.parametrize(("name", "options"), VARIANTS)


def test_all_five_are_registered() -> None:
    assert {"mean", "decayed_mean", "lstm", "dupn", "transformer"} <= set(ENCODERS)


@every_encoder
def test_a_state_never_knows_a_later_event(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options)
    events, properties, more = inputs()
    states = model(events, properties, LENGTHS, **more)
    assert states.shape == (B, L, model.output_width)
    for t in range(L - 1):
        changed_events, changed_properties, changed = events.clone(), properties.clone(), dict(more)
        changed_events[:, t + 1 :] += 3.0
        changed_properties[:, t + 1 :] -= 2.0
        changed["times"] = more["times"].clone()
        changed["times"][:, t + 1 :] += 5e5
        again = model(changed_events, changed_properties, LENGTHS, **changed)
        torch.testing.assert_close(again[:, : t + 1], states[:, : t + 1], rtol=1e-5, atol=1e-5)
        assert (again[:, t + 1] - states[:, t + 1]).abs().max() > 1e-3


@every_encoder
def test_last_is_the_state_at_the_last_valid_event(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options)
    events, properties, more = inputs()
    states, last = model(events, properties, LENGTHS, **more), model.last(events, properties, LENGTHS, **more)
    for row, length in nonempty(enumerate(LENGTHS.tolist())):
        expected = states[row, length - 1] if length else model.no_history
        torch.testing.assert_close(last[row], expected, rtol=1e-5, atol=1e-5)


@every_encoder
def test_padding_and_batch_mates_change_nothing(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options)
    events, properties, more = inputs()
    last = model.last(events, properties, LENGTHS, **more)
    for row, length in nonempty(enumerate(LENGTHS.tolist())):
        alone = model.last(
            events[row : row + 1, :length],
            properties[row : row + 1, :length],
            LENGTHS[row : row + 1],
            times=more["times"][row : row + 1, :length],
            query=more["query"][row : row + 1],
        )
        torch.testing.assert_close(alone[0], last[row], rtol=1e-5, atol=1e-5)


@every_encoder
def test_no_history_gives_a_learned_vector_and_finite_gradients(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options).train()
    for length in (L, 0):
        events, properties, more = inputs(length, 2)
        events.requires_grad_()
        model.zero_grad()
        last = model.last(events, properties, torch.zeros(2, dtype=torch.int64), **more)
        torch.testing.assert_close(last, model.no_history.expand(2, -1))
        last.sum().backward()
        assert torch.equal(model.no_history.grad, torch.full((model.output_width,), 2.0))
        for parameter in [events, *model.parameters()]:
            assert parameter.grad is None or parameter.grad.isfinite().all()


@every_encoder
def test_every_parameter_learns_from_a_window(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options).train()
    events, properties, more = inputs()
    states = model(events, properties, LENGTHS, **more)
    (model.before(states) * torch.randn_like(states)).sum().backward()
    for key, parameter in nonempty(model.named_parameters()):
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@every_encoder
def test_states_before_events_are_shifted_by_one(name: str, options: dict[str, object]) -> None:
    model = encoder_of(name, **options)
    events, properties, more = inputs()
    states = model(events, properties, LENGTHS, **more)
    before = model.before(states)
    torch.testing.assert_close(before[:, 1:], states[:, :-1])
    torch.testing.assert_close(before[:, 0], model.no_history.expand(B, -1))


@pytest.mark.parametrize("name", ["decayed_mean", "lstm", "dupn", "transformer"])
def test_order_matters_to_every_encoder_but_the_mean(name: str) -> None:
    model, full = encoder_of(name), torch.full((B,), L)
    events, properties, more = inputs()
    forwards = model.last(events, properties, full, **more)
    backwards = model.last(events.flip(1), properties.flip(1), full, **more)
    assert (forwards - backwards).abs().max() > 1e-3


def test_the_mean_does_not_know_the_order() -> None:
    model, full = encoder_of("mean"), torch.full((B,), L)
    events, properties, more = inputs()
    forwards = model.last(events, properties, full, **more)
    torch.testing.assert_close(forwards, model.last(events.flip(1), properties.flip(1), full, **more))
    torch.testing.assert_close(forwards, torch.cat([events, properties], -1).mean(1))


def test_a_windowed_mean_is_the_mean_of_the_last_events() -> None:
    model = encoder_of("mean", window=3)
    events, properties, more = inputs()
    states, joined = model(events, properties, LENGTHS, **more), torch.cat([events, properties], -1)
    for t in nonempty(range(L)):
        torch.testing.assert_close(states[:, t], joined[:, max(0, t - 2) : t + 1].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 300])
def test_decayed_means_equal_their_definition_across_chunks(length: int) -> None:
    model = build_sequence_encoder(SequenceConfig(encoder="decayed_mean", dropout=0.0, half_lives=(0.5, 8.0, 1e6)), 2)
    events = torch.randn(2, length, 2, generator=torch.Generator().manual_seed(3))
    states = model(events).view(2, length, 3, 2)
    rates = model.rates.double()
    torch.testing.assert_close(rates, 0.5 ** (1 / torch.tensor([0.5, 8.0, 1e6]).double()), rtol=1e-5, atol=1e-7)
    for t in {0, length // 2, length - 1}:
        weights = rates[:, None] ** torch.arange(t, -1, -1)
        expected = torch.einsum("rs,bsd->brd", weights / weights.sum(1, keepdim=True), events[:, : t + 1].double())
        torch.testing.assert_close(states[:, t].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_transformer_reads_the_time_between_events() -> None:
    model = encoder_of("transformer")
    events, properties, more = inputs()
    full = torch.full((B,), L)
    near = model.last(events, properties, full, **more)
    shifted = model.last(events, properties, full, times=more["times"] + 12345.0, query=more["query"])
    torch.testing.assert_close(shifted, near)  # only differences count
    far = model.last(events, properties, full, times=(more["times"] - 9e8) * 4000, query=more["query"])
    assert (far - near).abs().max() > 1e-3


def test_a_wrong_width_and_a_wrong_name_are_told() -> None:
    model = encoder_of("lstm")
    events, _properties, more = inputs()
    with pytest.raises(ConfigError, match="property vectors of width 0 but was built for width 3"):
        model(events, None, LENGTHS, query=more["query"])
    with pytest.raises(ConfigError, match='no history encoder is called "gru"; there are:'):
        build_sequence_encoder(SequenceConfig(encoder="gru"), DE)
    with pytest.raises(ConfigError, match="hidden=9 is not divisible by heads=2"):
        build_sequence_encoder(SequenceConfig(encoder="transformer", hidden=9), DE)
    with pytest.raises(ValidationError):
        SequenceConfig(half_lives=(0.0,))
