"""DCN-V2 cross layers against their formula and their degree."""

from __future__ import annotations

import pytest
import torch

from recsys.nn.cross import CrossNetwork
from recsys.nn.split import SplitInput


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_layers_are_the_papers_formula(layers: int) -> None:
    cross = CrossNetwork(9, layers, rank=4)
    for parameter in cross.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    x = torch.randn(6, 9)
    expected = x
    for down, up, bias in zip(cross.down, cross.up, cross.bias, strict=True):
        expected = x * (expected @ (up @ down).T + bias) + expected
    torch.testing.assert_close(cross(SplitInput.of(x)).flat(), expected, rtol=1e-4, atol=1e-4)


def test_the_parameter_count_is_two_d_r_plus_d_per_layer() -> None:
    assert sum(p.numel() for p in CrossNetwork(9, 3, rank=4).parameters()) == 3 * (2 * 9 * 4 + 9)
    assert sum(p.numel() for p in CrossNetwork(9, 1, rank=100).parameters()) == 2 * 9 * 9 + 9, "rank is capped at D"


def test_zero_weights_are_the_identity_and_a_split_input_gives_the_same() -> None:
    cross = CrossNetwork(9, 2, rank=4)
    x = SplitInput(torch.randn(2, 4), torch.randn(6, 5), torch.tensor([0, 1, 0, 1, 1, 0]))
    torch.testing.assert_close(cross(x).flat(), cross(SplitInput.of(x.flat())).flat(), rtol=1e-5, atol=1e-5)
    for parameter in cross.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(cross(x).flat(), x.flat())


def test_l_layers_are_a_polynomial_of_degree_l_plus_one() -> None:
    """Finite differences of order L + 2 along a line vanish, those of order L + 1 do not."""
    for layers in (1, 2):
        cross = CrossNetwork(5, layers, rank=5).double()
        direction = torch.randn(5, dtype=torch.float64)
        steps = torch.arange(-4.0, 5.0, dtype=torch.float64)
        values = cross(SplitInput.of(steps[:, None] * direction)).flat()
        for _ in range(layers + 1):
            values = values.diff(dim=0)
        assert values.abs().max() > 1e-3
        assert values.diff(dim=0).abs().max() < 1e-9
