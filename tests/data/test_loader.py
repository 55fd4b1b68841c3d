"""The loader: every row once an epoch, an order of (seed, epoch) alone, and a cursor that continues anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError, DataError, RunError
from recsys.data.loader import Loader


class Echo:
    """A source that hands back the row numbers it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def batch(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return rows.clone()


def make(rows: int = 103, batch_size: int = 10, seed: int = 5, **options: bool) -> Loader[Tensor]:
    return Loader(Echo(), torch.arange(rows) * 3, batch_size, seed, **options)


def epoch(loader: Loader[Tensor]) -> list[int]:
    return torch.cat(list(loader)).tolist()


def test_an_epoch_holds_every_row_once_and_one_call_makes_a_batch() -> None:
    loader = make()
    batches = list(loader)
    assert [len(b) for b in batches] == [10] * 10 + [3]
    assert len(loader) == 11
    assert sorted(torch.cat(batches).tolist()) == [3 * i for i in range(103)]
    assert loader.source.calls == 11  # type: ignore[attr-defined]


def test_orders_differ_by_epoch_and_by_seed_and_repeat() -> None:
    loader, again, other = make(), make(), make(seed=6)
    first, second = epoch(loader), epoch(loader)
    assert first != second
    assert first != sorted(first)
    torch.manual_seed(99)  # the global generator plays no part
    assert [epoch(again), epoch(again)] == [first, second]
    assert epoch(other) != first


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    epoch(make())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffling_rows_come_in_their_order() -> None:
    loader = make(shuffle=False)
    assert epoch(loader) == epoch(loader) == [3 * i for i in range(103)]


def test_short_batches_are_dropped_on_request_and_not_always_the_same_rows() -> None:
    loader = make(drop_last=True)
    passes = [epoch(loader) for _ in range(4)]
    assert len(loader) == 10
    assert all(len(rows) == 100 for rows in passes)
    assert len({frozenset(rows) for rows in passes}) > 1


@pytest.mark.parametrize("taken", [0, 1, 7, 10, 11])
def test_a_restored_loader_continues_with_the_very_next_batch(taken: int) -> None:
    whole = make()
    expected = [b.tolist() for _ in range(3) for b in whole]
    loader = make()
    epoch(loader)
    iterator = iter(loader)
    for _ in range(taken):
        next(iterator)
    state = loader.state()
    resumed = make()
    resumed.restore(state)
    continued = [b.tolist() for _ in range(2) for b in resumed]
    assert continued == expected[11 + taken : 33]
    assert resumed.epoch == 3


def test_rows_of_the_batch_at_hand_are_known() -> None:
    loader = make()
    assert [(len(batch), loader.rows_in_batch) for batch in loader] == [(10, 10)] * 10 + [(3, 3)]


@pytest.mark.parametrize("other", [make(seed=6), make(batch_size=20), make(rows=90)])
def test_a_cursor_of_another_loader_is_refused(other: Loader[Tensor]) -> None:
    with pytest.raises(RunError, match="the checkpoint was taken with"):
        other.restore(make().state())


def test_bad_arguments_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="no rows"):
        make(rows=0)
    with pytest.raises(ConfigError, match="batch_size=0"):
        make(batch_size=0)
    with pytest.raises(ConfigError, match="exceeds the 103 rows"):
        make(batch_size=104, drop_last=True)
