"""Blocks: a change reaches every tensor, and pairs of blocks are joined tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from recsys.data.batch import Block


def block(start: float) -> Block:
    def tensor(*shape: int) -> torch.Tensor:
        return start + torch.arange(float(torch.Size(shape).numel())).reshape(shape)

    return Block(tensor(3, 2), tensor(3, 1), (tensor(3, 4), tensor(3, 2)), (tensor(3, 2, 2),), (tensor(3, 5),))


def tensors(block: Block) -> list[torch.Tensor]:
    return [block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors]


def test_map_changes_every_tensor_in_its_place() -> None:
    before = block(0.0)
    doubled = before.map(lambda tensor: 2 * tensor)
    assert [t.shape for t in tensors(doubled)] == [t.shape for t in tensors(before)]
    assert all(torch.equal(new, 2 * old) for new, old in zip(tensors(doubled), tensors(before), strict=True))


def test_map_pairs_the_tensors_of_two_blocks() -> None:
    difference = block(10.0).map(torch.sub, block(3.0))
    assert len(tensors(difference)) == 6
    assert all((tensor == 7.0).all() for tensor in tensors(difference))


def test_blocks_of_other_columns_are_refused() -> None:
    fewer = Block(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="zip"):
        block(0.0).map(torch.add, fewer)


def test_select_takes_rows_of_every_tensor() -> None:
    rows = torch.tensor([2, 0])
    chosen = block(0.0).select(rows)
    assert all(torch.equal(new, old[rows]) for new, old in zip(tensors(chosen), tensors(block(0.0)), strict=True))
