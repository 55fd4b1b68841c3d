"""Packed rows: what a gather gives equals indexing every column by itself, in order and in int64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.batch import Block, join_blocks
from recsys.data.packed import SMALL, Packed, select_joined
from recsys.tests.support.shop import Shop

SIZES = ((40, 70_000, 256), (257, 3), (), (12,), (9, 9, 100_000, 9))


def made(sizes: tuple[int, ...], rows: int = 300) -> Block:
    """Random values that reach both ends of every vocabulary."""
    rng = np.random.default_rng(len(sizes))
    columns = [np.r_[0, size - 1, rng.integers(0, size, rows - 2)] for size in sizes]
    numeric = torch.from_numpy(rng.normal(size=(rows, len(sizes))).astype(np.float32))
    numeric[::7] = float("nan")
    return Block(
        torch.from_numpy(np.stack(columns, 1) if columns else np.empty((rows, 0), np.int64)),
        numeric,
        (torch.from_numpy(rng.integers(0, 70_000, (rows, 3))),),
        (),
        (torch.from_numpy(rng.random((rows, 4)).astype(np.float32)),),
    )


def assert_equal(one: Block, other: Block) -> None:
    pairs = [(one.categorical, other.categorical), (one.numeric, other.numeric)]
    pairs += [*zip(one.bags, other.bags, strict=True), *zip(one.vectors, other.vectors, strict=True)]
    for first, second in pairs:
        assert first.dtype == second.dtype
        assert torch.equal(first.nan_to_num(-9), second.nan_to_num(-9))


@pytest.mark.parametrize("sizes", SIZES)
def test_a_gather_equals_indexing_the_block(sizes: tuple[int, ...]) -> None:
    block = made(sizes)
    packed = Packed.of(block, sizes)
    assert packed.small.shape[1] == sum(size <= SMALL for size in sizes)
    assert packed.rows == block.rows
    rows = torch.randint(block.rows, (1_000,))
    assert_equal(packed.select(rows), block.select(rows))
    assert_equal(packed.select(rows[:0]), block.select(rows[:0]))
    assert_equal(packed.whole(), block)
    assert_equal(Packed.of(block).whole(), block)
    for column in range(len(sizes)):
        assert np.array_equal(packed.codes(column), block.categorical[:, column])
        assert np.array_equal(packed.codes(column, rows.numpy()), block.categorical[rows, column])


def test_tables_side_by_side_equal_joined_blocks() -> None:
    blocks = [made(sizes) for sizes in SIZES]
    rows = [torch.randint(300, (64,)) for _ in blocks]
    joined = select_joined([(Packed.of(b, s), r) for b, s, r in zip(blocks, SIZES, rows, strict=True)])
    assert_equal(joined, join_blocks([block.select(r) for block, r in zip(blocks, rows, strict=True)]))


def test_blank_rows_have_the_columns_and_say_nothing() -> None:
    packed = Packed.of(made((40, 70_000)), (40, 70_000))
    blank = packed.blank(5).whole()
    assert [t.shape[1:] for t in (blank.categorical, blank.numeric)] == [(2,), (2,)]
    assert not blank.categorical.any()
    assert blank.rows == 5


@pytest.mark.parametrize("kind", ["time", "random"])
def test_a_batch_of_the_log_equals_its_columns_taken_one_by_one(shop: Shop, kind: str) -> None:
    """The tables' own columns, each indexed by itself, are what stands in a batch before the sequences' columns."""
    dataset = shop.dataset(kind)
    rows = torch.randperm(len(dataset.events))
    batch, events = dataset.batch(rows), dataset.events
    assert [str(column.dtype) for column in (events.users, events.items)] == ["int32", "int32"]
    users, items = (torch.from_numpy(column.astype(np.int64))[rows] for column in (events.users, events.items))
    query = join_blocks((dataset.users.whole().select(users), dataset.row_query.whole().select(rows)))
    item = join_blocks((dataset.items.whole().select(items), dataset.row_item.whole().select(rows)))
    for found, expected in ((batch.query, query), (batch.item, item)):
        assert torch.equal(found.categorical, expected.categorical)
        own = found.numeric[:, : expected.numeric.shape[1]]
        assert torch.equal(own.nan_to_num(-9), expected.numeric.nan_to_num(-9))
        assert all(map(torch.equal, found.bags, expected.bags))
        assert all(map(torch.equal, found.vectors, expected.vectors))
    for told, column in ((batch.labels, events.labels), (batch.mask, events.mask), (batch.weight, events.weights)):
        assert torch.equal(told, torch.from_numpy(column.copy())[rows])
    sides = dataset.sides
    assert dataset.row_query.small.shape[1] == sum(len(sides[s].categorical) for s in ("context", "query_counts"))
