"""What `recsys init` decides by the size of a log, and what a published recipe keeps of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recsys.configs.inferred import InferredConfig, infer_config


def inferred(rows: int, items: int, recipe: str = "") -> InferredConfig:
    """The configuration of a drawn log in which every item has an event."""
    rng = np.random.default_rng(rows)
    taken = np.concatenate([np.arange(items), rng.integers(0, items, rows - items)])
    table = pa.table(
        {
            "user": rng.integers(0, max(rows // 9, 5), rows).astype(str),
            "item": taken.astype(str),
            "time": np.sort(rng.integers(1_600_000_000, 1_700_000_000, rows)),
        }
    )
    return infer_config(table, None, None, recipe=recipe)


@pytest.mark.parametrize(
    ("rows", "items", "loss"),
    [(160_000, 9_000, "estimated"), (160_000, 5_000, "auto"), (100_000, 9_000, "auto"), (160_000, 40_000, "auto")],
)
def test_many_items_of_many_events_are_estimated_and_few_compared_whole(rows: int, items: int, loss: str) -> None:
    section = inferred(rows, items).config().retrieval
    assert section.loss == loss
    assert section.tower.neighbours == 10
    if loss == "estimated":
        assert 1.5 * section.negatives <= items
        assert section.optim.table_lr is not None
        assert section.optim.table_lr > section.optim.lr


def test_a_million_events_bear_a_faster_rate() -> None:
    many, fewer = inferred(1_000_000, 4_000).config().retrieval, inferred(160_000, 9_000).config().retrieval
    assert (many.loss, many.negatives) == ("estimated", 2_048)
    assert many.optim.table_lr is not None
    assert fewer.optim.table_lr is not None
    assert many.optim.table_lr > fewer.optim.table_lr
    assert inferred(1_000_000, 2_000).config().retrieval.loss == "auto"


def test_a_handful_of_rows_has_no_neighbours() -> None:
    assert inferred(1_500, 60).config().retrieval.tower.neighbours == 0


def test_a_recipe_is_as_published_whatever_the_size() -> None:
    section = inferred(160_000, 9_000, "sasrec").config().retrieval
    assert (section.loss, section.tower.neighbours, section.optim.table_lr) == ("bce", 0, None)
    assert inferred(160_000, 9_000, "sasrec").config().final.rows == "none"  # nor has any published figure a last fit
    assert ("retrieval", "loss") not in inferred(160_000, 9_000, "sasrec").reasons


def test_lists_that_are_judged_over_a_period_are_learned_user_by_user() -> None:
    rng = np.random.default_rng(0)
    rows, users = 6_000, 60
    table = pa.table(
        {
            "user": rng.integers(0, users, rows).astype(str),
            "item": rng.integers(0, 200, rows).astype(str),
            "time": np.sort(rng.integers(1_600_000_000, 1_700_000_000, rows)),
        }
    )
    config = infer_config(table, None, None).config()
    assert config.data.split.kind == "time"
    assert (config.ranking.select.targets, config.ranking.select.per_user) == ("auto", 10)
    assert config.retrieval.logit_adjustment == config.retrieval.linear == "auto"
    assert config.retrieval.horizon == "auto"
    assert infer_config(table.drop(["time"]), None, None).config().retrieval.horizon == 1  # the next event alone


@pytest.mark.parametrize(("users", "rows"), [(120, "auto"), (30, "none")])
@pytest.mark.parametrize("timed", [True, False])
def test_short_histories_are_learned_to_their_end(users: int, rows: str, timed: bool) -> None:
    rng = np.random.default_rng(2)
    keys = {"user": rng.integers(0, users, 3_000).astype(str), "item": rng.integers(0, 150, 3_000).astype(str)}
    time = {"time": np.sort(rng.integers(1_600_000_000, 1_700_000_000, 3_000))} if timed else {}
    assert infer_config(pa.table({**keys, **time})).config().final.rows == rows


@pytest.mark.parametrize("retrieves", [True, False])
def test_labels_that_speak_against_an_item_are_weighed_only_where_no_list_is_learned(retrieves: bool) -> None:
    rng = np.random.default_rng(1)
    columns = {"is_click": rng.integers(0, 2, 4_000), "is_hate": rng.integers(0, 2, 4_000)}
    keys = {name: rng.integers(0, 150, 4_000).astype(str) for name in ("user", "item")}  # 27 events a user
    time = {"time": np.sort(rng.integers(1_600_000_000, 1_700_000_000, 4_000))}
    shown = infer_config(pa.table({**keys, **time, **columns}), user=None if retrieves else "")
    assert ("final" in shown.table) is retrieves
    assert shown.schema.unwanted == ("is_hate",)
    assert ("blend" in shown.table) is not retrieves
