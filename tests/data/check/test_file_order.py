"""Whether the rows of a log without times can be in the order of time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.check.file_order import sorted_by_item

RNG = np.random.default_rng(5)
USERS = pa.array(np.repeat([f"u{number}" for number in range(30)], 20))
ITEMS = RNG.integers(0, 5_000, len(USERS))


@pytest.mark.parametrize("spelled", ["{}", "{}.0", "A{:06d}"])
@pytest.mark.parametrize("direction", [1, -1])
def test_rows_that_go_up_or_down_through_the_ids_are_sorted(spelled: str, direction: int) -> None:
    rows = np.lexsort((direction * ITEMS, np.repeat(np.arange(30), 20)))
    assert sorted_by_item(USERS, pa.array([spelled.format(item) for item in ITEMS[rows]]))


def test_users_need_not_lie_together_and_items_may_repeat() -> None:
    users = USERS.take(pa.array(RNG.permutation(len(ITEMS))))
    assert sorted_by_item(users, pa.array(np.sort(ITEMS) // 7))  # the whole file goes up


def test_chance_and_too_few_rows_are_no_order() -> None:
    assert not sorted_by_item(USERS, pa.array(ITEMS))
    assert not sorted_by_item(USERS[:40], pa.array(np.arange(40)))


def test_numbers_in_text_are_compared_as_numbers() -> None:
    rising = pa.array([str(number) for number in range(len(USERS))])  # "9" < "10"
    assert sorted_by_item(USERS, rising)
