"""Rows in fewer bytes: how far off they are, what stays zero, and that they are looked up as they were."""

from __future__ import annotations

import pytest
import torch

from recsys.nn.at_rest import RowsAtRest, TableDtype
from recsys.nn.embedding import EmbeddingTable


@pytest.fixture
def table() -> EmbeddingTable:
    torch.manual_seed(3)
    return EmbeddingTable({"a": 40, "b": 25}, 12, 0.3)


@pytest.mark.parametrize(("dtype", "bytes_of_row"), [("float16", 24), ("int8", 16)])
def test_rows_are_near_and_small(table: EmbeddingTable, dtype: TableDtype, bytes_of_row: int) -> None:
    """float16 keeps eleven bits; int8 is off by half a step of the row, and by the rounding of its two numbers."""
    weight = table.weight.detach().clone()
    rest = RowsAtRest(weight, dtype)
    found = rest(torch.arange(65))
    spread = weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)
    allowed = weight.abs() / 2048 + 1e-7 if dtype == "float16" else spread / 255 * 0.52 + weight.abs().amax() / 1024
    assert bool(((found - weight).abs() <= allowed).all())
    assert not torch.equal(found, weight)
    assert sum(b.numel() * b.element_size() for b in rest.buffers()) == 65 * bytes_of_row
    assert bool((found[table.pad_rows] == 0).all())


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_table_at_rest_answers_as_the_rows_it_holds(table: EmbeddingTable, dtype: TableDtype) -> None:
    rows, share = torch.randint(0, 65, (7, 5)), torch.rand(7, 5)
    table.settle(dtype)
    assert not list(table.parameters())
    looked_up = table(rows)
    held = torch.cat([table.rows_of("a"), table.rows_of("b")])
    assert torch.equal(looked_up, held[rows])
    torch.testing.assert_close(table.pooled(rows, share), (held[rows] * share[:, :, None]).sum(1))
    table.settle("int8")  # what is at rest stays as it is
    assert torch.equal(table(rows), looked_up)
    table.wake()
    assert torch.equal(table.weight, held)
    assert table.weight.requires_grad


def test_a_row_of_one_number_is_that_number() -> None:
    rest = RowsAtRest(torch.full((2, 4), 0.25), "int8")
    assert torch.equal(rest(torch.tensor([1])), torch.full((1, 4), 0.25))
