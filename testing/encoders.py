"""What every history encoder promises: causal, indifferent to padding and batch mates, finite without history."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..nn.sequence import SequenceConfig, SequenceEncoder, build_sequence_encoder
from .contract import Contract

B, L, DE, DP, DQ = 5, 12, 6, 3, 4
LENGTHS = torch.tensor([12, 7, 1, 0, 3])


def encoder_of(name: str, **keys: Any) -> SequenceEncoder:
    """A small encoder whose weights are all random: biases and no-history vectors that start at 0 must matter too."""
    torch.manual_seed(1)
    config = SequenceConfig.model_validate({"encoder": name, "hidden": 8, "heads": 2, "attention_hidden": 5, **keys})
    model = build_sequence_encoder(config, DE, DP, DQ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(length: int = L, batch: int = B) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Events [B, L, DE], their properties [B, L, DP], and the times and query vectors beside them."""
    generator = torch.Generator().manual_seed(7)
    times = torch.rand(batch, length, generator=generator, dtype=torch.float64).mul(1e6).sort(1).values + 9e8
    query = torch.randn(batch, DQ, generator=generator)
    events = torch.randn(batch, length, DE, generator=generator)
    properties = torch.randn(batch, length, DP, generator=generator)
    return events, properties, {"times": times, "query": query}


class EncoderContract(Contract):
    """Every history encoder, each with several tables of keys of `[... .history]`."""

    def test_a_state_never_knows_a_later_event(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys)
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

    def test_last_is_the_state_at_the_last_valid_event(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys)
        events, properties, more = inputs()
        states, last = model(events, properties, LENGTHS, **more), model.last(events, properties, LENGTHS, **more)
        for row, length in enumerate(LENGTHS.tolist()):
            expected = states[row, length - 1] if length else model.no_history
            torch.testing.assert_close(last[row], expected, rtol=1e-5, atol=1e-5)

    def test_padding_and_batch_mates_change_nothing(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys)
        events, properties, more = inputs()
        last = model.last(events, properties, LENGTHS, **more)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = model.last(
                events[row : row + 1, :length],
                properties[row : row + 1, :length],
                LENGTHS[row : row + 1],
                times=more["times"][row : row + 1, :length],
                query=more["query"][row : row + 1],
            )
            torch.testing.assert_close(alone[0], last[row], rtol=1e-5, atol=1e-5)

    def test_no_history_gives_a_learned_vector_and_finite_gradients(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys).train()
        for length in (L, 0):
            events, properties, more = inputs(length, 2)
            events.requires_grad_()
            model.zero_grad()
            last = model.last(events, properties, torch.zeros(2, dtype=torch.int64), **more)
            torch.testing.assert_close(last, model.no_history.expand(2, -1))
            last.sum().backward()
            assert model.no_history.grad is not None
            assert torch.equal(model.no_history.grad, torch.full((model.output_width,), 2.0))
            for parameter in [events, *model.parameters()]:
                assert parameter.grad is None or parameter.grad.isfinite().all()

    def test_every_parameter_learns_from_a_window(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys).train()
        events, properties, more = inputs()
        states = model(events, properties, LENGTHS, **more)
        (model.before(states) * torch.randn_like(states)).sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().sum() > 0, key

    def test_states_before_events_are_shifted_by_one(self, kind: str, keys: dict[str, Any]) -> None:
        model = encoder_of(kind, **keys)
        events, properties, more = inputs()
        states = model(events, properties, LENGTHS, **more)
        before = model.before(states)
        torch.testing.assert_close(before[:, 1:], states[:, :-1])
        torch.testing.assert_close(before[:, 0], model.no_history.expand(B, -1))
