"""Training windows: everybody once an epoch, an order of (seed, epoch) alone, a cursor that continues anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.base.errors import ConfigError, DataError, RunError
from recsys.data.dataset import NOW, Dataset
from recsys.data.split import Part
from recsys.retrieval.towers.inputs import Windows
from recsys.retrieval.towers.two_tower import TowerHistory, TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData, WindowLoader, _cuts
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    return shop.dataset("time")


def tower_data(dataset: Dataset, max_length: int = 200, positive: str = "", **keys: Any) -> TowerData:
    history = TowerHistory(encoder="mean", max_length=max_length)
    return TowerData.of(dataset, TwoTowerConfig(dim=4, history=history, **keys), positive)


def same(first: Windows, second: Windows) -> bool:
    return (
        torch.equal(first.items, second.items)
        and torch.equal(first.properties, second.properties)
        and torch.equal(first.present, second.present)
        and torch.equal(first.users.categorical, second.users.categorical)
    )


@pytest.mark.parametrize("tokens", [1, 50, 100, 10_000])
def test_an_epoch_holds_every_user_with_training_events_once(dataset: Dataset, tokens: int) -> None:
    data = tower_data(dataset)
    loader = WindowLoader(data, Part.VALID, tokens, seed=1)
    wanted = np.flatnonzero(data.ends(Part.VALID) > data.history.ptr[:-1])
    for epoch in (0, 1):
        pieces = loader.batches(epoch)
        assert len(pieces) == len(loader)
        assert sorted(torch.cat(pieces).tolist()) == wanted.tolist()
    events = sum(int(windows.present.sum()) for windows in loader)
    assert events == (data.ends(Part.VALID) - data.history.ptr[:-1]).sum()


def test_batches_are_of_similar_lengths_and_of_about_the_size_asked_for(dataset: Dataset) -> None:
    data = tower_data(dataset)
    loader = WindowLoader(data, Part.VALID, 100, seed=1)
    padded = [windows.items.numel() for windows in loader]
    assert max(padded) <= 150
    waste = 1 - sum(int(w.present.sum()) for w in loader) / sum(
        w.items.numel() for w in WindowLoader(data, Part.VALID, 100, 1)
    )
    assert waste < 0.25


def test_the_order_is_a_function_of_seed_and_epoch(dataset: Dataset) -> None:
    data = tower_data(dataset, max_length=5)
    one, again, other = (WindowLoader(data, Part.VALID, 60, seed) for seed in (1, 1, 2))
    torch.manual_seed(77)  # the global generators play no part
    np.random.seed(77)  # noqa: NPY002
    first = list(one)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert [set(piece.tolist()) for piece in one.batches(0)] != [set(piece.tolist()) for piece in one.batches(1)]
    second = list(one)
    assert not all(a.items.shape == b.items.shape and same(a, b) for a, b in zip(first, second, strict=True))
    assert not all(a.items.shape == b.items.shape and same(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_a_restored_loader_goes_on_with_the_very_next_batch(dataset: Dataset, taken: int) -> None:
    data = tower_data(dataset, max_length=5)
    whole, killed, resumed = (WindowLoader(data, Part.VALID, 20, 1) for _ in range(3))
    list(whole), list(killed)
    expected = list(whole)
    assert len(expected) > 5
    batches = iter(killed)
    for _ in range(taken):
        next(batches)
    resumed.restore(killed.state())
    rest = list(resumed)
    assert len(rest) == len(expected) - taken
    assert all(same(a, b) for a, b in zip(rest, expected[taken:], strict=True))
    assert resumed.epoch == 2


def test_another_seed_is_no_place_to_resume(dataset: Dataset) -> None:
    data = tower_data(dataset)
    with pytest.raises(RunError, match="seed=1, found seed=2"):
        WindowLoader(data, Part.VALID, 60, 2).restore(WindowLoader(data, Part.VALID, 60, 1).state())


def test_windows_hold_the_events_before_the_pointer(dataset: Dataset) -> None:
    data = tower_data(dataset, max_length=6)
    users = np.arange(data.history.num_users)
    for moment in (Part.VALID, Part.TEST, NOW):
        ends = data.ends(moment)
        windows = data.windows(users, ends)
        for user in nonempty(users):
            past = data.history.items[data.history.ptr[user] : ends[user]][-6:]
            assert windows.items[user][windows.present[user]].tolist() == past.tolist()
            assert windows.present[user].tolist() == [True] * len(past) + [False] * (windows.items.shape[1] - len(past))
            whole = ends[user] - data.history.ptr[user] <= 6
            assert bool(windows.from_start[user]) == bool(whole)


def test_long_histories_are_also_shown_in_earlier_stretches(dataset: Dataset) -> None:
    data = tower_data(dataset, max_length=4)
    ends, starts = data.ends(Part.VALID), data.history.ptr[:-1]
    seen: dict[int, set[tuple[int, ...]]] = {}
    loader = WindowLoader(data, Part.VALID, 60, 1)
    for epoch in range(30):
        for users, windows in zip(loader.batches(epoch), loader, strict=True):
            for user, items, present in zip(users.tolist(), windows.items, windows.present, strict=True):
                seen.setdefault(user, set()).add(tuple(items[present].tolist()))
    for user, found in nonempty(seen.items()):
        past = data.history.items[starts[user] : ends[user]].tolist()
        length = min(4, len(past))
        possible = {tuple(past[i : i + length]) for i in range(len(past) - length + 1)}
        assert found <= possible
        assert len(found) >= min(3, len(possible))


def test_popularity_counts_positive_events_before_the_moment(dataset: Dataset) -> None:
    data = tower_data(dataset, positive="click")
    events = dataset.events
    for moment in (Part.VALID, Part.TEST, NOW):
        chosen = (events.parts < moment) & (events.labels[:, 0] > 0) & (events.items < dataset.num_catalogue)
        early = data.history.items[data.history.parts == Part.PRIOR]
        wanted = np.bincount(np.concatenate([events.items[chosen], early]), minlength=data.num_items)
        assert data.popularity(moment).tolist() == wanted.tolist()


def test_towers_read_the_features_they_are_told_to(dataset: Dataset) -> None:
    everything = tower_data(dataset).layout
    assert everything.item.categorical == ("item_id", "genre", "price")
    assert (everything.item.bags, everything.item.vectors) == (("tags",), (("text", 3),))
    assert everything.user.categorical == ("user_id", "city", "age")
    some = tower_data(dataset, item_features=("genre",), user_features=(), event_features=()).layout
    assert (some.item.categorical, some.item_id) == (("genre",), "")
    assert (some.item.bags, some.item.vectors) == ((), ())
    assert (some.user.categorical, some.events) == ((), ())
    assert set(some.sizes) == {"genre"}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"item_features": ("gerne",)}, 'cannot read "gerne"; there are: item_id, genre, price, tags, text'),
        ({"event_features": ("star",)}, 'event feature "star" does not exist; there are: gap, request_gap, stars, tab'),
        ({"positive": "buy"}, 'retrieval.positive = "buy" is no task; tasks: click, like'),
    ],
)
def test_a_feature_or_task_that_does_not_exist_is_named(dataset: Dataset, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tower_data(dataset, **keys)


def test_a_task_nobody_fulfils_is_no_positive(shop: Shop) -> None:
    dataset = shop.dataset(
        "time",
        events=shop.events.assign(click=0),
        counts=(),
        features=[{"name": "user_id", "side": "user"}, {"name": "item_id", "side": "item"}],
    )
    with pytest.raises(DataError, match='no event has label 1 in "click"'):
        tower_data(dataset, positive="click")


def test_events_from_before_the_log_are_learned_like_all_others(dataset: Dataset) -> None:
    """Only events carried from an earlier run were learned there."""
    data = tower_data(dataset, positive="click")
    assert (data.history.parts == Part.PRIOR).any()
    assert data.to_learn is None


@pytest.mark.parametrize("tokens", [1, 7, 64, 1_000])
def test_cuts_are_those_of_a_loop_over_the_users(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    for users in (1, 2, 50, 300):
        lengths = np.sort(rng.integers(0, 40, users))
        bounds, start = [0], 0
        for place, length in enumerate(lengths.tolist()):
            if (place - start + 1) * length > tokens and place > start:
                bounds.append(place)
                start = place
        assert _cuts(lengths, tokens) == [*bounds, users]
