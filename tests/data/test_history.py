"""Histories: pointers that never reach a row's own moment or a later part, for every kind of split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.data.dataset import NOW, Dataset
from recsys.data.history import History
from recsys.data.split import Part
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

KINDS = ["time", "leave_last", "random", "column"]


def past(dataset: Dataset, row: int, where: str = "") -> list[int]:
    """Event rows that the sequence features of an event row may hold, oldest first, by the rules in words.

    Events of the same user, strictly earlier, of the catalogue and with label 1 in `where`; of training rows only under
    splits that do not follow time; and for a later part only what was known when that part began.
    """
    events = dataset.events
    ordered = dataset.config.split.kind in ("time", "leave_last")
    found = []
    for other in range(len(events)):
        if events.users[other] != events.users[row] or not events.times[other] < events.times[row]:
            continue
        if events.items[other] >= dataset.num_catalogue:
            continue
        if where and not events.labels[other, dataset.task_names.index(where)] > 0:
            continue
        part = events.parts[row]
        if not ordered and events.parts[other] != Part.TRAIN:
            continue
        if ordered and part != Part.TRAIN and not events.parts[other] < part:
            continue
        found.append(other)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "where"), [("recent", ""), ("clicked", "click")])
def test_a_sequence_holds_the_users_strictly_earlier_events_and_nothing_else(
    shop: Shop, kind: str, name: str, where: str
) -> None:
    dataset = shop.dataset(kind)
    history, ends = dataset.sequences[name], dataset.sequence_ends[name]
    for row in nonempty(range(0, len(dataset.events), 5)):
        begin = history.ptr[dataset.events.users[row]]
        rows = history.rows[begin : ends[row]]
        assert [r for r in rows if r >= 0] == past(dataset, row, where)
        early = (history.parts[begin : ends[row]] == Part.PRIOR).sum()
        wanted = shop.users["before"][int(dataset.user_ids[dataset.events.users[row]][1:])].split()
        assert early == (len(wanted) if name == "clicked" else 0)
        named = [dataset.item_ids[i] for i in history.items[begin : begin + early]]
        assert named == (wanted if name == "clicked" else [])


@pytest.mark.parametrize("kind", KINDS)
def test_before_a_part_means_no_event_of_it_or_of_a_later_one(shop: Shop, kind: str) -> None:
    dataset = shop.dataset(kind)
    for where in ("", "click"):
        history = dataset.history(where)
        for part in (Part.TRAIN, Part.VALID, Part.TEST):
            ends = history.ends(part)
            for user in nonempty(range(history.num_users)):
                before, after = history.parts[history.ptr[user] : ends[user]], history.parts[ends[user] :]
                assert (before < part).all()
                assert (after[: history.ptr[user + 1] - ends[user]] >= part).all()


@pytest.mark.parametrize("kind", ["time", "leave_last"])
def test_under_a_split_in_time_a_history_is_in_time_order(shop: Shop, kind: str) -> None:
    history = shop.dataset(kind).history("")
    for user in nonempty(range(history.num_users)):
        assert (np.diff(history.times[history.ptr[user] : history.ptr[user + 1]]) >= 0).all()


def test_windows_hold_the_last_events_oldest_first_and_pad_the_end() -> None:
    users = np.array([0, 0, 0, 0, 1])
    items = np.array([10, 11, 12, 13, 14])
    history = History.build(users, items, np.arange(5.0), np.zeros(5, np.int8), np.ones(5, bool), 3)
    positions, present = history.window(np.array([0, 0, 1, 2]), np.array([4, 1, 5, 5]), 3)
    shown = torch.from_numpy(history.items)[positions].masked_fill(~present, -1)
    assert shown.tolist() == [[11, 12, 13], [10, -1, -1], [14, -1, -1], [-1, -1, -1]]
    earlier = history.until(np.array([1, 0, 2]), np.array([5, 2, 5]))
    assert earlier.items.tolist() == [14, 10, 11]
    assert earlier.ptr.tolist() == [0, 1, 3, 3]
    between = history.between(np.array([1, 4, 3]), np.array([3, 5, 2]))
    assert [between[row].tolist() for row in range(3)] == [[11, 12], [14], []]


def test_gaps_are_octaves_of_the_time_since_the_users_event_before() -> None:
    users, items = np.array([0, 0, 0, 0, 1, 1]), np.zeros(6, np.int64)
    times = np.array([5.0, 5.0, 6.0, 1e9, 7.0, 10.0])
    history = History.build(
        users, items, times, np.zeros(6, np.int8), np.ones(6, bool), 2, (np.array([1]), np.array([0]))
    )
    # user 0: first event unknown, 0 s, 1 s, 30 years (capped); user 1: an event before the log, unknown, 3 s
    assert history.gap_buckets(20).tolist() == [0, 1, 2, 19, 0, 0, 3]
    # until the next event, and after a user's last one until now; unknown around an event from before the log
    now = times[3] + 3
    assert history.request_gap_buckets(20, now)[:4].tolist() == [1, 2, 19, 3]
    assert history.request_gap_buckets(20, times[5] + 1)[4:].tolist() == [0, 3, 2]


def test_without_a_time_column_the_order_of_the_file_is_the_order_of_events(shop: Shop) -> None:
    by_file = shop.dataset("leave_last", time="")
    distinct = shop.events.assign(timestamp=np.arange(len(shop.events)) + 1_000_000)
    by_time = shop.dataset("leave_last", events=distinct)
    assert np.array_equal(by_file.events.source_rows, by_time.events.source_rows)
    assert by_file.sequence_ends["recent"].sum() > 0
    for name in ("recent", "clicked"):
        assert np.array_equal(by_file.sequence_ends[name], by_time.sequence_ends[name])
    counts = by_file.sides["item_counts"].numeric.index("item_id.n")
    assert np.array_equal(by_file.row_item.numbers[:, counts], by_time.row_item.numbers[:, counts])


def test_serving_knows_everything(shop: Shop) -> None:
    dataset = shop.dataset("time")
    history = dataset.sequences["recent"]
    assert np.array_equal(dataset.sequence_bounds("recent", NOW), history.ptr[1:])
    assert len(history.items) == (dataset.events.items < dataset.num_catalogue).sum()


@pytest.mark.parametrize("parts_rise", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_a_history_is_what_a_whole_sort_of_its_events_gives(parts_rise: bool, listed: bool) -> None:
    """Counted into place, with parts in the order of time or not, and with events from before the log."""
    rng = np.random.default_rng(7)
    users = np.sort(rng.integers(0, 9, 400)).astype(np.int32)
    order = np.lexsort((times := rng.integers(0, 60, 400).astype(float), users))
    times, items = times[order], rng.integers(0, 30, 400).astype(np.int32)
    parts = np.where(times < 40, 0, np.where(times < 50, 1, 2)) if parts_rise else rng.integers(-1, 3, 400)
    chosen = rng.random(400) < 0.7
    early = (rng.integers(0, 10, 30), rng.integers(0, 30, 30)) if listed else None
    found = History.build(users, items, times, parts.astype(np.int8), chosen, 10, early)
    told = early or (np.empty(0, np.int64), np.empty(0, np.int64))
    rows = np.append(np.full(len(told[0]), -1), np.flatnonzero(chosen))
    user = np.append(told[0], users[chosen])
    part = np.append(np.full(len(told[0]), -1), parts[chosen])
    place = np.lexsort((np.arange(len(rows)), part, user))
    assert np.array_equal(found.rows, rows[place])
    assert np.array_equal(found.items, np.append(told[1], items[chosen])[place])
    assert np.array_equal(found.parts, part[place])
    assert np.array_equal(np.diff(found.ptr), np.bincount(user, minlength=10))
    assert found.rows.dtype == np.int32
    if parts_rise:
        ends = found.ends_at_rows(users, times, chosen)
        assert np.array_equal(ends, found.ends_before(users, times, found.ptr[1:][users]))
        for row in range(0, 400, 7):
            earlier = (told[0] == users[row]).sum() + (chosen & (users == users[row]) & (times < times[row])).sum()
            assert ends[row] == found.ptr[users[row]] + earlier
