"""Popularity by segment against its definition: shares of everybody, bent by as much as a trait has to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recsys.base.errors import ConfigError
from recsys.base.ragged import Ragged
from recsys.retrieval.baselines import baseline_from_state, build_baseline
from recsys.retrieval.baselines.base import Histories
from recsys.retrieval.baselines.segment import SegmentPopularity, segment_traits, user_segments
from recsys.tests.support.shop import Shop

U, N = 30, 12


def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items, and two traits: three segments of one, four of the other, some unknown."""
    rng = np.random.default_rng(0)
    traits = np.stack([rng.integers(-1, 3, U), np.where(rng.random(U) < 0.2, -1, rng.integers(3, 7, U))], axis=1)
    users = rng.integers(0, U, 700)
    items = (rng.geometric(0.25, 700) + 2 * np.maximum(traits[users, 0], 0)) % (N - 1)  # item 11 never occurs
    return users, items, traits.astype(np.int32)


def asked(users: np.ndarray) -> Histories:
    return Histories(Ragged.empty(len(users)), users)


def fitted(shrinkage: float = 25.0) -> SegmentPopularity:
    users, items, traits = world()
    model = build_baseline("segment_popularity", shrinkage=shrinkage)
    assert isinstance(model, SegmentPopularity)
    return model.describe_users(traits).fit(users, items, None, U, N)


def test_scores_are_the_mean_over_the_traits_of_shrunk_shares() -> None:
    users, items, traits = world()
    everybody = np.bincount(items, minlength=N) / len(items)
    scores = fitted().score(asked(np.arange(U)))
    for user in range(U):
        shares = []
        for trait in range(2):
            value = traits[user, trait]
            mine = items[traits[users, trait] == value] if value >= 0 else np.empty(0, dtype=np.int64)
            shares.append((np.bincount(mine, minlength=N) + 25.0 * everybody) / (len(mine) + 25.0))
        np.testing.assert_allclose(scores[user], np.mean(shares, axis=0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(scores.sum(1), 1.0, rtol=1e-5)


def test_small_segments_whisper_and_large_ones_speak() -> None:
    users, items, traits = world()
    plain = build_baseline("popularity").fit(users, items, None, U, N).score(asked(np.array([0])))[0]
    shares = plain / plain.sum()

    def distance(shrinkage: float) -> float:
        known = np.flatnonzero((traits >= 0).all(1))
        return float(np.abs(fitted(shrinkage).score(asked(known)) - shares).max())

    assert distance(1e9) < 1e-6
    assert 10 * distance(1e5) < distance(10.0)


def test_who_is_not_known_gets_overall_popularity() -> None:
    _, items, traits = world()
    model = fitted()
    nobody = Histories(Ragged.empty(1))
    expected = np.bincount(items, minlength=N) / len(items)
    np.testing.assert_allclose(model.score(nobody)[0], expected, rtol=1e-5)
    unknown = np.flatnonzero((traits < 0).all(1))
    assert len(unknown)
    np.testing.assert_allclose(model.score(asked(unknown))[0], expected, rtol=1e-5)


def test_blocks_and_a_saved_copy_know_who_asks(tmp_path: Path) -> None:
    model, queries = fitted(), asked(np.array([5, 2, 9, 2]))
    scores = model.score(queries)
    np.testing.assert_array_equal(scores[1], scores[3])
    np.testing.assert_allclose(model.score(queries.block(2, 4)), scores[2:], rtol=1e-6)
    save_file(model.state(), tmp_path / "baseline.safetensors")
    again = baseline_from_state(load_file(tmp_path / "baseline.safetensors"))
    np.testing.assert_array_equal(again.score(queries), scores)


def test_segments_are_numbered_over_all_traits_and_missing_values_are_none(shop: Shop) -> None:
    dataset = shop.dataset()
    assert segment_traits(dataset, None) == ("city",)  # neither the id nor a number
    assert segment_traits(dataset, ()) == ()
    assert segment_traits(dataset, ("age", "city")) == ("age", "city")
    found = user_segments(dataset, ("age", "city"))
    cities = shop.users["city"]
    for city in ("A", "B"):
        same = found[(cities == city).to_numpy(), 1]
        assert (same == same[0]).all()
        assert same[0] >= 0
    assert len(set(found[cities.notna().to_numpy(), 1])) == 2
    assert (found[cities.isna().to_numpy(), 1] == -1).all()
    assert (found[shop.users["age"].isna().to_numpy(), 0] == -1).all()
    assert not set(found[:, 0]) & set(found[:, 1]) - {-1}
    with pytest.raises(ConfigError, match=r'retrieval.segments names "colour", .* there are: user_id, city, age'):
        segment_traits(dataset, ("colour",))
