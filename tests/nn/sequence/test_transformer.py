"""The transformer of a history: its time classes, its block and its biases against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recsys.nn.sequence import SequenceConfig, build_sequence_encoder
from recsys.nn.sequence.attention import time_bucket
from recsys.tests.support.nonempty import nonempty

B, L, DE, H = 3, 7, 5, 8


def test_classes_of_time_double_and_begin_at_0() -> None:
    seconds = [0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 7.0, 1000.0, 1e9]
    for gap in seconds:
        found = time_bucket(torch.tensor([[5e8, 5e8 + gap]], dtype=torch.float64), 20)
        expected = min(math.floor(math.log2(1 + gap) + 1e-6), 19)
        assert found[0, 1, 0].item() == expected, gap
        assert found[0, 0, 1].item() == 0, "a later event is no time ago"
        assert found[0, 0, 0].item() == 0
    assert time_bucket(torch.tensor([[0.0, 1e9]], dtype=torch.float64), 20).shape == (1, 2, 2)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_block_is_attention_and_feed_forward_normalised_before_and_added(heads: int, layers: int) -> None:
    config = SequenceConfig(encoder="transformer", hidden=H, heads=heads, layers=layers, dropout=0.0, max_length=4)
    encoder = build_sequence_encoder(config, DE).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    events = torch.randn(B, L, DE)
    times = torch.rand(B, L, dtype=torch.float64).mul(1e4).sort(1).values
    at = torch.arange(L)
    distance = (at[:, None] - at[None]).clamp(0, 3)
    bias = encoder.position_bias[:, distance] + encoder.time_bias[:, time_bucket(times, 32)].transpose(0, 1)
    bias = bias.masked_fill(at[:, None] < at[None], -math.inf)
    x = encoder.project(encoder.input.norm(events))
    assert len(encoder.blocks) == layers
    for block in encoder.blocks:
        parts = block.project_in(block.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (part.view(B, L, heads, H // heads).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + block.project_out(mixed.transpose(1, 2).reshape(B, L, H))
        first, _, second = block.feed
        x = x + second(torch.relu(first(block.feed_norm(x))))
    torch.testing.assert_close(encoder(events, times=times), encoder.norm(x), rtol=1e-4, atol=1e-5)


def test_every_distance_and_every_class_of_time_that_occurs_has_a_bias_that_learns() -> None:
    config = SequenceConfig(encoder="transformer", hidden=H, heads=2, dropout=0.0, max_length=4, time_buckets=6)
    encoder = build_sequence_encoder(config, DE)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    times = torch.tensor([[0.0, 1, 2, 6, 14, 32, 1000]]).double().expand(B, -1)
    (encoder(torch.randn(B, L, DE), times=times) * torch.randn(B, L, H)).sum().backward()
    assert (encoder.position_bias.grad.abs() > 1e-7).all()
    assert (encoder.time_bias.grad.abs() > 1e-7).all()
    assert encoder.position_bias.shape == (2, 4)
    assert encoder.time_bias.shape == (2, 6)


@pytest.mark.parametrize("times", [False, True])
def test_gradients_of_the_biases_are_those_of_plain_lookups(times: bool) -> None:
    config = SequenceConfig(encoder="transformer", hidden=4, heads=2, dropout=0.0, max_length=3, time_buckets=4)
    encoder = build_sequence_encoder(config, 3).double()
    when = torch.rand(2, 4, dtype=torch.float64).mul(40).sort(1).values if times else None
    events, direction = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 4).double()
    for bias in nonempty((encoder.position_bias, encoder.time_bias) if times else (encoder.position_bias,)):
        (found,) = torch.autograd.grad((encoder(events, times=when) * direction).sum(), bias)
        for place in ((0, 0), (1, 2)):
            step = torch.zeros_like(bias)
            step[place] = 1e-6
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    bias.add_(sign * step)
                    ends.append(float((encoder(events, times=when) * direction).sum()))
                    bias.sub_(sign * step)
            assert float(found[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)
