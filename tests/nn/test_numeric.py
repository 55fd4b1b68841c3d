"""The missing-value layer: a learned default where nothing was observed, and no NaN anywhere."""

from __future__ import annotations

import pytest
import torch

from recsys.nn.numeric import MissingValue

X = torch.tensor([[1.0, torch.nan, 3.0], [torch.nan, torch.nan, -2.0], [0.5, 4.0, torch.nan]])


def layer() -> MissingValue:
    return MissingValue(3, torch.tensor([10.0, 20.0, 30.0]))


def test_observed_values_pass_and_missing_ones_take_the_default() -> None:
    assert layer()(X).tolist() == [[1.0, 20.0, 3.0], [10.0, 20.0, -2.0], [0.5, 4.0, 30.0]]
    assert MissingValue(3)(X)[1].tolist() == [0.0, 0.0, -2.0]


def test_a_default_learns_only_where_its_feature_is_missing() -> None:
    found = layer()
    upstream = torch.arange(9.0).view(3, 3)
    (found(X) * upstream).sum().backward()
    assert found.default.grad is not None
    assert found.default.grad.tolist() == [3.0, 1.0 + 4.0, 8.0]


def test_no_nan_forward_or_backward_even_for_a_row_without_any_value() -> None:
    x = torch.full((2, 3), torch.nan, requires_grad=True)
    found = layer()
    out = found(x)
    assert torch.isfinite(out).all()
    out.square().sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert found.default.grad is not None
    assert torch.isfinite(found.default.grad).all()


def test_the_gradient_of_observed_values_is_untouched() -> None:
    x = X.clone().requires_grad_()
    layer()(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (~torch.isnan(X)).float())


def test_a_default_can_be_learned() -> None:
    found = MissingValue(1)
    optimiser = torch.optim.SGD(found.parameters(), lr=0.3)
    x = torch.tensor([[torch.nan], [1.0]])
    for _ in range(100):
        optimiser.zero_grad()
        (found(x)[0] - 7.0).square().sum().backward()
        optimiser.step()
    assert float(found.default.detach()) == pytest.approx(7.0, abs=1e-3)
