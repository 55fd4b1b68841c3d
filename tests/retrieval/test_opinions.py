"""What scorers say together is what each says alone, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.base.arrays import F32, I64
from recsys.base.ragged import Ragged
from recsys.retrieval.baselines import build_baseline
from recsys.retrieval.baselines.base import Baseline, Histories
from recsys.retrieval.opinions import Opinions, opinion_features
from recsys.tests.support.nonempty import nonempty

USERS, ITEMS, EVENTS = 30, 25, 600
MODELS = {
    "popularity": ("popularity", {}),
    "trending": ("trending", {"window_days": 3.0}),
    "item_knn": ("item_knn", {"last": 3}),
    "item_knn_long": ("item_knn", {"last": None, "decay": 1.0}),
    "transition": ("transition", {"last": 2}),
    "ease": ("ease", {"regularisation": 5.0}),
    "ease_recent": ("ease", {"regularisation": 5.0, "last": 4, "decay": 0.5}),
}


@pytest.fixture(scope="module")
def scorers() -> list[Baseline]:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, USERS, EVENTS), rng.integers(0, ITEMS, EVENTS)
    times = 1e9 + rng.integers(0, 10 * 86_400, EVENTS).astype(np.float64)
    fitted: list[Baseline] = []
    for name, options in MODELS.values():
        baseline = build_baseline(name, **options)
        if not any(baseline.adopt(other) for other in fitted):
            baseline.fit(users, items, times, USERS, ITEMS)
        fitted.append(baseline)
    return fitted


def histories(*lists: list[int], asked_at: float = np.inf) -> Histories:
    events = Ragged.from_lists([np.array(one, dtype=np.int64) for one in lists])
    return Histories(events, np.arange(len(lists)), np.full(len(lists), asked_at))


def together(scorers: list[Baseline], asked: Histories, items: I64) -> F32:
    found = np.full((len(scorers), *items.shape), np.nan, dtype=np.float32)
    Opinions(scorers).scores(asked, items, found)
    return found


@pytest.mark.parametrize("asked_at", [np.inf, 1e9 + 5 * 86_400])
@pytest.mark.parametrize(
    "lists", [([3, 1, 4, 1, 5, 9, 2],), ([],), ([3, 1, 4], [], [2, 2, 7, 1, 8, 2, 8, 24, 0], [0])], ids=len
)
def test_opinions_are_each_scorers_own(scorers: list[Baseline], lists: tuple[list[int], ...], asked_at: float) -> None:
    asked = histories(*lists, asked_at=asked_at)
    items = np.random.default_rng(1).integers(0, ITEMS, (len(lists), 12))
    items[:, -2:] = items[:, :1]  # pads name an item that may be a candidate too
    found = together(scorers, asked, items)
    for one, scorer in nonempty(zip(found, scorers, strict=True)):
        np.testing.assert_array_equal(one, scorer.score_pairs(asked, items))
        np.testing.assert_allclose(one, np.take_along_axis(scorer.score(asked), items, axis=1), rtol=1e-6, atol=1e-7)


def test_matrices_that_were_fitted_as_one_are_read_as_one(scorers: list[Baseline]) -> None:
    assert [places for places, _ in Opinions(scorers)._sums] == [[2, 3, 4], [5, 6]]
    assert scorers[2].row_sum().matrix is scorers[3].row_sum().matrix


def test_features_of_a_full_list_are_those_of_one_among_pads() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 2, 9)).astype(np.float32)
    scores[:, :, 5] = scores[:, :, 2]  # a shared rank
    padded, present = np.pad(scores, ((0, 0), (0, 0), (0, 4))), np.pad(np.ones((2, 9), bool), ((0, 0), (0, 4)))
    last = np.array([1.0, 2.0], dtype=np.float32)
    alone = opinion_features(scores, scores, present[:, :9], last, served=9)
    among = opinion_features(padded, padded, present, last, served=13)
    np.testing.assert_allclose(alone, among[:, :9], rtol=1e-6, atol=1e-6)
    assert (among[:, 9:, :-1] == 0).all()
