"""A day carried on: old values keep their rows, the past is history and counts, and what is held out stays unknown."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.base.errors import DataError, RecsysError, RunError
from recsys.data import store
from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.encoding.groups import combine
from recsys.data.packed import Packed
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST, UNKNOWN, Vocabulary
from recsys.tests.support.shop import Shop

FIRST_DAY, SECOND_CUT = 200, (270, 310)
"""The first run knows the shop's log up to second 200; the second validates from 270 and tests from 310."""


def split(valid: float, test: float) -> dict[str, Any]:
    return {"kind": "time", "valid_from": str(valid), "test_from": str(test)}


def build(
    shop: Shop, events: pd.DataFrame, cuts: tuple[float, float], source: Dataset | None = None, **keys: Any
) -> Dataset:
    tables = read_tables(events, keys.pop("users", shop.users), keys.pop("items", shop.items))
    return build_dataset(tables, shop.config("time", **{"split": split(*cuts), **keys}), 1, source=source)


@pytest.fixture(scope="module")
def log(shop: Shop) -> pd.DataFrame:
    """The shop's log; the second day brings users, items and tabs of its own, in training rows and in held-out ones."""
    rng = np.random.default_rng(3)
    frame = shop.events.copy()
    times = frame["timestamp"]
    for (low, high), mark in (((FIRST_DAY, SECOND_CUT[0]), "new"), ((SECOND_CUT[0], 400), "late")):
        inside = frame.index[(times >= low) & (times < high)]
        for column in ("user_id", "item_id", "tab"):
            chosen = rng.choice(inside, len(inside) // 6, replace=False)
            frame.loc[chosen, column] = f"{mark} {column}"
    return frame


@pytest.fixture(scope="module")
def first(shop: Shop, log: pd.DataFrame) -> Dataset:
    """Trained on the first 150 seconds, judged on the next 50."""
    return build(shop, log[log["timestamp"] < FIRST_DAY], (150, 175))


@pytest.fixture(scope="module")
def second(shop: Shop, log: pd.DataFrame, first: Dataset) -> Dataset:
    """Only the second day's rows, on the first day's data set."""
    return build(shop, log[log["timestamp"] >= FIRST_DAY], SECOND_CUT, first)


def everything(dataset: Dataset, rows: torch.Tensor) -> list[torch.Tensor]:
    batch = dataset.batch(rows)
    inside = [
        tensor
        for block in (batch.query, batch.item)
        for tensor in (block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors)
    ]
    return [tensor.nan_to_num(-9.0) for tensor in (*inside, batch.labels, batch.mask, batch.weight)]


def test_old_values_keep_their_rows_and_new_ones_come_behind(first: Dataset, second: Dataset) -> None:
    grown = 0
    for name, vocabulary in first.encoders.vocabularies.items():
        after = second.encoders.vocabularies[name].values
        assert after[: len(vocabulary.values)] == vocabulary.values, name
        grown += len(after) > len(vocabulary.values)
    assert grown >= 3
    assert "new user_id" in second.encoders.vocabularies["user_id"].values
    assert "new tab" in second.encoders.vocabularies["tab"].values
    assert second.user_ids[: first.num_users] == first.user_ids
    assert second.item_ids[: first.num_catalogue] == first.item_ids[: first.num_catalogue]


def test_bucket_edges_and_scales_stay(shop: Shop, log: pd.DataFrame, first: Dataset) -> None:
    """Also of a day whose numbers are quite different."""
    day = log[log["timestamp"] >= FIRST_DAY].assign(hour=1e6)
    after = build(shop, day, SECOND_CUT, first)
    assert {name: n.state() for name, n in after.encoders.numerics.items()} == {
        name: n.state() for name, n in first.encoders.numerics.items()
    }
    assert after.layout.sizes["hour"] == first.layout.sizes["hour"]


def test_an_equal_frequency_number_stays_where_it_was_and_the_scale_cannot_change(
    shop: Shop, log: pd.DataFrame
) -> None:
    def day(rows: pd.DataFrame, cuts: tuple[float, float], scale: str, source: Dataset | None = None) -> Dataset:
        features = [f.model_dump() | ({"scale": scale} if f.name == "hour" else {}) for f in shop.config().features]
        return build(shop, rows, cuts, source, features=features)

    early, late = log[log["timestamp"] < FIRST_DAY], log[log["timestamp"] >= FIRST_DAY].assign(hour=12.0)
    before = day(early, (150, 175), "equal_frequency")
    after = day(late, SECOND_CUT, "equal_frequency", before)
    hours = np.linspace(-5, 30, 50, dtype=np.float32)
    mine, theirs = (one.encoders.numerics["hour"].scaled(hours) for one in (after, before))
    assert np.array_equal(mine, theirs)
    assert set(np.unique(theirs)) <= {np.float32(b / 100) for b in range(100)}
    column = after.sides["context"].numeric.index("hour")
    new = after.row_query.whole().numeric[torch.from_numpy(after.events.source_rows >= 0), column]
    assert (new == float(before.encoders.numerics["hour"].scaled(np.array([12.0], np.float32))[0])).all()
    with pytest.raises(RunError, match="\"hour\" has scale = 'standard'"):
        day(late, SECOND_CUT, "standard", before)


def test_a_day_alone_with_its_past_is_the_whole_log(
    shop: Shop, log: pd.DataFrame, first: Dataset, second: Dataset
) -> None:
    """Histories, counts, labels and features of the new rows are those that all rows together would have given."""
    whole = build(shop, log, SECOND_CUT, first)
    assert not (whole.events.parts == Part.PRIOR).any()
    for name, vocabulary in whole.encoders.vocabularies.items():
        assert set(vocabulary.values) == set(second.encoders.vocabularies[name].values), name
    whole, again = (renumbered(dataset, second) for dataset in (whole, second))
    known = log.reset_index(drop=True)
    day = known.index[known["timestamp"] >= FIRST_DAY].to_numpy()
    in_whole = np.argsort(np.where(np.isin(whole.events.source_rows, day), whole.events.source_rows, -1), kind="stable")
    in_day = np.argsort(again.events.source_rows, kind="stable")
    rows = torch.from_numpy(in_whole[-len(day) :]), torch.from_numpy(in_day[-len(day) :])
    assert np.array_equal(whole.events.parts[rows[0]], again.events.parts[rows[1]])
    for one, other in zip(everything(whole, rows[0]), everything(again, rows[1]), strict=True):
        assert torch.equal(one, other)
    users, items = np.arange(whole.num_users), np.tile(np.arange(whole.num_catalogue), (whole.num_users, 1))
    assert (whole.user_ids, whole.item_ids[: whole.num_catalogue]) == (
        again.user_ids,
        again.item_ids[: again.num_catalogue],
    )
    for moment in (Part.VALID, Part.TEST, NOW):
        asked, again_asked = (dataset.candidates(users, items, moment) for dataset in (whole, again))
        for mine, theirs in ((asked.query, again_asked.query), (asked.item, again_asked.item)):
            assert torch.equal(mine.categorical, theirs.categorical)
            assert torch.equal(mine.numeric.nan_to_num(-9.0), theirs.numeric.nan_to_num(-9.0))
            assert all(torch.equal(*pair) for pair in zip(mine.sequences, theirs.sequences, strict=True))
    for where in ("", "click"):
        histories = whole.history(where), again.history(where)
        assert np.array_equal(histories[0].items, histories[1].items)
        assert np.array_equal(histories[0].ptr, histories[1].ptr)


def renumbered(dataset: Dataset, like: Dataset) -> Dataset:
    """The data set with its vocabulary rows as in another: new values may stand in another order."""

    def move(name: str, values: Any) -> Any:
        if name not in dataset.encoders.vocabularies:
            return values
        raw = dataset.encoders.vocabularies[name].values
        place = {value: FIRST + row for row, value in enumerate(like.encoders.vocabularies[name].values)}
        return torch.tensor([0, UNKNOWN, *(place[value] for value in raw)])[values]

    def moved(table: Packed, names: tuple[str, ...], bags: tuple[str, ...]) -> Packed:
        block = table.whole()
        columns = [move(name, block.categorical[:, i]) for i, name in enumerate(names)]
        return Packed.of(
            replace(
                block,
                categorical=torch.stack(columns, 1) if columns else block.categorical,
                bags=tuple(move(name, bag) for name, bag in zip(bags, block.bags, strict=True)),
            )
        )

    sides = dataset.sides
    query = (*sides["context"].categorical, *sides["query_counts"].categorical)
    return replace(
        dataset,
        users=moved(dataset.users, sides["user"].categorical, sides["user"].bags),
        items=moved(dataset.items, sides["item"].categorical, sides["item"].bags),
        row_query=moved(dataset.row_query, query, sides["context"].bags),
    )


def test_yesterdays_lessons_are_history_and_its_exam_is_todays_lesson(first: Dataset, second: Dataset) -> None:
    events = second.events
    carried = events.source_rows < 0
    assert carried.sum() == len(first.events)
    assert (events.parts[carried] == Part.PRIOR).sum() == (first.events.parts == Part.TRAIN).sum()
    assert (events.parts[carried] == Part.TRAIN).sum() == (first.events.parts > Part.TRAIN).sum()
    assert events.times[carried].max() < events.times[~carried].min()
    for name in ("times", "labels", "mask"):
        mine, theirs = getattr(events, name)[carried], getattr(first.events, name)
        assert np.array_equal(np.sort(mine, axis=0), np.sort(theirs, axis=0)), name


@pytest.mark.parametrize("part", [Part.VALID, Part.TEST])
def test_a_value_of_held_out_rows_alone_gets_no_row(second: Dataset, part: Part) -> None:
    late = [
        name for name in second.encoders.vocabularies if f"late {name}" in second.encoders.vocabularies[name].values
    ]
    assert late == []
    column = second.sides["context"].categorical.index("tab")
    codes = second.row_query.whole().categorical[:, column].numpy()
    assert (codes[second.events.parts == part] == UNKNOWN).any()
    assert all("late tab" not in vocabulary.values for vocabulary in second.encoders.keys.values())
    assert second.item_rows["late item_id"] >= second.num_catalogue


def test_what_is_held_out_changes_nothing_that_is_learned(
    shop: Shop, log: pd.DataFrame, first: Dataset, second: Dataset
) -> None:
    changed = log.copy()
    late = changed.index[changed["timestamp"] >= SECOND_CUT[1]]
    changed.loc[late, "click"] = 1 - changed.loc[late, "click"]
    changed.loc[late, "item_id"] = "nobody knows"
    changed.loc[late, "hour"] = 1e7
    after = build(shop, changed[changed["timestamp"] >= FIRST_DAY], SECOND_CUT, first)
    assert after.encoders.state() == second.encoders.state()
    for before, now in zip(second.counts, after.counts, strict=True):
        assert np.array_equal(before.positives, now.positives)
    for part in (Part.TRAIN, Part.VALID):
        for one, other in zip(everything(second, second.rows(part)), everything(after, after.rows(part)), strict=True):
            assert torch.equal(one, other)


def test_a_request_is_answered_from_the_counts_that_the_next_day_has_on_the_same_log(
    shop: Shop, log: pd.DataFrame, first: Dataset
) -> None:
    """Of the keys that the few training rows of the next day lack."""
    second = build(shop, log[log["timestamp"] >= FIRST_DAY], (FIRST_DAY + 2, SECOND_CUT[0]), first)
    events = second.events
    own = np.flatnonzero((events.parts == Part.TRAIN) & (events.source_rows >= 0))
    rows = {"user": events.users[own], "item": events.items[own], "context": own}
    compared = 0
    for now, after, then in zip(first.counts_now, second.counts, first.counts, strict=True):
        codes = [now.keys] if len(now.sizes) == 1 else [now.keys // now.sizes[1], now.keys % now.sizes[1]]
        theirs = combine(codes, after.sizes)  # keys keep their rows, vocabularies grew
        sides = [(key, second.config.feature(key).side) for key in now.spec.keys]
        same = ~np.isin(theirs, combine([second.key_codes[key][rows[side]] for key, side in sides], after.sizes))
        place = np.searchsorted(after.keys, theirs)
        assert np.array_equal(after.keys[place], theirs)
        for name in ("seen", "rows", "positives"):
            assert np.array_equal(getattr(after, name)[place[same]], getattr(now, name)[same]), name
        compared += int(same.sum())
        assert now.seen.sum() > then.seen.sum()
    assert compared > 50


def test_a_day_without_new_values_leaves_every_vocabulary_as_it_is(shop: Shop) -> None:
    events = shop.events
    one = build(shop, events, (260, 300))
    tail = events[events["timestamp"] >= 150].assign(timestamp=events["timestamp"] + 1000)
    names = set(one.encoders.vocabularies["item_id"].values)
    two = build(shop, tail[tail["item_id"].isin(names)], (1260, 1300), one)
    assert two.encoders.vocabularies == one.encoders.vocabularies
    assert two.encoders.keys == one.encoders.keys


def test_values_under_the_floor_are_counted_over_all_days(shop: Shop, log: pd.DataFrame) -> None:
    """An item met once a day has a row after the second day when two rows are asked for."""
    lone = log["timestamp"].isin([log["timestamp"].min()]) & ~log.duplicated("timestamp")
    early = log.assign(item_id=log["item_id"].where(~lone, "rare"))
    one = build(shop, early[early["timestamp"] < FIRST_DAY], (150, 175))
    assert "rare" not in one.encoders.vocabularies["item_id"].values
    day = early[early["timestamp"] >= FIRST_DAY].copy()
    day.loc[day.index[0], "item_id"] = "rare"
    two = build(shop, day, SECOND_CUT, one)
    assert two.encoders.vocabularies["item_id"].values.count("rare") == 1


def test_users_and_items_missing_from_the_new_tables_keep_what_was_known(
    shop: Shop, log: pd.DataFrame, first: Dataset
) -> None:
    some = shop.users[shop.users["user_id"].isin([f"u{u}" for u in range(0, 24, 2)])]
    few = shop.items[shop.items["item_id"].isin([f"i{i}" for i in range(0, 20, 2)])]
    day = log[log["timestamp"] >= FIRST_DAY]
    after = build(shop, day, SECOND_CUT, first, users=some, items=few)
    whole = build(shop, day, SECOND_CUT, first)
    for side, ids in (("users", after.user_ids), ("items", after.item_ids)):
        mine, theirs = getattr(after, side).whole(), getattr(whole, side).whole()
        there = {raw: row for row, raw in enumerate(getattr(whole, "user_ids" if side == "users" else "item_ids"))}
        at = torch.tensor([there[raw] for raw in ids])
        assert torch.equal(mine.categorical, theirs.categorical[at])
        assert torch.equal(mine.numeric.nan_to_num(-9.0), theirs.numeric[at].nan_to_num(-9.0))
        assert all(torch.equal(a, b[at]) for a, b in zip(mine.bags, theirs.bags, strict=True))
        assert all(torch.equal(a, b[at]) for a, b in zip(mine.vectors, theirs.vectors, strict=True))
    for name, attribute in after.attributes.items():
        other = whole.attributes[name]
        if isinstance(attribute, np.ndarray):
            known = np.array([raw in set(shop.items["item_id"]) for raw in after.item_ids])
            assert np.array_equal(
                attribute[known], other[[whole.item_rows[r] for r in np.array(after.item_ids)[known]]]
            )
        else:
            for row, raw in enumerate(after.item_ids):
                assert texts(attribute, row) == texts(other, whole.item_rows[raw]), (name, raw)


def texts(column: Any, row: int) -> list[str]:
    return [column.values[code] for code in column.codes[column.ptr[row] : column.ptr[row + 1]]]


def test_a_third_day_stands_on_the_second(shop: Shop, log: pd.DataFrame, second: Dataset, tmp_path: Any) -> None:
    """Through the files of a run, and with rows given again: the new tables are the truth from their first row on."""
    store.save_dataset(second, tmp_path)
    stored = store.load_dataset(tmp_path.joinpath)
    third = build(shop, log[log["timestamp"] >= 250], (325, 332), stored)
    events = third.events
    assert len(events) == len(log)
    assert (events.source_rows < 0).sum() == (log["timestamp"] < 250).sum()
    for name, vocabulary in second.encoders.vocabularies.items():
        assert third.encoders.vocabularies[name].values[: len(vocabulary.values)] == vocabulary.values
    assert np.array_equal(np.sort(events.times), np.sort(log["timestamp"]))


def test_a_table_that_forgets_what_happened_is_refused(shop: Shop, log: pd.DataFrame, first: Dataset) -> None:
    day = pd.concat([log.iloc[:1], log[log["timestamp"] >= FIRST_DAY]])
    with pytest.raises(DataError, match=r"the new rows begin at \d+, from where on the source run knows [\d,]+ rows"):
        build(shop, day, SECOND_CUT, first)


@pytest.mark.parametrize("kind", ["time", "leave_last", "random"])
def test_a_source_that_knows_the_answers_is_refused(shop: Shop, kind: str) -> None:
    source = build(shop, shop.events, (320, 330))
    tables = read_tables(shop.events, shop.users, shop.items)
    with pytest.raises(DataError, match="it knows answers"):
        build_dataset(tables, shop.config(kind), 1, source=source)


def test_a_source_that_knows_the_time_of_the_answers_is_refused(shop: Shop) -> None:
    """Under a split by time also of other people's rows: what everybody did that day is an answer of sorts."""
    source = build(shop, shop.events, (320, 330))
    others = shop.events.assign(user_id="other " + shop.events["user_id"])
    with pytest.raises(
        DataError, match=r"learned from rows up to \d+, and the valid part begins at 2\d\d: it knows answers"
    ):
        build(shop, others, (260, 300), source)
    assert len(build(shop, others, (320, 330), source).events) == len(others)


def test_the_same_rows_and_split_again_are_no_leak(shop: Shop) -> None:
    source = build(shop, shop.events, (260, 300))
    again = build(shop, shop.events, (260, 300), source)
    assert again.encoders.state() == source.encoders.state()
    assert np.array_equal(again.events.parts, source.events.parts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"counts": ()}, r'data.counts: "item_id" is only in the source run'),
        ({"tasks": [{"name": "click"}, {"name": "like"}]}, r'data.tasks: "like" has where = \'\', in the source run'),
        ({"time": ""}, r'the source run has data.time = "timestamp", the new one ""'),
    ],
)
def test_a_source_of_another_description_is_refused(
    shop: Shop, log: pd.DataFrame, first: Dataset, changes: dict[str, Any], sentence: str
) -> None:
    if "time" in changes:
        changes = {**changes, "split": {"kind": "random"}}
    with pytest.raises(RecsysError, match=sentence):
        build(shop, log[log["timestamp"] >= FIRST_DAY], SECOND_CUT, first, **changes)


def test_vectors_of_another_width_are_refused(shop: Shop, log: pd.DataFrame, first: Dataset) -> None:
    items = shop.items.assign(text="1|2|3|4")
    with pytest.raises(RunError, match='vectors "text" have 4 numbers, in the source run 3'):
        build(shop, log[log["timestamp"] >= FIRST_DAY], SECOND_CUT, first, items=items)


def test_without_times_nothing_is_carried_but_vocabularies_and_edges(shop: Shop) -> None:
    keys = {"time": "", "split": {"kind": "random"}}
    one = build(shop, shop.events, (0, 0), **keys)
    two = build(shop, shop.events.assign(tab="another"), (0, 0), one, **keys)
    assert len(two.events) == len(shop.events)
    assert two.encoders.vocabularies["tab"].values == (*one.encoders.vocabularies["tab"].values, "another")
    assert two.encoders.numerics["hour"].state() == one.encoders.numerics["hour"].state()


def test_what_users_did_before_the_log_is_counted_once(shop: Shop, first: Dataset, second: Dataset) -> None:
    for dataset in (first, second):
        history = dataset.sequences["clicked"]
        early = np.bincount(
            np.repeat(np.arange(history.num_users), np.diff(history.ptr))[history.rows < 0], minlength=24
        )
        assert early[:24].tolist() == [
            len(text.split()) for text in shop.users.set_index("user_id")["before"][list(dataset.user_ids[:24])]
        ]
        tower = dataset.history("click")
        assert len(tower.items) == len(history.items)
    assert {field.name for field in fields(first)} == {field.name for field in fields(second)}


def test_growing_an_old_vocabulary_is_what_is_stored(first: Dataset, second: Dataset) -> None:
    assert isinstance(second.encoders.keys["tab"], Vocabulary)
    before = first.encoders.keys["tab"].values
    assert second.encoders.keys["tab"].values[: len(before)] == before
