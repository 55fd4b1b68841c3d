"""Users that do not act like people are found, and everybody else is left in peace."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.check.activity import concentration, outlier_users
from recsys.data.check.profile import profile

DAY = 86_400.0


def log(*extra: tuple[str, np.ndarray]) -> tuple[pa.Array, np.ndarray]:
    """300 people with 5 to 60 events each in the daytime of 30 days, and whoever is planted."""
    rng = np.random.default_rng(3)
    users, times = [], []
    for person in range(300):
        count = int(rng.integers(5, 60))
        users += [f"person {person}"] * count
        times.append(rng.integers(0, 30, count) * DAY + rng.uniform(8 * 3600, 22 * 3600, count))
    for name, moments in extra:
        users += [name] * len(moments)
        times.append(moments)
    return pa.array(users), np.concatenate(times)


def found(*extra: tuple[str, np.ndarray]) -> dict[str, str]:
    users, times = log(*extra)
    return {one["user"]: "; ".join(one["why"]) for one in outlier_users(profile(users), times)["worst"]}


def test_people_are_left_in_peace() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("moments", "why"),
    [
        (np.random.default_rng(0).uniform(0, 30 * DAY, 8_000), "8,000 events where the median user has"),
        (5 * DAY + np.linspace(36_000, 36_050, 75), "75 events within a minute"),
        (5 * DAY + np.arange(24) * 3600 + np.random.default_rng(1).uniform(0, 3000, 24), "24 hours of one day"),
        (np.arange(60) * 7_300.0 + 17, "an event every 7,300 seconds, like a clock"),
    ],
)
def test_a_planted_bot_is_named_with_the_reason(moments: np.ndarray, why: str) -> None:
    assert found(("bot", moments)).keys() == {"bot"}
    assert why in found(("bot", moments))["bot"]


def test_days_without_hours_accuse_nobody_of_haste() -> None:
    users, times = log(("bot", np.full(80, 5 * DAY)))
    assert outlier_users(profile(users), times // DAY * DAY)["users"] == 0


def test_without_times_only_counts_tell() -> None:
    users, _ = log(("bot", np.zeros(5_000)))
    about = outlier_users(profile(users), None)
    assert [one["user"] for one in about["worst"]] == ["bot"]
    assert about["share"] == pytest.approx(5_000 / len(users))


def test_concentration_counts_those_with_one_event_and_what_the_busiest_hold() -> None:
    about = concentration(np.array([1, 1, 8, 10]))
    assert (about["single"], about["single_share"]) == (2, 0.5)
    held = dict(about["busiest"])
    assert (held[0.0], held[0.5], held[1.0]) == (0.0, 0.9, 1.0)
