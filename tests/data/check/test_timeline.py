"""The log over time: every event in its step, and holes in the log are found where they are."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.check.timeline import timeline

DAY, START = 86_400.0, 1_600_041_600.0  # midnight UTC


def steady(days: int, each: int = 50) -> np.ndarray:
    return START + np.sort(np.random.default_rng(0).uniform(0, days * DAY, days * each))


def test_events_and_rates_fall_into_their_days() -> None:
    times = np.array([START + 10, START + 20, START + DAY, START + 3 * DAY + 60])
    about = timeline(times, {"click": np.array([1.0, 0.0, np.nan, 1.0])})
    assert (about["unit"], about["events"]) == ("day", [2, 1, 0, 1])
    assert about["rates"]["click"] == [0.5, None, None, 1.0]
    assert about["from"].startswith("2020-09-14T00:00")


@pytest.mark.parametrize(("days", "unit"), [(2, "hour"), (30, "day"), (700, "week"), (3000, "30 days")])
def test_the_step_fits_the_span(days: int, unit: str) -> None:
    about = timeline(steady(days, 5), {})
    assert about["unit"] == unit
    assert len(about["events"]) <= 121
    assert sum(about["events"]) == days * 5


def test_a_steady_log_has_no_gap_and_a_hole_is_found_where_it_is() -> None:
    times = steady(30)
    assert timeline(times, {})["gaps"] == []
    hole = times[(times < START + 10 * DAY) | (times >= START + 13 * DAY)]
    (gap,) = timeline(hole, {})["gaps"]
    assert (gap["from"][:10], gap["to"][:10]) == ("2020-09-24", "2020-09-27")
    assert (gap["steps"], gap["events"]) == (3, 0)
    few = np.sort(np.concatenate([hole, [START + 11.5 * DAY]]))
    assert timeline(few, {})["gaps"][0]["events"] == 1


def test_nights_of_a_short_log_are_no_gap() -> None:
    times = steady(2, 2_000)
    awake = times[(times % DAY) > 8 * 3600]
    about = timeline(awake, {})
    assert about["unit"] == "hour"
    assert about["gaps"] == []
