"""Items like an item: never itself, only allowed ones, in the order that the definition gives."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pytest

import recsys
from recsys.base.errors import ConfigError
from recsys.cli.main import main
from recsys.tests.support.nonempty import nonempty
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
