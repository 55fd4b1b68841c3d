"""A split input is its concatenation, computed with the query part once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.nn.split import SplitInput
from recsys.tests.support.nonempty import nonempty


def several(queries: int, rows: int = 12) -> SplitInput:
    owner = torch.arange(rows) % queries
    return SplitInput(torch.randn(queries, 4, requires_grad=True), torch.randn(rows, 5, requires_grad=True), owner)


@pytest.mark.parametrize("queries", [1, 3, 12])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_the_linear_of_the_concatenation(queries: int, bias: bool) -> None:
    x, layer = several(queries), nn.Linear(9, 7, bias=bias)
    rows = torch.cat([x.query[x.owner], x.item], dim=1)
    torch.testing.assert_close(x.flat(), rows)
    torch.testing.assert_close(x.linear(layer.weight, layer.bias), layer(rows), rtol=1e-5, atol=1e-5)
    upstream = torch.randn(12, 7)
    split = torch.autograd.grad(x.linear(layer.weight, layer.bias), [x.query, x.item, layer.weight], upstream)
    plain = torch.autograd.grad(layer(rows), [x.query, x.item, layer.weight], upstream)
    for a, b in zip(split, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("owner", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 1, 2], [0, 1, 1, 2, 2]])
def test_answering_adds_the_query_part_to_its_own_rows(owner: list[int]) -> None:
    """Without gradients, rows that stand query by query take a shorter way; others must not."""
    x = SplitInput(torch.randn(3, 4), torch.randn(len(owner), 5), torch.tensor(owner))
    weight, bias = torch.randn(7, 9), torch.randn(7)
    wanted = torch.cat([x.query[x.owner], x.item], dim=1) @ weight.T + bias
    with torch.no_grad():
        torch.testing.assert_close(x.linear(weight, bias), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 3, 12])
@pytest.mark.parametrize("shared", [False, True])
def test_layers_read_together_are_the_layers_one_by_one(queries: int, shared: bool) -> None:
    x = several(queries) if shared else SplitInput(torch.randn(12, 4), torch.randn(12, 5))
    layers = [nn.Linear(9, width, bias=width != 3) for width in (7, 3, 5)]
    found = x.linears([layer.weight for layer in layers], [layer.bias for layer in layers])
    for layer, part in nonempty(zip(layers, found, strict=True)):
        torch.testing.assert_close(part, layer(x.flat()), rtol=1e-5, atol=1e-5)


def test_without_owner_row_meets_row() -> None:
    x = SplitInput(torch.randn(6, 4), torch.randn(6, 5))
    weight = torch.randn(3, 9)
    torch.testing.assert_close(x.linear(weight), torch.cat([x.query, x.item], 1) @ weight.T)


def test_the_query_part_is_multiplied_once_per_query() -> None:
    """The number of multiplications with the query weights does not grow with the number of items."""
    seen: list[tuple[int, ...]] = []
    original = torch.nn.functional.linear

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        seen.append((*x.shape, weight.shape[0]))
        return original(x, weight, bias)

    x, weight = several(3), torch.randn(7, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.nn.split.F.linear", spy)
        x.linear(weight)
    assert sorted(seen) == [(3, 4, 7), (12, 5, 7)]


@pytest.mark.parametrize(("query", "item"), [(0, 5), (4, 0)])
def test_an_empty_side_is_allowed(query: int, item: int) -> None:
    x = SplitInput(torch.randn(6, query), torch.randn(6, item))
    assert x.width == query + item
    assert x.rows == 6
    assert x.flat().shape == (6, x.width)
    assert x.linear(torch.randn(3, x.width)).shape == (6, 3)
    requests = SplitInput(torch.randn(2, query), torch.randn(6, item), torch.tensor([0, 1, 0, 1, 0, 1]))
    weight = torch.randn(3, x.width)
    torch.testing.assert_close(requests.linear(weight), requests.flat() @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("query", "item"), [(1, 5), (4, 1), (6, 6), (1, 1)])
@pytest.mark.parametrize("queries", [None, 1, 2])
def test_parts_of_any_width_are_concatenated(query: int, item: int, queries: int | None) -> None:
    owner = None if queries is None else torch.arange(6) % queries
    x = SplitInput(torch.randn(queries or 6, query), torch.randn(6, item), owner)
    rows = torch.cat([x.query if owner is None else x.query[owner], x.item], dim=1)
    assert torch.equal(x.flat(), rows)
    weight = torch.randn(3, x.width)
    torch.testing.assert_close(x.linear(weight), rows @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shared", "products"), [(False, 1), (True, 2 * 3)])
def test_layers_read_together_are_one_product_where_no_query_is_shared(shared: bool, products: int) -> None:
    x = several(3) if shared else SplitInput(torch.randn(12, 4), torch.randn(12, 5))
    seen: list[torch.Tensor] = []
    original = torch.nn.functional.linear

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(weight)
        return original(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.nn.split.F.linear", spy)
        x.linears([torch.randn(7, 9) for _ in range(3)], [None] * 3)
    assert len(seen) == products


def test_layers_without_any_bias_have_none() -> None:
    x, weights = SplitInput(torch.randn(6, 4), torch.randn(6, 5)), [torch.randn(3, 9), torch.randn(2, 9)]
    for part, weight in nonempty(zip(x.linears(weights, [None, None]), weights, strict=True)):
        torch.testing.assert_close(part, x.flat() @ weight.T, rtol=1e-5, atol=1e-5)


def test_values_per_query_are_spread_to_their_rows() -> None:
    x, values = several(3), torch.randn(3, 2, 5)
    assert torch.equal(x.spread(values), values[x.owner])
    assert x.spread(values[:1]).shape == (1, 2, 5), "one query broadcasts"
    own = SplitInput(torch.randn(6, 4), torch.randn(6, 5))
    each = torch.randn(6, 2)
    assert own.spread(each) is each


def test_a_flat_tensor_is_an_input_and_comes_back_as_it_is() -> None:
    flat = torch.randn(6, 5)
    assert SplitInput.of(flat).flat() is flat
    x = several(3)
    assert x.flat() is x.flat()
