"""The loader: every row once an epoch, an order of (seed, epoch) alone, a cursor that continues anywhere."""

from __future__ import annotations

import gc
import threading
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.base.errors import ConfigError, DataError, RunError
from recsys.data import loader as loading
from recsys.data import order
from recsys.data.loader import AHEAD, Loader
from recsys.data.order import WindowedOrder


class Echo:
    """A source that hands back the row numbers it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def batch(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return rows.clone()


def make(rows: int = 103, batch_size: int = 10, seed: int = 5, **options: Any) -> Loader[Tensor]:
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


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 8 rows, windows of 3 segments."""
    monkeypatch.setattr(order, "SEGMENT", 8)
    monkeypatch.setattr(order, "SEGMENTS", 3)


@pytest.mark.usefixtures("small_windows")
def test_windows_hold_every_row_once_and_permute_segments_and_what_is_inside() -> None:
    loader = make(windowed=True)
    first, second = epoch(loader), epoch(loader)
    assert sorted(first) == sorted(second) == [3 * i for i in range(103)]
    assert first != second
    assert epoch(make(windowed=True)) == first
    assert epoch(make(windowed=True, seed=6)) != first
    orders = WindowedOrder(torch.arange(103), 5, 0)
    assert len(orders.bounds) == 6
    for start, end in zip(orders.bounds[:-1], orders.bounds[1:], strict=True):
        rows = orders.between(start, end)
        assert len({int(row) // 8 for row in rows}) <= 3  # whole segments alone
        assert rows.tolist() != sorted(rows.tolist())
    assert torch.equal(orders.between(20, 60), orders.whole()[20:60])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("taken", range(0, 11, 2))
def test_a_window_is_resumed_in_its_middle(taken: int) -> None:
    whole = make(windowed=True, batch_size=9)
    expected = [b.tolist() for _ in range(2) for b in whole]
    assert len(expected) == 24
    loader = make(windowed=True, batch_size=9)
    iterator = iter(loader)
    for _ in range(taken):
        next(iterator)
    resumed = make(batch_size=9)  # there is memory for a whole order now: the checkpoint's is gone on with
    resumed.restore(loader.state())
    assert [b.tolist() for b in resumed] == expected[taken:12]


def test_rows_that_do_not_fit_are_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 2_060)
    assert not make(row_bytes=10).windowed
    assert make(row_bytes=11).windowed
    assert not make().windowed
    assert not make(row_bytes=11, shuffle=False).windowed


class Failing(Echo):
    """Fails at its sixth batch."""

    def batch(self, rows: Tensor) -> Tensor:
        if self.calls == 5:
            raise DataError("the sixth batch")
        return super().batch(rows)


def test_an_error_of_the_source_is_raised_in_its_turn_and_says_where() -> None:
    loader: Loader[Tensor] = Loader(Failing(), torch.arange(100), 10, 0)
    taken: list[Tensor] = []
    with pytest.raises(DataError, match="the sixth batch") as raised:
        taken.extend(loader)
    assert (len(taken), loader.position) == (5, 5)
    assert 'raise DataError("the sixth batch")' in "".join(traceback.format_tb(raised.value.__traceback__))


def test_leaving_the_loop_ends_the_thread_and_the_cursor_stands_at_what_was_handed_out() -> None:
    before = threading.active_count()
    source = Echo()
    loader = Loader(source, torch.arange(1_000), 10, 0)
    for place, _ in enumerate(loader):
        if place == 3:
            break
    gc.collect()
    assert threading.active_count() == before
    assert loader.position == 4
    assert 4 <= source.calls <= 4 + AHEAD


def test_batches_are_made_by_one_other_thread() -> None:
    class Telling(Echo):
        def batch(self, rows: Tensor) -> Tensor:
            names.add(threading.get_ident())
            return super().batch(rows)

    names: set[int] = set()
    list(Loader(Telling(), torch.arange(100), 10, 0))
    assert len(names) == 1
    assert threading.get_ident() not in names


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
