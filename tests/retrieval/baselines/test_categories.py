"""Popularity within categories against a plain loop, and which columns of a data set count as categories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.base.ragged import Ragged
from recsys.data.vocabulary import FIRST
from recsys.retrieval.baselines.base import Histories
from recsys.retrieval.baselines.categories import CategorySettings, SameCategory, item_categories
from recsys.tests.support.shop import Shop

DAY = 86_400.0
CATEGORIES = np.array([[0, -1], [0, 1], [1, -1], [2, 1], [-1, -1], [2, -1]], dtype=np.int32)
USERS = np.array([0, 0, 1, 1, 2, 2, 2, 0])
ITEMS = np.array([0, 1, 1, 2, 3, 4, 1, 5])
TIMES = np.array([0.0, 5, 10, 10, 20, 20, 20, 20]) * DAY


def fitted(**options: Any) -> SameCategory:
    model = SameCategory(CategorySettings(**options)).describe_items(CATEGORIES)
    return model.fit(USERS, ITEMS, TIMES, 3, 6)


def asked(*rows: list[int]) -> Histories:
    return Histories(Ragged.from_lists(rows))


def by_hand(history: list[int], half_life: float | None, damping: float, last: int, decay: float) -> list[float]:
    """The definition, one item and one category at a time."""
    counts = [0.0] * 6
    for item, time in zip(ITEMS, TIMES, strict=True):
        counts[item] += 1.0 if half_life is None else 0.5 ** ((TIMES.max() - time) / DAY / half_life)
    of = {item: [int(c) for c in row if c >= 0] for item, row in enumerate(CATEGORIES)}
    events = {(item, c): counts[item] / len(of[item]) for item in of for c in of[item]}
    size = {c: sum(value for (_, other), value in events.items() if other == c) for c in range(3)}
    newest: dict[int, float] = {}
    for age, item in enumerate(reversed(history[-last:])):
        newest.setdefault(item, decay**age)
    taste = {c: sum(weight / len(of[i]) for i, weight in newest.items() if c in of[i]) for c in range(3)}
    return [sum(taste[c] * events[item, c] / size[c] ** damping for c in of[item]) for item in range(6)]


@pytest.mark.parametrize("half_life", [None, 7.0])
@pytest.mark.parametrize("damping", [0.0, 0.5, 1.0])
def test_an_item_counts_by_its_place_in_the_categories_of_the_history(half_life: float | None, damping: float) -> None:
    model = fitted(half_life_days=half_life, damping=damping, last=3, decay=0.5)
    histories = [[0], [5, 1], [3, 3, 2, 0, 1], [4], []]
    for history, scores in zip(histories, model.score(asked(*histories)), strict=True):
        np.testing.assert_allclose(scores, by_hand(history, half_life, damping, 3, 0.5), rtol=1e-5, atol=1e-7)


def test_what_shares_no_category_and_what_nobody_took_score_nothing() -> None:
    scores = fitted().score(asked([0], [4], [2]))
    assert (scores[0] > 0).tolist() == [True, True, False, False, False, False]
    assert (scores[1] == 0).all()  # an item of no category
    assert (scores[2] > 0).tolist() == [False, True, True, True, False, False]


def test_newer_events_count_more() -> None:
    scores = fitted(decay=0.5).score(asked([0, 5], [5, 0]))
    assert scores[0, 5] > scores[1, 5]
    assert scores[0, 0] < scores[1, 0]


def test_it_must_be_told_the_categories_of_every_item() -> None:
    with pytest.raises(DataError, match="knows the categories of no item and there are 6; hand those of every item"):
        SameCategory().fit(USERS, ITEMS, TIMES, 3, 6)
    with pytest.raises(DataError, match="knows the categories of 6 items and there are 7"):
        SameCategory().describe_items(CATEGORIES).fit(USERS, ITEMS, TIMES, 3, 7)


def test_the_first_multi_valued_feature_is_taken_then_the_first_categorical_one(shop: Shop) -> None:
    dataset = shop.dataset("time")
    tags = dataset.encoders.vocabularies["tags"]
    raw = {row["item_id"]: row["tags"] for _, row in shop.items.iterrows()}
    found = item_categories(dataset)
    assert len(found) == dataset.num_catalogue
    for item, row in zip(dataset.item_ids, found, strict=False):
        names = tags.names([int(c) + FIRST for c in row if c >= 0])
        listed = [tag.strip() for tag in str(raw.get(item) or "").split("|")][:3]
        assert sorted(names) == sorted({tag for tag in listed if tag in tags.values})
    features = [one for one in shop.config("time").model_dump()["features"] if one["name"] != "tags"]
    bare = shop.dataset("time", features=features)
    assert np.array_equal(item_categories(bare), item_categories(bare, ("genre",)))
    assert item_categories(bare).shape[1] == 1
    per_item = (item_categories(dataset, ("genre", "tags")) >= 0).sum(1)
    assert per_item.tolist() == (1 + (found >= 0).sum(1)).tolist()  # what is missing is no category of another feature
    both = item_categories(dataset, ("tags", "genre"))
    assert both.shape[1] == found.shape[1] + 1
    assert len(np.unique(both[both >= 0])) == len(np.unique(found[found >= 0])) + len(
        np.unique(item_categories(bare)[item_categories(bare) >= 0])
    )


def test_a_feature_that_is_none_is_named(shop: Shop) -> None:
    with pytest.raises(ConfigError, match=r'reads the item feature "text", which is neither multi-valued nor cat'):
        item_categories(shop.dataset("time"), ("text",))
    features = [
        one for one in shop.config("time").model_dump()["features"] if one["name"] not in {"tags", "genre", "recent"}
    ]
    counts = [{"keys": ["item_id"], "tasks": ["click"]}]
    with pytest.raises(ConfigError, match="finds no multi-valued item feature and no categorical one of 1,000 values"):
        item_categories(shop.dataset("time", features=features, counts=counts))
