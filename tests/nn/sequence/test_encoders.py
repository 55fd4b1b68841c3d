"""What every history encoder promises: causal, indifferent to padding and batch mates, finite without history."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from recsys.base.errors import ConfigError
from recsys.nn.sequence import ENCODERS, SequenceConfig, build_sequence_encoder
from recsys.testing.encoders import DE, LENGTHS, B, EncoderContract, L, encoder_of, inputs
from recsys.tests.support.nonempty import nonempty


class TestEveryEncoder(EncoderContract):
    cases = {
        **{name: {"plain": {}} for name in sorted(ENCODERS)},
        "mean": {"plain": {}, "window": {"window": 3}},
        "lstm": {"plain": {}, "deep": {"layers": 2}},
        "dupn": {"plain": {}, "deep": {"layers": 2}, "peephole": {"peephole": True}},
        "transformer": {"plain": {}, "deep": {"layers": 2, "max_length": 4}},
        "sasrec": {"plain": {}, "deep": {"layers": 2, "max_length": 4}},
        "bert4rec": {"plain": {}, "deep": {"layers": 2, "max_length": 4}},
        "hstu": {"plain": {}, "normalised": {"event_norm": True, "max_length": 1}},
    }


def test_all_ten_are_registered() -> None:
    plain = {"mean", "decayed_mean", "lstm", "dupn", "transformer"}
    assert plain | {"sasrec", "esasrec", "gru4rec", "bert4rec", "hstu"} <= set(ENCODERS)


@pytest.mark.parametrize("name", sorted({*ENCODERS} - {"mean"}))
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


@pytest.mark.parametrize("name", ["transformer", "hstu"])
def test_attention_reads_the_time_between_events(name: str) -> None:
    model = encoder_of(name)
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
    for name in ("transformer", "sasrec", "esasrec", "bert4rec", "hstu"):
        with pytest.raises(ConfigError, match="hidden=9 is not divisible by heads=2"):
            build_sequence_encoder(SequenceConfig(encoder=name, hidden=9), DE)
    with pytest.raises(ValidationError):
        SequenceConfig(half_lives=(0.0,))
