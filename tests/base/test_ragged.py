"""Ragged lists: every way to cut, choose and repeat them gives the lists that Python's own would."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.errors import DataError
from recsys.base.ragged import Ragged, spans

LISTS = [[3, 1], [], [4], [1, 5, 9, 2], []]


def as_lists(lists: Ragged) -> list[list[int]]:
    return [lists[user].tolist() for user in range(len(lists))]


def test_any_whole_numbers_are_held_as_int64() -> None:
    lists = Ragged(np.array([3, 1], dtype=np.int32), np.array([0, 2], dtype=np.uint8))
    assert lists.items.dtype == lists.ptr.dtype == np.int64
    items = np.array([3, 1])
    assert Ragged(items, np.array([0, 2])).items is items


def test_a_block_holds_the_lists_of_its_users() -> None:
    lists = Ragged.from_lists(LISTS)
    bounds = [(start, stop) for stop in range(len(LISTS) + 1) for start in range(stop + 1)]
    assert [as_lists(lists.block(*each)) for each in bounds] == [LISTS[start:stop] for start, stop in bounds]


def test_take_chooses_reorders_and_repeats() -> None:
    users = [3, 0, 3, 1, 2, 2]
    assert as_lists(Ragged.from_lists(LISTS).take(np.array(users))) == [LISTS[user] for user in users]
    assert as_lists(Ragged.from_lists(LISTS).take(np.array([], dtype=np.int64))) == []


def test_empty_has_a_list_without_an_entry_for_each_user() -> None:
    assert as_lists(Ragged.empty(3)) == [[], [], []]


def test_spans_are_the_positions_of_slices_one_after_the_other() -> None:
    starts, lengths = np.array([7, 2, 0]), np.array([2, 0, 3])
    positions, ptr = spans(starts, lengths)
    assert positions.tolist() == [7, 8, 0, 1, 2]
    assert ptr.tolist() == [0, 2, 2, 5]


@pytest.mark.parametrize("ptr", [[], [1, 2], [0, 1], [0, 2, 1, 2], [[0, 2]]])
def test_offsets_that_do_not_cut_the_items_are_refused(ptr: list[int]) -> None:
    with pytest.raises(DataError, match="must rise from 0 to the 2 items"):
        Ragged(np.array([1, 2]), np.array(ptr, dtype=np.int64))
