"""The split that suits a log, with the figures behind it."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.check.advice import split_advice

RNG = np.random.default_rng(0)


def test_users_who_come_back_suit_a_cut_in_time() -> None:
    users, times = RNG.integers(0, 100, 3_000), np.sort(RNG.uniform(0, 1e6, 3_000))
    about = split_advice(users, RNG.integers(0, 50, 3_000), times)
    assert about["kind"] == "time"
    assert about["time"]["rows_of_known_users"] == 1.0
    assert "100% of the rows of the last tenth" in about["why"]


def test_users_who_come_once_for_many_rows_suit_leaving_their_last_out() -> None:
    users = np.repeat(np.arange(200), 15)
    times = users * 1e4 + np.tile(np.arange(15), 200)
    about = split_advice(users, None, times)
    assert about["kind"] == "leave_last"
    assert about["leave_last"]["users_long_enough"] == 1.0
    assert about["leave_last"]["later_training_rows"] == pytest.approx(0.5, abs=0.01)
    assert "beware that 50% of the training rows" in about["why"]


def test_strangers_with_a_row_each_are_judged_as_strangers() -> None:
    about = split_advice(np.arange(500), None, np.arange(500.0))
    assert about["kind"] == "time"
    assert "strangers are what there is to measure" in about["why"]


def test_without_times_or_users_there_is_less_to_choose() -> None:
    users = RNG.integers(0, 20, 100)
    assert split_advice(users, None, None)["kind"] == "leave_last"
    assert split_advice(None, None, np.zeros(100))["kind"] == "random"
    assert split_advice(None, None, np.arange(100.0))["kind"] == "time"


def test_rows_sorted_by_item_have_no_last_one() -> None:
    about = split_advice(RNG.integers(0, 20, 100), None, None, by_item=True)
    assert (about["kind"], "sorted by item id" in about["why"]) == ("random", True)
    assert split_advice(RNG.integers(0, 20, 100), None, np.arange(100.0), by_item=True)["kind"] == "time"
