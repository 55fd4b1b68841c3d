"""A hand-made log with a column of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from recsys.data.build import build_dataset
from recsys.data.dataset import Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.schema import DataConfig


class Shop:
    """A hand-made log with a column of every kind, many events of one second, and its schema."""

    USERS, ITEMS, EVENTS, CUTS = 24, 20, 500, (260, 300)

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        users, items, events = self.USERS, self.ITEMS, self.EVENTS
        self.users = pd.DataFrame(
            {
                "user_id": [f"u{u}" for u in range(users)],
                "city": rng.choice(["A", "B", None], users),
                "age": np.where(rng.random(users) < 0.2, np.nan, rng.integers(18, 70, users)),
                "before": [" ".join(f"i{i}" for i in rng.integers(0, items, u % 3)) for u in range(users)],
            }
        )
        self.items = pd.DataFrame(
            {
                "item_id": [f"i{i}" for i in range(items)],
                "genre": rng.choice(["g1", "g2", "g3"], items),
                "tags": ["|".join(rng.choice(list("abcd"), i % 4, replace=False)) for i in range(items)],
                "price": np.where(np.arange(items) % 5 == 0, 0.0, rng.random(items) * 50),
                "text": ["" if i == 3 else "|".join(f"{x:.3f}" for x in rng.normal(size=3)) for i in range(items)],
            }
        )
        click = (rng.random(events) < 0.5).astype(int)
        self.events = pd.DataFrame(
            {
                "user_id": [f"u{u}" for u in rng.integers(0, users, events)],
                "item_id": [f"i{i}" for i in rng.integers(0, items, events)],
                "timestamp": np.sort(rng.integers(0, 340, events)),  # ties on purpose
                "tab": rng.choice(["home", "search", "feed"], events),
                "hour": rng.integers(0, 24, events).astype(float),
                "stars": rng.integers(1, 6, events),
                "click": click,
                "like": np.where(rng.random(events) < 0.1, np.nan, click * rng.integers(0, 2, events)),
                "part": rng.choice(["train", "valid", "test"], events, p=[0.7, 0.15, 0.15]),
            }
        )

    def config(self, kind: str = "time", **changes: Any) -> DataConfig:
        """Schema with the given split; `changes` replace whole keys of it."""
        split = {"kind": kind, "valid_from": str(self.CUTS[0]), "test_from": str(self.CUTS[1]), "column": "part"}
        features: list[dict[str, Any]] = [
            {"name": "user_id", "side": "user"},
            {"name": "city", "side": "user"},
            {"name": "age", "side": "user", "kind": "numeric", "bins": 4},
            {"name": "item_id", "side": "item", "min_count": 2},
            {"name": "genre", "side": "item"},
            {"name": "tags", "side": "item", "kind": "multi", "max_length": 3},
            {"name": "price", "side": "item", "kind": "numeric", "bins": 4},
            {"name": "text", "side": "item", "kind": "vector"},
            {"name": "tab", "side": "context"},
            {"name": "hour", "side": "context", "kind": "numeric", "bins": 5, "scale": "equal_frequency"},
            {"name": "stars", "side": "context", "after_event": True},
            {
                "name": "recent",
                "side": "user",
                "kind": "sequence",
                "of": ["item_id", "genre"],
                "matches": ["genre"],
                "properties": ["gap", "click"],
                "length": 4,
            },
            {
                "name": "clicked",
                "side": "user",
                "kind": "sequence",
                "of": ["item_id"],
                "where": "click",
                "prior": "before",
                "length": 6,
            },
        ]
        counts = [
            {"keys": ["item_id"], "tasks": ["click", "like"], "smoothing": 3.0},
            {"keys": ["user_id", "tab"], "tasks": ["click"]},
            {"keys": ["user_id", "genre"], "tasks": ["like"]},
            {"keys": ["tab"], "tasks": []},
        ]
        tasks = [{"name": "click"}, {"name": "like", "where": "click"}]
        whole = {"events": "events", "features": features, "counts": counts, "tasks": tasks, "split": split}
        return DataConfig.model_validate({**whole, **changes})

    def dataset(
        self, kind: str = "time", events: pd.DataFrame | None = None, *, users: bool = True, **changes: Any
    ) -> Dataset:
        """Encode the log, or other events in its place; without `users` the user table is left out."""
        frame = self.events if events is None else events
        tables = read_tables(frame, self.users if users else None, self.items)
        return build_dataset(tables, self.config(kind, **changes), seed=1)
