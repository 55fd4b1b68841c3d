"""The shop, trained a little, for everything that is told to it."""

from __future__ import annotations

import pandas as pd
import pytest

import recsys
from recsys.configs.run import RunConfig
from recsys.tests.support.rebuilt import Frames
from recsys.tests.support.shop import Shop

DERIVED = [
    {"name": "away", "kind": "since"},
    {"name": "means", "kind": "ratio", "inputs": ["user.age", "item.price"]},
    {"name": "place", "kind": "cross", "inputs": ["user.city", "context.tab"], "hash_buckets": 50},
]


@pytest.fixture(scope="session")
def frames(shop: Shop) -> Frames:
    """Events, items and users; one user has traits and no event."""
    traits = pd.DataFrame({"user_id": ["traits"], "city": ["A"], "age": [33.0]})
    return shop.events, shop.items, pd.concat([shop.users, traits], ignore_index=True)


@pytest.fixture(scope="session")
def trained(shop: Shop, frames: Frames) -> recsys.Recommender:
    """Without a state."""
    config = RunConfig.model_validate(
        {
            "name": "shop",
            "seed": 3,
            "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
            "runtime": {"threads": 1},
            "data": shop.config("time", derived=DERIVED).model_dump(),
            "retrieval": {
                "positive": "click",
                "num_candidates": 8,
                "fit": {"epochs": 1},
                "tower": {"dim": 8, "event_features": ["gap", "stars", "tab"]},
            },
            "ranking": {"model": {"kind": "mmoe"}, "fit": {"epochs": 1}, "select": {"requests_per_step": 4}},
        }
    )
    return recsys.train(*frames, config=config)
