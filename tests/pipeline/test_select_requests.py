"""How many requests a user makes, and what each asks for."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.base.ragged import Ragged
from recsys.pipeline.requests import asks_for_all, drawn_of_each
from recsys.ranking.requests import SelectConfig


@pytest.mark.parametrize(("taken", "whole"), [(10, False), (11, True)])
def test_where_users_take_much_auto_asks_for_all_of_it(taken: int, whole: bool) -> None:
    truth = Ragged.from_pairs(np.repeat(np.arange(3), taken), np.arange(3 * taken), 3)
    assert asks_for_all(SelectConfig(targets="auto", per_user=10), truth) == whole
    assert asks_for_all(SelectConfig(targets="all"), truth)
    assert not asks_for_all(SelectConfig(targets="each"), truth)
    with pytest.raises(ValidationError, match="leave one of them out"):
        SelectConfig(targets="all", per_user=10)


def test_of_a_user_with_many_items_only_some_are_requests() -> None:
    owner = np.repeat([3, 1, 2], [50, 2, 7])
    chosen = drawn_of_each(owner, 5, seed=1)
    users, counts = np.unique(owner[chosen], return_counts=True)
    assert dict(zip(users.tolist(), counts.tolist(), strict=True)) == {1: 2, 2: 5, 3: 5}
    assert len(np.unique(chosen)) == len(chosen)
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, drawn_of_each(owner, 5, seed=2))
