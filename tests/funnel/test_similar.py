"""Items like an item: never itself, only allowed ones, in the order that the definition gives."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.cli.main import main
from recsys.configs.run import RunConfig
from recsys.funnel.similar import By
from recsys.retrieval.towers.ensemble import TowerEnsemble
from recsys.retrieval.towers.train import item_vectors
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def rec(tiny_run: TinyRun) -> recsys.Recommender:
    return recsys.load(tiny_run.folder)


def test_by_vector_is_the_order_of_cosines(rec: recsys.Recommender) -> None:
    retriever, data = rec.funnel.retriever, rec.trained.dataset
    vectors = retriever.item_vectors[:, : retriever.model.config.dim].astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = rec.similar(["5", "9"], k=79, by="vector")
    for place, seed in nonempty(enumerate(("5", "9"))):
        cosines = unit @ unit[data.item_rows[seed]]
        assert set(found.rows[place].tolist()) == set(range(80)) - {data.item_rows[seed]}
        np.testing.assert_allclose(found.scores[place], cosines[found.rows[place]], atol=1e-5)
        assert (np.diff(found.scores[place]) <= 0).all()


def test_together_is_who_took_both(rec: recsys.Recommender) -> None:
    """Shrunk cosine of the items' user sets, counted from the training clicks."""
    data = rec.trained.dataset
    events, settings = data.events, rec.funnel.retriever.companions["item_knn"].settings
    clicked = (events.labels[:, 0] > 0) & (events.parts == 0)
    users = [set(events.users[clicked & (events.items == row)].tolist()) for row in range(80)]
    seed = data.item_rows["5"]
    found = rec.similar("5", k=10, by="together")
    for row, score in nonempty(zip(found.rows[0], found.scores[0], strict=True)):
        both = len(users[seed] & users[row])
        expected = both / (np.sqrt(len(users[seed]) * len(users[row])) + settings.shrinkage)
        assert row != seed
        assert score == pytest.approx(expected, abs=1e-5)


def test_mixed_says_who_named_what(rec: recsys.Recommender) -> None:
    frame = rec.similar_items(["5", "9"], k=6)
    lists = {name: rec.similar(["5", "9"], k=79, by=by) for name, by in _BY.items()}
    assert list(frame.columns) == ["item", "rank", "similar", "score", "source"]
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5, 6] * 2
    rows = rec.trained.dataset.item_rows
    for line in nonempty(frame.itertuples()):
        seed = ["5", "9"].index(str(line.item))
        ranks = {name: np.flatnonzero(one.rows[seed] == rows[str(line.similar)]) for name, one in lists.items()}
        named = {name: int(rank[0]) + 1 for name, rank in ranks.items() if len(rank)}
        assert set(str(line.source).split("+")) == set(named)
        assert line.score == pytest.approx(sum(1 / (60 + rank) for rank in named.values()))


_BY: dict[str, Literal["vector", "together"]] = {"two_tower": "vector", "item_knn": "together"}


def test_a_condition_holds_for_every_similar_item(rec: recsys.Recommender) -> None:
    column = rec.trained.dataset.item_columns["category"]
    wanted = rec.funnel.select(f'category = "{column.values[0]}"')
    assert wanted is not None
    found = rec.similar(["5"], k=79, where=f'category = "{column.values[0]}"')
    assert set(found.rows[found.rows >= 0].tolist()) == set(wanted.rows.tolist()) - {rec.trained.dataset.item_rows["5"]}


@pytest.mark.parametrize(
    ("items", "k", "sentence"),
    [
        ([], 3, "no item was named"),
        (["zzz"], 3, "catalogue has no item 'zzz'"),
        (["5"], 80, "give 1 to 79"),
    ],
)
def test_what_cannot_be_asked(rec: recsys.Recommender, items: list[str], k: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        rec.similar_items(items, k)


def test_the_command_line(tiny_run: TinyRun, rec: recsys.Recommender, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["similar", "--run", str(tiny_run.folder), "--item", "5", "-k", "3"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rec.similar(["5"], 3).to_json()[0]
    assert main([*asked, "--by", "vector"]) == 0
    assert "two_tower" in capsys.readouterr().out


@pytest.fixture(scope="module")
def by_content(shop: Shop) -> recsys.Recommender:
    """A run whose item tower reads features and not the id, of every kind."""
    tower = {"dim": 8, "item_features": ["genre", "tags", "price", "text"], "item_hidden": [6]}
    return recsys.train(
        shop.events,
        shop.items,
        shop.users,
        config=RunConfig.model_validate(
            {
                "name": "shop",
                "data": shop.config(features=_filled(shop)).model_dump(),
                "retrieval": {"positive": "click", "num_candidates": 8, "fit": {"epochs": 1}, "tower": tower},
                "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
            }
        ),
        stage="retrieval",
    )


def _filled(shop: Shop) -> list[dict[str, object]]:
    """The shop's features, a missing price counting as 7."""
    features = [spec.model_dump() for spec in shop.config().features]
    return [{**spec, "fill": 7.0} if spec["name"] == "price" else spec for spec in features]


def _rows(shop: Shop) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in shop.items.to_dict("records")]


@pytest.mark.parametrize("by", ["vector", "attributes", "mixed"])
def test_an_item_by_its_features_is_answered_like_the_stored_one(
    by_content: recsys.Recommender, shop: Shop, by: By
) -> None:
    """Told with its id it leaves itself out, as the stored one does."""
    data = by_content.trained.dataset
    ids = [str(item) for item in shop.items["item_id"] if data.item_rows[str(item)] < data.num_catalogue]
    rows = [row for row in _rows(shop) if row["item_id"] in ids]
    told = by_content.similar(features=rows, k=5, by=by)
    lists = [by_content.similar(ids, k=data.num_catalogue - 1, by=one) for one in _parts(by)]
    if by != "mixed":
        assert np.array_equal(told.rows, lists[0].rows[:, :5])
        np.testing.assert_allclose(told.scores, lists[0].scores[:, :5], atol=1e-6)
        assert told.sources == lists[0].sources
        return
    for place, row in nonempty(np.ndenumerate(told.rows)):
        ranks = [np.flatnonzero(one.rows[place[0]] == row) for one in lists]
        assert told.scores[place] == pytest.approx(sum(1 / (61 + rank[0]) for rank in ranks if len(rank)), abs=1e-9)
    assert told.sources == ("two_tower", "attributes")


def _parts(by: By) -> list[By]:
    return ["vector", "attributes"] if by == "mixed" else [by]


def test_attributes_in_common_count_by_their_rarity(by_content: recsys.Recommender, shop: Shop) -> None:
    """tf-idf of genre, tags and the buckets of the price, in a plain loop."""
    data = by_content.trained.dataset
    prices = data.items.codes(data.sides["item"].categorical.index("price"))
    buckets = dict(zip(data.item_ids, prices.tolist(), strict=True))
    values = {
        str(row["item_id"]): {("genre", row["genre"]), ("price", buckets[str(row["item_id"])])}
        | {("tag", tag) for tag in str(row["tags"]).split("|") if tag}
        for row in _rows(shop)
    }
    ids = data.item_ids[: data.num_catalogue]
    holders = Counter(value for item in ids for value in values[item])
    weight = {value: np.log1p(len(ids) / count) for value, count in holders.items()}
    length = {item: np.sqrt(sum(weight[value] ** 2 for value in values[item])) for item in ids}
    found = by_content.similar(["i5"], k=6, by="attributes")
    for row, score in nonempty(zip(found.rows[0], found.scores[0], strict=True)):
        other = ids[row]
        common = sum(weight[value] ** 2 for value in values["i5"] & values[other])
        assert score == pytest.approx(common / (length["i5"] * length[other]), abs=1e-5)


def test_what_a_new_item_lacks_is_missing_and_what_nobody_learned_is_told(by_content: recsys.Recommender) -> None:
    some = by_content.similar(features={"genre": "g1", "tags": ["a", "b"], "item_id": "new"}, k=3)
    filled = by_content.similar(features=[{"genre": "g1", "tags": "a|b", "price": 7}], k=3)
    assert np.array_equal(some.rows, filled.rows)
    (answer,) = some.to_json()
    assert (answer["item"], answer["title"], "unknown" in answer) == ("new", "new", False)
    (strange,) = by_content.similar(features={"genre": "g9"}, k=3).to_json()
    assert (strange["item"], strange["title"], strange["unknown"]) == (None, "the given item", ["genre=g9"])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"features": {"gnre": "g1"}}, 'no column "gnre" of the items table; did you mean "genre"'),
        ({"features": {"genre": "g1"}, "by": "together"}, "nobody took an item that is given by its features"),
        ({"features": []}, "no item was given"),
        ({"features": {"genre": "g1"}, "items": ["i1"]}, "give either items= or features="),
        ({"features": {"genre": "g1"}, "by": "taste"}, "is no similarity"),
    ],
)
def test_what_cannot_be_asked_of_new_items(
    by_content: recsys.Recommender, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        by_content.similar_items(k=3, **asked)
    with pytest.raises(DataError, match='column "price": found "dear", expected a number'):
        by_content.similar_items(features={"price": "dear"}, k=3)


def test_new_items_on_the_command_line(
    tiny_run: TinyRun, rec: recsys.Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    category = rec.trained.dataset.item_columns["category"].values[0]
    expected = rec.similar(features={"category": category}, k=3).to_json()
    asked = ["similar", "--run", str(tiny_run.folder), "-k", "3", "--json"]
    files = {"one.json": json.dumps({"category": category}), "rows.csv": f"category\n{category}\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for given in (["--feature", f"category={category}"], *(["--item-features", str(tmp_path / n)] for n in files)):
        assert main([*asked, *given]) == 0
        assert json.loads(capsys.readouterr().out) == expected[0]
    assert main([*asked, "--item", "5", "--feature", "category=x"]) == 2
    assert "say which item" in capsys.readouterr().err


def test_cosines_of_an_ensemble_are_the_mean_of_its_members(by_content: recsys.Recommender) -> None:
    """Two members, the second of another scale and order: the first alone would decide otherwise."""
    one = by_content.funnel.retriever.model
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.table.weight.copy_(other.table.weight.flip(0) * 9)
    data = by_content.funnel.retriever.data
    whole = TowerEnsemble([one, other])
    unit = whole.directions(item_vectors(whole, data))
    members = [model.directions(item_vectors(model, data)) for model in (one, other)]
    np.testing.assert_allclose(unit @ unit.T, sum(m @ m.T for m in members) / 2, atol=1e-6)
    assert not np.allclose(members[0] @ members[0].T, members[1] @ members[1].T, atol=0.1)
