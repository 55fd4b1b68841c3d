"""The cold-start table's split and requests: what is hidden stays hidden, and what is asked lies ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.base.ragged import Ragged
from recsys.benchmarks.quality.cold_start_requests import NEXT, Asked, Genres, hide, new_items, new_users
from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.reading.tables import Tables
from recsys.data.schema import DataConfig
from recsys.retrieval.towers.two_tower import TwoTowerConfig
from recsys.retrieval.towers.windows import TowerData
from recsys.tests.support.nonempty import nonempty

U, N = 60, 50


@pytest.fixture(scope="module")
def films() -> Tables:
    """Sixty users rate half of fifty films each, many within one second; one film has no rating."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 5, int(time))
        for user in range(U)
        for item, time in zip(rng.permutation(N - 1)[: N // 2], np.sort(rng.integers(0, 40, N // 2)), strict=True)
    ]
    order = rng.permutation(len(rows))
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"]).iloc[order]
    genres = ["|".join(rng.choice(list("ABC"), rng.integers(1, 3), replace=False)) for _ in range(N)]
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(N)], "genres": genres})
    users = pd.DataFrame({"user_id": [f"u{u}" for u in range(U)], "gender": rng.choice(["F", "M"], U)})
    return read_tables(events.reset_index(drop=True), users, items)


@pytest.fixture(scope="module")
def split(films: Tables) -> tuple[pd.DataFrame, Dataset, TowerData]:
    hidden = hide(films)
    config = DataConfig.model_validate(
        {
            "events": "events",
            "features": [
                {"name": "gender", "side": "user"},
                {"name": "item_id", "side": "item"},
                {"name": "genres", "side": "item", "kind": "multi"},
            ],
            "split": {"kind": "column", "column": "part"},
        }
    )
    dataset = build_dataset(hidden, config, seed=1)
    return hidden.events.to_pandas(), dataset, TowerData.of(dataset, TwoTowerConfig(), "")


def test_training_never_meets_the_hidden(films: Tables, split: tuple[pd.DataFrame, Dataset, TowerData]) -> None:
    events = split[0]
    warm = events[events["part"] != "test"]
    users = set(events["user_id"]) - set(warm["user_id"])
    items = set(events["item_id"]) - set(warm["item_id"])
    assert len(users) == round(0.10 * U)
    assert len(items) == round(0.05 * (N - 1))
    both = events["user_id"].isin(users) & events["item_id"].isin(items)
    assert not both.any()
    tested = events[events["part"] == "test"]
    assert (tested["user_id"].isin(users) | tested["item_id"].isin(items)).all()
    dropped = films.events.num_rows - len(events)
    whole = films.events.to_pandas()
    assert dropped == (whole["user_id"].isin(users) & whole["item_id"].isin(items)).sum() > 0
    last = warm.sort_values("timestamp", kind="stable").groupby("user_id").tail(1)
    assert (last["part"] == "valid").all()
    assert (warm["part"] == "valid").sum() == len(last)


@pytest.mark.parametrize("known", [0, 1, 3, 10])
def test_a_new_user_is_asked_for_what_comes_next(split: Any, known: int) -> None:
    events, dataset, data = split
    asked = new_users(data, known)
    assert len(asked.users) == round(0.10 * U)
    for place, user in enumerate(asked.users):
        mine = events[events["user_id"] == dataset.user_ids[user]].sort_values("timestamp", kind="stable")
        rows = [dataset.item_rows[item] for item in mine["item_id"]]
        assert asked.known[place].tolist() == rows[:known]
        assert asked.truth[place].tolist() == rows[known : known + NEXT]
        windows = data.windows(asked.users[[place]], asked.ends[[place]])
        assert windows.items[windows.present].tolist() == rows[:known]


@pytest.mark.parametrize("among_new", [False, True])
def test_a_new_item_is_asked_for_from_what_came_before(split: Any, among_new: bool) -> None:
    events, dataset, data = split
    asked = new_items(data, among_new)
    warm = events[events["part"] != "test"]
    unmet = [row for row in range(N) if dataset.item_ids[row] not in set(warm["item_id"])]
    assert asked.pool is None if not among_new else asked.pool is not None and asked.pool.tolist() == unmet
    assert len(asked.users)
    for place, user in enumerate(asked.users):
        name = dataset.user_ids[user]
        mine = events[(events["user_id"] == name) & (events["part"] == "test")]
        target = mine.sort_values("timestamp", kind="stable").iloc[-1]
        (found,) = asked.truth[place]
        assert dataset.item_ids[found if asked.pool is None else asked.pool[found]] == target["item_id"]
        before = warm[(warm["user_id"] == name) & (warm["timestamp"] < target["timestamp"])]
        assert sorted(asked.known[place]) == sorted(dataset.item_rows[item] for item in before["item_id"])
        assert len(before)


def test_chance_is_the_mean_over_orders_drawn_by_lot(split: Any) -> None:
    rng = np.random.default_rng(1)
    asked = new_items(split[2], among_new=False)
    expected = {name: values.mean() for name, values in asked.by_chance().items()}
    drawn: dict[str, list[float]] = {name: [] for name in expected}
    for _ in range(60):
        lots = rng.random((len(asked.users), N)).astype(np.float32)
        for name, values in asked.ranked(lambda rows, lots=lots: lots[rows]).items():
            drawn[name].append(float(values.mean()))
    for name, means in nonempty(drawn.items()):
        assert np.mean(means) == pytest.approx(expected[name], abs=4 * np.std(means) / 60**0.5 + 1e-9)


def test_genres_count_training_events_per_film(split: Any) -> None:
    events, dataset, data = split
    genres = Genres.of(dataset, data)
    listed = dataset.attributes["genres"]
    tables = [set(np.array(listed.values)[listed.codes[listed.ptr[i] : listed.ptr[i + 1]]]) for i in range(N)]
    train = events[events["part"] == "train"]["item_id"].value_counts()
    counts = np.array([train.get(dataset.item_ids[row], 0) for row in range(N)])
    mean = {}
    for genre in "ABC":
        inside = np.array([genre in own for own in tables]) & (counts > 0)
        mean[genre] = counts[inside].mean()
    expected = [np.mean([mean[genre] for genre in own]) for own in tables]
    one = Asked(np.zeros(1, np.int64), np.zeros(1, np.int64), Ragged.from_lists([[]]), Ragged.from_lists([[0]]), N)
    found = genres.scores(one, taste=False)(slice(0, 1))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    history = Ragged.from_lists([[row for row in range(N) if tables[row] == {"A"}][:2]])
    lover = Asked(one.users, one.ends, history, one.truth, N)
    liked = genres.scores(lover, taste=True)(slice(0, 1))[0]
    only = {row for row in range(N) if "A" in tables[row]}
    assert {int(row) for row in np.flatnonzero(liked > 1e-3)} == only
