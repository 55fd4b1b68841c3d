"""From tables to recommendations: train, recommend, evaluate, save, load.

python quickstart.py                                      with a small simulated shop
python quickstart.py EVENTS.csv [ITEMS.csv [USERS.csv]]   with your tables, CSV or Parquet
"""

from __future__ import annotations

import sys
from typing import Any

import recsys
from recsys.data.world.simulate import SimulateConfig, build_world

SHOP = SimulateConfig(users=200, items=100, sessions=600)


def main(*paths: str) -> None:
    """Do everything once; the run stays in runs/quickstart."""
    tables: dict[str, Any]
    if paths:
        tables = dict(zip(("events", "items", "users"), paths, strict=False))
    else:
        shop = build_world(SHOP)
        tables = {"events": shop.events, "items": shop.items, "users": shop.users}

    rec = recsys.train(**tables)  # without a configuration the meaning of every column is inferred
    print("\n".join(rec.notes))

    users = [*rec.trained.dataset.user_ids[:2], "somebody new"]
    print(rec.recommend(users, k=5, titles=True).to_string())

    print(rec.evaluate())

    rec.save("runs/quickstart")
    loaded = recsys.load("runs/quickstart")
    print(loaded)
    assert loaded.recommend(users).equals(rec.recommend(users))


if __name__ == "__main__":
    main(*sys.argv[1:])
