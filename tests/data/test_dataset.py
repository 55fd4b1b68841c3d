"""Batches: logged rows and unlogged candidates agree, hold what the tables say, and fit the layout."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.data.batch import Batch, Block, SideLayout
from recsys.data.build import build_dataset
from recsys.data.dataset import NOW, Dataset
from recsys.data.reading.readers import read_tables
from recsys.data.split import Part
from recsys.data.vocabulary import FIRST, UNKNOWN
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop


@pytest.fixture(scope="module")
def dataset(shop: Shop) -> Dataset:
    found: Dataset = shop.dataset("time")
    return found


def assert_fits(layout: SideLayout, block: Block, sizes: dict[str, int]) -> None:
    assert block.categorical.shape[1] == len(layout.categorical)
    assert block.numeric.shape[1] == len(layout.numeric)
    assert len(block.bags) == len(layout.bags)
    assert [v.shape[1] for v in block.vectors] == [width for _, width in layout.vectors]
    shapes = [(field.length, len(field.of) + len(field.properties)) for field in layout.sequences]
    assert [tuple(s.shape[1:]) for s in block.sequences] == shapes
    for column, name in enumerate(layout.categorical):
        assert 0 < block.categorical[:, column].min() <= block.categorical[:, column].max() < sizes[name], name
    for name, bag in zip(layout.bags, block.bags, strict=True):
        assert bag.max() < sizes[name]
    for field, elements in zip(layout.sequences, block.sequences, strict=True):
        for column, name in enumerate((*field.of, *field.properties)):
            assert elements[:, :, column].max() < sizes[name], name
    rows = {t.shape[0] for t in (block.categorical, block.numeric, *block.bags, *block.sequences, *block.vectors)}
    assert len(rows) == 1


@pytest.mark.parametrize("kind", ["time", "random"])
def test_batches_fit_the_layout(shop: Shop, kind: str) -> None:
    dataset = shop.dataset(kind)
    logged = dataset.batch(torch.arange(len(dataset.events)))
    asked = dataset.candidates(np.array([0, 5]), np.array([[0, 1, 2], [3, 4, 5]]), NOW)
    for batch in (logged, asked):
        assert_fits(dataset.layout.query, batch.query, dict(dataset.layout.sizes))
        assert_fits(dataset.layout.item, batch.item, dict(dataset.layout.sizes))


def test_a_batch_says_what_the_tables_say(shop: Shop, dataset: Dataset) -> None:
    rows = torch.arange(len(dataset.events))
    batch = dataset.batch(rows)
    log = shop.events.iloc[dataset.events.source_rows].reset_index(drop=True)
    items = log.join(shop.items.set_index("item_id"), on="item_id")
    users = log.join(shop.users.set_index("user_id"), on="user_id")
    layout, vocabularies = dataset.layout, dataset.encoders.vocabularies

    def shown(block: Block, side: SideLayout, name: str) -> list[str]:
        return vocabularies[name].names(block.categorical[:, side.categorical.index(name)].tolist())

    def wanted(column: pd.Series, name: str) -> list[str]:
        known = set(vocabularies[name].values)
        texts = ["" if pd.isna(value) else str(value) for value in column]
        return [text if text in known else "<unknown>" for text in texts]

    assert shown(batch.query, layout.query, "user_id") == wanted(log["user_id"], "user_id")
    assert shown(batch.query, layout.query, "city") == wanted(users["city"], "city")
    assert shown(batch.query, layout.query, "tab") == wanted(log["tab"], "tab")
    assert shown(batch.item, layout.item, "item_id") == wanted(log["item_id"], "item_id")
    assert shown(batch.item, layout.item, "genre") == wanted(items["genre"], "genre")
    age = batch.query.numeric[:, layout.query.numeric.index("age")].numpy()
    assert np.array_equal(np.isnan(age), users["age"].isna().to_numpy())
    price = batch.item.numeric[:, layout.item.numeric.index("price")].numpy()
    assert np.corrcoef(price, np.log1p(items["price"]))[0, 1] > 0.999
    for row in range(0, len(log), 11):
        tags = [t for t in items["tags"][row].split("|") if t][:3]
        assert [vocabularies["tags"].names([r])[0] for r in batch.item.bags[0][row].tolist() if r] == tags
        numbers = [float(x) for x in items["text"][row].split("|") if x] or [0.0] * 3
        assert batch.item.vectors[0][row].tolist() == pytest.approx(numbers)


def test_labels_exist_only_in_their_sample_space(shop: Shop, dataset: Dataset) -> None:
    batch = dataset.batch(torch.arange(len(dataset.events)))
    log = shop.events.iloc[dataset.events.source_rows]
    assert batch.labels[:, 0].tolist() == log["click"].tolist()
    assert batch.mask[:, 0].all()
    inside = (log["click"] == 1) & log["like"].notna()
    assert batch.mask[:, 1].tolist() == inside.tolist()
    assert batch.labels[:, 1].tolist() == log["like"].where(inside, 0.0).tolist()
    assert batch.weight.tolist() == [1.0] * len(log)


def test_graded_labels_scenes_and_weights(shop: Shop) -> None:
    tasks = [
        {"name": "love", "column": "stars", "at_least": 4},
        {"name": "feed_click", "column": "click", "scene": "tab=feed"},
        {"name": "seconds", "column": "hour", "kind": "regression"},
    ]
    features = [{"name": "user_id", "side": "user"}, {"name": "tab", "side": "context"}]
    dataset = shop.dataset("time", tasks=tasks, features=features, counts=(), weight="stars")
    log = shop.events.iloc[dataset.events.source_rows]
    batch = dataset.batch(torch.arange(len(log)))
    assert batch.labels[:, 0].tolist() == (log["stars"] >= 4).astype(float).tolist()
    assert batch.mask[:, 1].tolist() == (log["tab"] == "feed").tolist()
    assert batch.labels[:, 2].tolist() == log["hour"].tolist()
    assert batch.weight.tolist() == log["stars"].tolist()


def test_candidates_are_laid_out_request_by_request(dataset: Dataset) -> None:
    users, items = np.array([4, 2, 4]), np.array([[0, 1], [5, 3], [7, 7]])
    batch = dataset.candidates(users, items, Part.TEST)
    assert batch.owner is not None
    assert batch.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert (batch.query.rows, batch.item.rows, batch.rows) == (3, 6, 6)
    column = dataset.layout.item.categorical.index("item_id")
    assert torch.equal(batch.item.categorical[:, column], dataset.items.whole().categorical[items.ravel(), 0])
    single = dataset.candidates(users[1:2], items[1:2], Part.TEST)
    assert torch.equal(single.item.numeric, batch.item.numeric[2:4])
    assert torch.equal(single.query.categorical, batch.query.categorical[1:2])


@pytest.mark.parametrize("part", [Part.VALID, Part.TEST])
def test_a_logged_row_and_a_candidate_of_the_same_moment_agree(dataset: Dataset, part: Part) -> None:
    """A row of a part knows what was known when the part began, which is what a request at that moment knows."""
    events = dataset.events
    rows = np.flatnonzero((events.parts == part) & (events.items < dataset.num_catalogue))
    logged = dataset.batch(torch.from_numpy(rows))
    asked = dataset.candidates(events.users[rows], events.items[rows][:, None], part)
    for one, other in zip(_item_side(logged), _item_side(asked), strict=True):
        assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    for one, other in zip(logged.query.sequences, asked.query.sequences, strict=True):
        assert torch.equal(one, other)
    layout, sides = dataset.layout.query, dataset.sides
    of_context = {*sides["context"].categorical, *sides["query_counts"].categorical}
    columns = [i for i, name in enumerate(layout.categorical) if name not in of_context]
    assert columns
    assert torch.equal(logged.query.categorical[:, columns], asked.query.categorical[:, columns])
    numbers = [i for i, name in enumerate(layout.numeric) if name not in {*of_context, *sides["context"].numeric}]
    one, other = logged.query.numeric[:, numbers], asked.query.numeric[:, numbers]
    assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))


def _item_side(batch: Batch) -> list[torch.Tensor]:
    return [batch.item.categorical, batch.item.numeric, *batch.item.bags, *batch.item.vectors]


def test_the_context_of_a_request_is_the_users_latest(shop: Shop, dataset: Dataset) -> None:
    log = shop.events.iloc[dataset.events.source_rows].reset_index(drop=True)
    column = dataset.layout.query.categorical.index("tab")
    for moment, before in ((Part.VALID, shop.CUTS[0]), (NOW, 10**9)):
        users = np.arange(dataset.num_users)
        asked = dataset.candidates(users, np.zeros((len(users), 1), np.int64), moment)
        for user in nonempty(users):
            own = log[(log["user_id"] == dataset.user_ids[user]) & (log["timestamp"] < before)]
            assert dataset.encoders.vocabularies["tab"].names(asked.query.categorical[user, [column]].tolist()) == [
                own["tab"].iloc[-1]
            ]


def test_matches_count_the_history_that_shares_the_candidates_value(dataset: Dataset) -> None:
    users, items = np.arange(dataset.num_users), np.tile(np.arange(6), (dataset.num_users, 1))
    batch = dataset.candidates(users, items, NOW)
    found = batch.item.numeric[:, dataset.layout.item.numeric.index("recent.genre.matches")].view(len(users), -1)
    genre = dataset.layout.item.categorical.index("genre")
    recent = batch.query.sequences[0]
    for user in nonempty(users):
        for place, item in nonempty(enumerate(items[user])):
            own = int(dataset.items.whole().categorical[item, genre])
            count = sum(int(element) == own for element in recent[user, :, 1])
            assert float(found[user, place]) == pytest.approx(np.log1p(count))


def test_a_sequence_describes_its_events(dataset: Dataset) -> None:
    rows = dataset.rows("train")[50:60]
    batch = dataset.batch(rows)
    history, ends = dataset.sequences["recent"], dataset.sequence_ends["recent"]
    for place, row in nonempty(enumerate(rows.tolist())):
        begin = history.ptr[dataset.events.users[row]]
        known = list(range(max(begin, ends[row] - 4), ends[row]))
        elements = batch.query.sequences[0][place]
        assert elements[len(known) :].sum() == 0
        for element, event in zip(elements.tolist(), known, strict=False):
            item, source = history.items[event], history.rows[event]
            assert element[:2] == dataset.items.whole().categorical[item, :2].tolist()
            assert element[2] == history.gap_buckets(40)[event] + UNKNOWN
            assert element[3] == FIRST + dataset.events.labels[source, 0]
        length = batch.query.numeric[place, dataset.layout.query.numeric.index("recent.length")]
        assert float(length) == pytest.approx(np.log1p(ends[row] - begin))


def test_an_item_met_after_training_is_no_candidate_and_its_rows_still_work(shop: Shop) -> None:
    frame = shop.events.copy()
    frame.loc[frame.index[-3:], "item_id"] = "brand-new"
    dataset = shop.dataset("time", events=frame)
    assert dataset.num_catalogue == shop.ITEMS
    assert dataset.item_ids[shop.ITEMS :] == ("brand-new",)
    assert "brand-new" not in dataset.encoders.vocabularies["item_id"].values
    row = torch.tensor([int(np.flatnonzero(dataset.events.items == shop.ITEMS)[0])])
    batch = dataset.batch(row)
    assert batch.item.categorical[0, 0] == UNKNOWN
    assert (dataset.history("").items < dataset.num_catalogue).all()


def test_an_item_column_of_the_log_is_the_earliest_training_value(shop: Shop) -> None:
    features = [{"name": "item_id", "side": "item"}, {"name": "stars", "side": "item"}]
    frame = shop.events
    tables_less = shop.config("time", features=features, counts=(), tasks=[{"name": "click"}])
    dataset = build_dataset(read_tables(frame), tables_less, 0)
    train = frame[frame["timestamp"] < shop.CUTS[0]]
    first = train.groupby("item_id")["stars"].first()
    for item, stars in nonempty(first.items()):
        row = dataset.item_rows[str(item)]
        assert dataset.encoders.vocabularies["stars"].names([int(dataset.items.whole().categorical[row, 1])]) == [
            str(stars)
        ]


def test_titles_fall_back_to_the_ids(shop: Shop) -> None:
    assert shop.dataset("time").titles[:2] == ("i0", "i1")
    assert shop.dataset("time", title="genre").titles[:2] == tuple(shop.items["genre"][:2])
