"""Row-sparse optimisers: the textbook's numbers on the rows of the batch, nothing anywhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.base.errors import RunError
from recsys.nn.embedding import EmbeddingTable
from recsys.training import sparse
from recsys.training.sparse import RowGradient, RowSum, TableOptimizer

SIZES = {"user": 7, "item": 30, "tag": 4}
PADS = [0, 7, 37]
ROWS = 41


def table(dim: int = 3, sizes: dict[str, int] = SIZES) -> EmbeddingTable:
    torch.manual_seed(1)
    return EmbeddingTable(sizes, dim, std=0.5)


def look_up(source: EmbeddingTable, rows: Tensor, seed: int) -> None:
    """Give the table the gradient of a weighted sum of looked-up rows."""
    weights = torch.randn(*rows.shape, source.dim, generator=torch.Generator().manual_seed(seed))
    (source(rows) * weights).sum().backward()


def adam(source: EmbeddingTable, weight_decay: float = 0.0) -> TableOptimizer:
    return TableOptimizer(source, "adam", (0.9, 0.99), 1e-8, weight_decay)


def step(optimizer: TableOptimizer, lr: float = 0.05) -> None:
    found = optimizer.gradient()
    assert found is not None
    optimizer.update(found, lr)
    optimizer.table.weight.grad = None


@pytest.mark.parametrize("pads", [PADS, [0]])
def test_both_ways_of_summing_give_the_sums(pads: list[int]) -> None:
    rows = torch.randint(0, ROWS, (500,))
    rows[:5] = torch.tensor([0, 7, 37, 40, 40])
    values = torch.randn(500, 3)
    dense = torch.zeros(ROWS, 3).index_add_(0, rows, values)
    expected = [row for row in sorted(set(rows.tolist())) if row not in pads]
    summing = RowSum(ROWS, torch.tensor(pads, dtype=torch.int64))
    for _ in range(2):  # twice: a reused buffer must come back empty
        for found in (summing.dense(rows, values), summing.sorted(rows, values)):
            assert found.rows.tolist() == expected
            torch.testing.assert_close(found.values, dense[expected])
    few = summing.dense(torch.tensor([3]), torch.ones(1, 3))
    assert few.rows.tolist() == [3]
    assert few.values.tolist() == [[1.0, 1.0, 1.0]]


def test_small_tables_and_large_ones_are_summed_each_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("dense", "sorted"):
        monkeypatch.setattr(RowSum, name, lambda self, rows, values, name=name: taken.append(name))
    pads = torch.tensor([0])
    RowSum(100, pads)(torch.zeros(1000, dtype=torch.int64), torch.zeros(1000, 2))
    RowSum(10**9, pads)(torch.zeros(1000, dtype=torch.int64), torch.zeros(1000, 2))
    RowSum(100, pads)(torch.zeros(1 << 15, dtype=torch.int64), torch.zeros(1 << 15, 32))
    assert taken == ["dense", "sorted", "sorted"]


def test_sums_in_fixed_shapes_are_the_sums_filled_up_with_the_first_padding_row() -> None:
    rows = torch.tensor([9, 40, 7, 9, 0, 40, 9, 2])
    values = torch.randn(8, 3)
    summing = RowSum(ROWS, torch.tensor([*PADS, 40]))
    exact, fixed = summing.sorted(rows, values), summing.fixed(rows, values)
    assert fixed.counted is not None
    counted = fixed.counted.bool()
    assert fixed.rows.tolist() == [0, 2, 0, 9, 0, 0, 0, 0]
    assert torch.equal(fixed.rows[counted], exact.rows)
    assert torch.equal(fixed.values[counted], exact.values)
    assert not fixed.values[~counted].any()


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("dim", [1, 3, 8])
@pytest.mark.parametrize("lookups", [0, 60, 3000])
def test_every_way_of_summing_trains_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, kind: str, dim: int, lookups: int
) -> None:
    """Bit for bit, the state too: with frozen rows, with decay, in blocks, and by the textbook's index arithmetic."""
    monkeypatch.setattr(sparse, "UPDATE_ENTRIES", 40)
    ends = []
    for way in ("dense", "sorted", "fixed", "plain"):
        source = table(dim)
        source.freeze(torch.tensor([5, 36]))
        optimizer = TableOptimizer(source, kind, (0.9, 0.99), 1e-8, 0.1)  # type: ignore[arg-type]
        summing = RowSum(ROWS, source.still_rows)
        for seed in range(3):
            rows = torch.randint(0, ROWS, (lookups,), generator=torch.Generator().manual_seed(seed))
            values = torch.randn(lookups, dim, generator=torch.Generator().manual_seed(seed))
            if way == "plain":
                sums = torch.zeros(ROWS, dim).index_add_(0, rows, values)
                met = [row for row in rows.unique().tolist() if row not in source.still_rows]
                found = RowGradient(torch.tensor(met, dtype=torch.int64), sums[met])
            else:
                found = getattr(summing, way)(rows, values)
            optimizer.update(found, 0.05)
        ends.append([source.weight.detach(), *optimizer.slots.values()])
    assert all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


def test_what_a_step_in_fixed_shapes_returns_depends_on_the_number_of_lookups_alone() -> None:
    """Traced on a device without numbers: nothing may ask how many rows there were."""
    summing = RowSum(10**6, torch.tensor([0], device="meta"))
    found = summing(torch.empty(50, dtype=torch.int64, device="meta"), torch.empty(50, 4, device="meta"))
    assert found.rows.shape == (50,)
    assert found.values.shape == (50, 4)


def test_lazy_adam_is_adam_where_every_row_is_looked_up() -> None:
    source = table()
    reference = source.weight.detach().clone().requires_grad_()
    textbook = torch.optim.Adam([reference], lr=0.05, betas=(0.9, 0.99))
    optimizer = adam(source)
    every = torch.arange(ROWS).repeat(3)
    for seed in range(12):
        look_up(source, every, seed)
        reference.grad = source.weight.grad.to_dense()  # type: ignore[union-attr]
        reference.grad[PADS] = 0.0
        textbook.step()
        step(optimizer)
    torch.testing.assert_close(source.weight, reference, rtol=1e-5, atol=1e-6)


def test_a_row_sees_adam_over_the_steps_that_touched_it() -> None:
    """Rows looked up at different times end as if each had been trained alone."""
    source = table()
    alone = {row: source.weight[row].detach().clone().requires_grad_() for row in (3, 20)}
    textbook = {row: torch.optim.Adam([weight], lr=0.05, betas=(0.9, 0.99)) for row, weight in alone.items()}
    untouched = source.weight[12].detach().clone()
    optimizer = adam(source)
    for seed, rows in enumerate([[3], [3, 3], [20], [3, 20], [20, 20, 20]]):
        look_up(source, torch.tensor(rows), seed)
        dense = source.weight.grad.to_dense()  # type: ignore[union-attr]
        for row in set(rows):
            alone[row].grad = dense[row]
            textbook[row].step()
        step(optimizer)
    for row, weight in alone.items():
        torch.testing.assert_close(source.weight[row], weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(source.weight[12], untouched)
    assert not optimizer.slots["mean"][12].any()


def test_rowwise_adagrad_by_hand() -> None:
    source = table()
    start = source.weight.detach().clone()
    optimizer = TableOptimizer(source, "rowwise_adagrad", (0.9, 0.99), 1e-8, 0.0)
    for _ in range(2):
        (source(torch.tensor([5, 5, 9])) * torch.tensor([1.0, 2.0, 2.0])).sum().backward()
        step(optimizer, lr=0.1)
    # row 5 has gradient (2, 4, 4) each time, mean square 12: steps of g / sqrt(12) and g / sqrt(24)
    moved = 0.1 * torch.tensor([2.0, 4.0, 4.0]) * (12**-0.5 + 24**-0.5)
    torch.testing.assert_close(source.weight[5], start[5] - moved)
    assert optimizer.slots["square"][5].item() == pytest.approx(24.0)
    assert torch.equal(source.weight[10], start[10])


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("repeats", [1, 50])
def test_padding_rows_stay_zero(kind: str, repeats: int) -> None:
    source = table()
    optimizer = TableOptimizer(source, kind, (0.9, 0.99), 1e-8, 0.1)  # type: ignore[arg-type]
    for seed in range(3):
        look_up(source, torch.tensor([*PADS, 2, 9]).repeat(repeats), seed)
        step(optimizer)
    assert not source.weight[PADS].any()
    assert all(not slot[PADS].any() for slot in optimizer.slots.values())


def test_decay_shrinks_the_rows_of_the_batch_only() -> None:
    decayed, plain = table(), table()
    for source, decay in ((decayed, 0.5), (plain, 0.0)):
        optimizer = adam(source, decay)
        look_up(source, torch.tensor([2, 9]), 0)
        step(optimizer, lr=0.1)
    start = table().weight
    torch.testing.assert_close(plain.weight[[2, 9]] - decayed.weight[[2, 9]], start[[2, 9]] * 0.05)
    assert torch.equal(plain.weight[10:], decayed.weight[10:])


def test_a_table_used_whole_is_trained_too() -> None:
    source, other = table(), table()
    (source.weight * torch.arange(ROWS).unsqueeze(1)).sum().backward()
    (other(torch.arange(ROWS)) * torch.arange(ROWS).unsqueeze(1)).sum().backward()
    step(adam(source))
    step(adam(other))
    assert torch.equal(source.weight, other.weight)


def test_state_moves_to_a_grown_table_by_vocabulary() -> None:
    small = table()
    trained = adam(small)
    for seed in range(3):
        look_up(small, torch.arange(ROWS), seed)
        step(trained)
    grown = table(sizes={"new": 5, "user": 9, "item": 30, "tag": 6})
    optimizer = adam(grown)
    optimizer.load(trained.state(), grown=True)
    for name, rows in SIZES.items():
        old = slice(small.offsets[name], small.offsets[name] + rows)
        new = slice(grown.offsets[name], grown.offsets[name] + rows)
        for slot, values in optimizer.slots.items():
            assert torch.equal(values[new], trained.slots[slot][old])
            assert not values[grown.offsets[name] + rows : grown.offsets[name] + grown.sizes[name]].any()
    assert not optimizer.slots["steps"][:5].any()


def test_state_of_another_table_is_refused() -> None:
    state = adam(table()).state()
    with pytest.raises(RunError, match='vocabulary "user"'):
        adam(table(sizes={**SIZES, "user": 9})).load(state, grown=False)
    with pytest.raises(RunError, match='vocabulary "item"'):
        adam(table(sizes={**SIZES, "item": 20})).load(state, grown=True)
    with pytest.raises(RunError, match="table_optimizer"):
        TableOptimizer(table(), "rowwise_adagrad", (0.9, 0.99), 1e-8, 0.0).load(state, grown=True)
