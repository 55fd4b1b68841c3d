"""A schema from tables of any names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.base.errors import ConfigError, DataError
from recsys.data.feature_spec import FeatureSpec
from recsys.data.infer import InferredSchema, infer_schema

ROWS = 600
NAMES = {
    "user": "user_id", "item": "item_id", "time": "timestamp", "click": "click", "device": "device",
}  # fmt: skip


def events(names: dict[str, str] | None = None, **columns: Any) -> pa.Table:
    """A log of 40 users and 30 items; `names` renames its columns, `columns` adds to them or takes them out (None)."""
    rng = np.random.default_rng(3)
    table = {
        "user": [f"u{number}" for number in rng.integers(0, 40, ROWS)],
        "item": rng.integers(100, 130, ROWS).tolist(),
        "time": (1_700_000_000 + rng.permutation(ROWS) * 3_600).tolist(),
        "click": rng.integers(0, 2, ROWS).tolist(),
        "device": rng.choice(["phone", "desktop"], ROWS).tolist(),
    }
    table |= columns
    called = {**NAMES, **(names or {})}
    return pa.table({called.get(name, name): values for name, values in table.items() if values is not None})


def items(key: str = "item_id") -> pa.Table:
    return pa.table(
        {
            key: list(range(100, 130)),
            "title": [f"The {number}. Thing" for number in range(30)],
            "genre": ["a|b", "b|c", "c"] * 10,
            "price": np.linspace(1.5, 90.25, 30).tolist(),
            "colour": ["red", "green", "blue"] * 10,
            "shape": ["round"] * 30,
        }
    )


def features(schema: InferredSchema) -> dict[str, FeatureSpec]:
    return {spec.name: spec for spec in schema.config.features}


def test_each_column_becomes_what_it_holds() -> None:
    schema = infer_schema(events(), items())
    config, specs = schema.config, features(schema)
    assert (config.user, config.item, config.time, config.title) == ("user_id", "item_id", "timestamp", "title")
    assert {name: (spec.side, spec.kind) for name, spec in specs.items()} == {
        "user_id": ("user", "categorical"),
        "item_id": ("item", "categorical"),
        "genre": ("item", "multi"),
        "price": ("item", "numeric"),
        "colour": ("item", "categorical"),
        "device": ("context", "categorical"),
        "recent": ("user", "sequence"),
    }
    assert [task.name for task in config.tasks] == ["click"]
    assert config.split.kind == "time"
    assert schema.positive == "click"
    assert any('"shape" is left out' in note for note in schema.notes)


@pytest.mark.parametrize(
    "names",
    [
        {"user": "userId", "item": "movieId", "time": "ts"},
        {"user": "UID", "item": "sku", "time": "created_at", "click": "is_click"},
        {"user": "Kundennummer", "item": "Artikel", "time": "Zeitstempel", "click": "Klick"},
        {"user": "visitorid", "item": "productID", "time": "event_time", "click": "clicked"},
        {"user": "session_id", "item": "id_articulo", "time": "fecha", "click": "purchase"},
    ],
)
def test_other_spellings_change_only_the_names(names: dict[str, str]) -> None:
    def anonymous(table: pa.Table, given: dict[str, str]) -> str:
        dump = infer_schema(table).config.model_dump_json()
        for role, name in {**NAMES, **given}.items():
            dump = dump.replace(f'"{name}"', f'"<{role}>"')
        return dump

    assert anonymous(events(names), names) == anonymous(events(), {})


def test_the_order_of_columns_changes_nothing() -> None:
    first = infer_schema(events(), items())
    log, catalogue = events(), items()
    assert infer_schema(log.select(log.column_names[::-1]), catalogue.select(catalogue.column_names[::-1])) == first


def test_two_equally_good_columns_are_named_with_the_argument() -> None:
    log = events({"user": "customer_id"}, client_id=[f"c{row % 9}" for row in range(ROWS)])
    with pytest.raises(ConfigError, match=r'"client_id" and "customer_id" may each be the user .*user= '):
        infer_schema(log)
    assert infer_schema(log, user="client_id").config.user == "client_id"


def test_an_item_that_no_name_gives_away_is_asked_for() -> None:
    log = events({"item": "thing_bought"})
    with pytest.raises(ConfigError, match=r'no name says item; it may be .*"thing_bought".*item= '):
        infer_schema(log)
    assert infer_schema(log, item="thing_bought").config.item == "thing_bought"


def test_tables_that_name_the_ids_differently_are_told_apart() -> None:
    with pytest.raises(DataError, match=r'events call the item ids "item_id", the item table "id"'):
        infer_schema(events(), items("id"))


def test_a_log_of_one_item_or_of_two_events_is_refused() -> None:
    with pytest.raises(DataError, match=r'every event is of one item, item_id = "a"'):
        infer_schema(events(item=["a"] * ROWS))
    with pytest.raises(DataError, match="the log has 2 events"):
        infer_schema(events().slice(0, 2))


def test_what_tells_the_label_is_no_feature() -> None:
    log = events()
    clicks = np.array(log.column("click").to_pylist())
    seconds = np.where(clicks > 0, np.random.default_rng(0).integers(5, 90, ROWS), 0)
    schema = infer_schema(events(rest=seconds.tolist(), copy=clicks.tolist()), tasks=["click"])
    assert not {"rest", "copy"} & set(features(schema))
    assert sum('gives the label "click" of its own row away' in note for note in schema.notes) == 2


def test_a_rating_becomes_a_like_and_describes_past_events() -> None:
    stars = np.random.default_rng(0).integers(1, 6, ROWS)
    schema = infer_schema(events(click=None, rating=stars.tolist()))
    assert [(task.name, task.column, task.at_least) for task in schema.config.tasks] == [("like", "rating", 4.0)]
    assert features(schema)["rating"].after_event
    assert schema.positive == ""


def test_kinds_of_events_become_tasks_above_the_weakest() -> None:
    kinds = np.random.default_rng(0).choice(["view", "add_to_cart", "purchase"], ROWS)
    schema = infer_schema(events(click=None, event_type=kinds.tolist()))
    assert {task.equals for task in schema.config.tasks} == {("add_to_cart",), ("purchase",)}
    assert schema.positive == ""


def test_a_step_after_another_is_learned_where_the_other_is_one() -> None:
    clicks = np.array(events().column("click").to_pylist())
    bought = clicks * np.random.default_rng(1).integers(0, 2, ROWS)
    schema = infer_schema(events(purchase=bought.tolist()))
    assert [(task.name, task.where) for task in schema.config.tasks] == [("click", ""), ("purchase", "click")]


def test_no_label_makes_every_row_an_interaction() -> None:
    schema = infer_schema(events(click=None))
    assert schema.config.tasks == ()
    assert schema.config.counts == ()
    assert schema.positive == ""


def test_columns_of_one_value_for_each_item_describe_the_item() -> None:
    number = np.array(events().column("item_id").to_pylist())
    schema = infer_schema(events(brand=[f"b{value % 7}" for value in number], weekday=(np.arange(ROWS) % 7).tolist()))
    assert features(schema)["brand"].side == "item"
    assert features(schema)["weekday"].side == "context"


def test_rows_without_users_and_items_are_ranked_alone() -> None:
    rng = np.random.default_rng(0)
    answers = rng.choice([" 50000+.", " - 50000."], ROWS, p=[0.2, 0.8]).tolist()
    table = pa.table({"age": rng.integers(18, 90, ROWS).tolist(), "income": answers})
    schema = infer_schema(table)
    assert (schema.config.user, schema.config.item) == ("", "")
    assert schema.config.tasks[0].equals == (" 50000+.",)
    assert schema.config.split.kind == "random"


def test_a_word_of_a_column_can_be_asked_for() -> None:
    schema = infer_schema(events(state=["new", "paid", "sent"] * (ROWS // 3)), tasks=["state=paid"])
    assert [(task.name, task.column, task.equals) for task in schema.config.tasks] == [("paid", "state", ("paid",))]
    with pytest.raises(ConfigError, match='no row of "state" is "lost"'):
        infer_schema(events(state=["new", "paid", "sent"] * (ROWS // 3)), tasks=["state=lost"])


def test_a_log_sorted_by_item_is_parted_at_random() -> None:
    table = events(time=None).sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    schema = infer_schema(table)
    assert schema.config.split.kind == "random"
    assert any("sorted by item id" in note for note in schema.notes)
    assert infer_schema(events(time=None)).config.split.kind == "leave_last"


def test_a_few_lost_times_do_not_hide_the_time_column() -> None:
    times = [0, 0, *range(1_700_000_000_000, 1_700_000_000_000 + (ROWS - 2) * 60_000, 60_000)]
    schema = infer_schema(events(time=times))
    assert schema.config.time == "timestamp"
    assert schema.config.split.kind == "time"
    assert any(note.startswith('2 rows of "timestamp" hold no such time, among them 0') for note in schema.notes)


def test_a_rating_that_says_what_a_flag_says_is_one_task() -> None:
    ratings = np.random.default_rng(1).integers(1, 6, ROWS)
    schema = infer_schema(events(click=(ratings >= 4).astype(int).tolist(), rating=ratings.tolist()))
    assert [task.name for task in schema.config.tasks] == ["click"]
    assert any('task "like" is left out' in note for note in schema.notes)
    assert not any(note.startswith('task "like": ') for note in schema.notes)
    assert features(schema)["rating"].after_event


def test_an_item_table_of_other_items_is_refused_and_a_partial_one_is_told() -> None:
    with pytest.raises(DataError, match="no id in common"):
        infer_schema(events(), items().set_column(0, "item_id", pa.array(range(900, 930))))
    schema = infer_schema(events(), items().slice(0, 25))
    assert any(note.startswith("5 of the 30 items with events are not in the items table") for note in schema.notes)
