"""The prepared-mask dropout keeps the rate, the mean and the independence that a fresh draw would have."""

from __future__ import annotations

import pytest
import torch

from recsys.base.errors import ConfigError
from recsys.nn import dropout as module
from recsys.nn.dropout import FastDropout, mask_pool


@pytest.fixture(autouse=True)
def _small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "mask_pool", lambda rate: mask_pool(rate, 1 << 16))


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.75])
def test_the_pool_has_exactly_the_rate_and_mean_one(rate: float) -> None:
    pool = mask_pool(rate, 1 << 16)
    assert abs(int((pool == 0).sum()) - rate * len(pool)) <= 0.5
    assert abs(pool.double().mean().item() - 1.0) < 1e-6
    assert len(pool.unique()) == 2


def test_entries_are_dropped_independently_of_place_and_neighbour() -> None:
    layer, x = FastDropout(0.4).train(), torch.ones(20, 8)
    kept = torch.stack([(layer(x) > 0).double() for _ in range(4000)])
    assert (kept.mean(0) - 0.6).abs().max() < 0.05  # 6 standard errors
    centred = (kept - kept.mean(0)).flatten(1)
    correlation = (centred.T @ centred) / len(kept) / 0.24
    correlation.fill_diagonal_(0.0)
    assert correlation.abs().max() < 0.1
    assert correlation.abs().mean() < 0.02


def test_seed_repeats_it_and_calls_differ() -> None:
    layer, x = FastDropout(0.5).train(), torch.ones(64, 16)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    own = FastDropout(0.5, torch.Generator().manual_seed(1)).train()
    again = FastDropout(0.5, torch.Generator().manual_seed(1)).train()
    assert torch.equal(own(x), again(x))


def test_gradient_passes_where_the_value_does() -> None:
    x = torch.randn(100, 10, requires_grad=True)
    y = FastDropout(0.3).train()(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(y, x * x.grad)


def test_it_does_nothing_in_eval_mode_and_at_rate_zero() -> None:
    x = torch.randn(4, 4)
    assert FastDropout(0.5).eval()(x) is x
    assert FastDropout(0.0).train()(x) is x


def test_tensors_larger_than_the_pool_are_masked_whole() -> None:
    y = FastDropout(0.25).train()(torch.ones(3, 1 << 16))
    assert y.shape == (3, 1 << 16)
    assert abs((y == 0).float().mean().item() - 0.25) < 0.01
    assert not torch.equal(y[0], y[1])


def test_a_rate_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dropout=1.0 is outside \[0, 1\)"):
        FastDropout(1.0)
