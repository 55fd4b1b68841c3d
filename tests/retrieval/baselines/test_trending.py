"""Trending counts what lies in the window before each request and nothing after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recsys.base.errors import DataError
from recsys.base.ragged import Ragged
from recsys.data.split import Part
from recsys.retrieval.baselines import baseline_from_state, build_baseline
from recsys.retrieval.baselines.base import Histories
from recsys.tests.support.shop import Shop

DAY = 86_400.0
N = 9


def log(seed: int = 0, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 30, count), rng.integers(0, N - 1, count), rng.integers(0, 300, count) * DAY / 2


def asked(moments: np.ndarray) -> Histories:
    return Histories(Ragged.empty(len(moments)), None, moments)


@pytest.mark.parametrize("days", [1.0, 30.0, 1e6])
def test_counts_are_those_of_a_loop_over_the_log(days: float, tmp_path: Path) -> None:
    users, items, times = log()
    model = build_baseline("trending", window_days=days).fit(users, items, times, 30, N)
    moments = np.array([-5.0, 0.0, 0.5, 40.0, 40.25, 149.5, 200.0, 1e5, np.inf]) * DAY
    found = model.score(asked(moments))
    for row, moment in enumerate(moments):
        end = moment if np.isfinite(moment) else times.max() + 1
        inside = (times < end) & (times >= end - days * DAY)
        np.testing.assert_allclose(found[row], np.log1p(np.bincount(items[inside], minlength=N)), rtol=1e-6)
    wanted = np.random.default_rng(1).integers(0, N, (len(moments), 4))
    pairs = model.score_pairs(asked(moments), wanted)
    np.testing.assert_array_equal(pairs, np.take_along_axis(found, wanted, 1))
    save_file(model.state(), tmp_path / "trending.safetensors")
    again = baseline_from_state(load_file(tmp_path / "trending.safetensors"))
    np.testing.assert_array_equal(again.score(asked(moments)), found)


def test_what_happens_at_or_after_the_request_changes_nothing() -> None:
    users, items, times = log()
    moment = np.array([100 * DAY])
    before = times < moment[0]
    whole = build_baseline("trending").fit(users, items, times, 30, N).score(asked(moment))
    past = build_baseline("trending").fit(users[before], items[before], times[before], 30, N).score(asked(moment))
    np.testing.assert_array_equal(whole, past)
    assert whole.any()


def test_without_a_moment_the_window_ends_with_the_data() -> None:
    model = build_baseline("trending").fit(*log(), 30, N)
    unknown = Histories(Ragged.empty(2))
    np.testing.assert_array_equal(model.score(unknown), model.score(asked(np.full(2, np.inf))))
    with pytest.raises(DataError, match="trending needs the times"):
        build_baseline("trending").fit(*log()[:2], None, 30, N)


def test_a_request_is_asked_when_its_user_was_last_seen(shop: Shop) -> None:
    """Not when the event to predict happens: its time is part of what is to be predicted."""
    history = shop.dataset("time").history("")
    users = np.arange(history.num_users)
    ends = history.ends(Part.TEST)
    found = history.last_seen(users, ends)
    for user in users:
        known = history.times[history.ptr[user] : ends[user]]
        assert found[user] == (known[-1] if len(known) else np.inf)
    assert np.isfinite(found).any()
