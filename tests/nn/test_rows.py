"""Row passes over large matrices: what is read and written is what plain indexing reads and writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.nn import rows as rows_module
from recsys.nn.embedding import EmbeddingTable
from recsys.nn.rows import matrices_on_disk, new_matrix, put_rows, rest_on_disk, take_rows


@pytest.mark.parametrize("dim", [1, 3, 4, 16, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_read_and_written_as_by_plain_indexing(dim: int, dtype: torch.dtype) -> None:
    matrix = torch.randn(50, dim, dtype=dtype)
    matrix[3, 0], matrix[4, 0] = torch.nan, torch.inf
    rows = torch.tensor([3, 49, 4, 3, 0])
    assert torch.equal(take_rows(matrix, rows).nan_to_num(7.0), matrix[rows].nan_to_num(7.0))
    expected, values = matrix.clone(), torch.randn(3, dim, dtype=dtype)
    expected[[7, 49, 0]] = values
    put_rows(matrix, torch.tensor([7, 49, 0]), values)
    assert torch.equal(matrix.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_a_view_that_starts_in_the_middle_of_16_bytes_is_written_too() -> None:
    memory = torch.zeros(41)
    put_rows(memory[1:].view(10, 4), torch.tensor([2]), torch.ones(1, 4))
    assert memory.nonzero().flatten().tolist() == [9, 10, 11, 12]


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (1000, 16), (7,)])
def test_a_new_matrix_is_whole_and_begins_a_cache_line(shape: tuple[int, ...]) -> None:
    found = new_matrix(*shape).fill_(1.0)
    assert found.shape == shape
    assert found.is_contiguous()
    assert found.sum().item() == found.numel()
    assert found.numel() == 0 or found.data_ptr() % 64 == 0


def test_a_new_matrix_follows_the_default_device_and_type() -> None:
    with torch.device("meta"):
        assert new_matrix(3, 2).device.type == "meta"
        assert EmbeddingTable({"item": 5}, 2).weight.device.type == "meta"


def test_a_large_matrix_on_disk_holds_what_one_in_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "SMALL", 100)
    torch.manual_seed(5)
    expected = EmbeddingTable({"item": 60}, 3, 0.02).weight
    torch.manual_seed(5)
    with matrices_on_disk(tmp_path):
        table = EmbeddingTable({"item": 60}, 3, 0.02)
        small = new_matrix(10, 10)
    rest_on_disk(small.fill_(1.0))  # is in memory, and stays as it is
    rest_on_disk(table.weight.detach())
    assert torch.equal(table.weight, expected)
    assert small.sum() == 100
    table.write("item", torch.tensor([7]), torch.ones(1, 3))
    rest_on_disk(table.weight.detach())
    assert table.weight[7].tolist() == [1.0, 1.0, 1.0]
    assert list(tmp_path.iterdir()) == []  # nothing is left to clear away


@pytest.mark.parametrize("rows", [3, 100_003])
def test_a_table_starts_with_the_numbers_that_randn_draws(rows: int) -> None:
    torch.manual_seed(5)
    expected = torch.randn(rows, 3) * 0.02
    expected[0] = 0.0
    torch.manual_seed(5)
    assert torch.equal(EmbeddingTable({"item": rows}, 3, 0.02).weight, expected)


def test_a_lookup_is_that_of_torch_and_so_is_its_gradient() -> None:
    table = EmbeddingTable({"item": 30}, 8)
    rows = torch.randint(0, 30, (6, 5), generator=torch.Generator().manual_seed(0))
    answer = torch.randn(6, 5, 8)
    gradients = []
    for found in (table(rows), torch.nn.functional.embedding(rows, table.weight, sparse=True)):
        assert torch.equal(found, table.weight[rows])
        (gradient,) = torch.autograd.grad((found * answer).sum(), table.weight)
        gradients.append((gradient._indices(), gradient._values()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
