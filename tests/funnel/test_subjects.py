"""Requests that bring their own knowledge get the answer that the same user gets who is stored in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.cli.main import main
from recsys.configs.run import RunConfig
from recsys.data.encoding.subjects import SubjectDataset, encode_subjects
from recsys.data.subject import Subject
from recsys.funnel.ladder import Rung
from recsys.funnel.recommendations import Recommendations
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun

SMALL = {
    "name": "shop",
    "seed": 3,
    "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
    "runtime": {"threads": 1},
}
DERIVED = [
    {"name": "now", "kind": "hour"},
    {"name": "away", "kind": "since"},
    {"name": "means", "kind": "ratio", "inputs": ["user.age", "item.price"]},
    {"name": "place", "kind": "cross", "inputs": ["user.city", "context.tab"], "hash_buckets": 50},
]
EVENTS = ["gap", "request_gap", "stars", "tab"]
VARIANTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mmoe, averaged history": ("time", "mmoe", {"history": {"encoder": "decayed_mean"}, "event_features": EVENTS}, {}),
    "dupn, dupn history": ("leave_last", "dupn", {"history": {"encoder": "dupn"}, "event_features": EVENTS}, {}),
    "ple, transformer, merged": (
        "time",
        "ple",
        {"history": {"encoder": "transformer"}},
        {"positive": "", "proposers": ["two_tower", "item_knn", "segment_popularity"]},
    ),
    "shared bottom, lstm, no user tower": (
        "time",
        "shared_bottom",
        {"history": {"encoder": "lstm"}, "user_features": []},
        {"proposers": ["item_knn"]},
    ),
}


@pytest.fixture(scope="module", params=VARIANTS)
def rec(request: pytest.FixtureRequest, shop: Shop) -> recsys.Recommender:
    """The shop, trained a little, with newcomers: traits and no events, events and no clicks, neither of them."""
    split, ranker, tower, retrieval = VARIANTS[request.param]
    section = {"positive": "click", "num_candidates": 8, "fit": {"epochs": 1}, "tower": {"dim": 8, **tower}}
    config = RunConfig.model_validate(
        {
            **SMALL,
            "data": shop.config(split, derived=DERIVED).model_dump(),
            "retrieval": {**section, **retrieval},
            "ranking": {"model": {"kind": ranker}, "fit": {"epochs": 1}, "select": {"requests_per_step": 4}},
        }
    )
    return recsys.train(*_tables(shop), config=config)


def _tables(shop: Shop) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    traits = pd.DataFrame({"user_id": ["traits", "blank"], "city": ["A", None], "age": [33.0, np.nan]})
    looks = shop.events.iloc[[3, 5, 8]].assign(user_id="looker", click=0, like=np.nan)
    users = pd.concat([shop.users, traits], ignore_index=True)
    return pd.concat([looks, shop.events], ignore_index=True), shop.items, users


def _told(shop: Shop, user: str, **changes: Any) -> Subject:
    """A user with all that the tables know of them, as a request says it."""
    events, _, users = _tables(shop)
    mine = events[events["user_id"] == user].sort_values("timestamp", kind="stable")
    row = users[users["user_id"] == user]
    features = row.drop(columns=["user_id", "before"]).iloc[0].to_dict() if len(row) else {}
    told = mine.drop(columns=["user_id", "part"]).rename(columns={"item_id": "item", "timestamp": "time"})
    history = [_event(event) for event in told.to_dict("records")]
    return Subject(**{"user": user, "history": history, "history_mode": "replace", "features": features, **changes})


def _event(row: Mapping[Any, Any]) -> dict[str, Any]:
    labels = {name: row[name] for name in ("click", "like")}
    return {**{name: value for name, value in row.items() if name not in labels}, "labels": labels}


def _same(stored: Recommendations, told: Recommendations) -> None:
    assert stored.rungs == told.rungs
    assert np.array_equal(stored.eligible, told.eligible)
    assert np.array_equal(stored.rows, told.rows)
    assert np.array_equal(stored.proposed, told.proposed)
    assert np.array_equal(stored.user_rows, told.user_rows)
    np.testing.assert_allclose(told.scores, stored.scores, atol=1e-6, rtol=0)
    for name, values in nonempty(stored.tasks.items()):
        np.testing.assert_allclose(told.tasks[name], values, atol=1e-6, rtol=0)


def _untold(shop: Shop) -> list[str]:
    """Users of whom the users table lists no items from before the log, which no request can tell."""
    return [user for user, before in zip(shop.users["user_id"], shop.users["before"], strict=True) if not before]


def test_who_is_told_is_answered_like_who_is_stored(rec: recsys.Recommender, shop: Shop) -> None:
    users = [*_untold(shop), "traits", "blank", "looker"]
    stored = rec.funnel.recommend(users, k=5)
    assert {Rung.HISTORY, Rung.POPULAR} < set(stored.rungs)
    _same(stored, rec.funnel.recommend([_told(shop, user) for user in users], k=5))


def test_what_is_told_on_top_of_what_is_stored(rec: recsys.Recommender, shop: Shop) -> None:
    """What is stored of a user holds where the request says nothing, and events told come behind those stored."""
    users = list(shop.users["user_id"])
    stored = rec.funnel.recommend(users, k=5, explain=True)
    told = rec.funnel.recommend(
        [Subject(user=user, features=_told(shop, user).features) for user in users], k=5, explain=True
    )
    _same(stored, told)
    assert stored.reasons == told.reasons


def test_who_is_asked_about_changes_nobody_elses_answer(rec: recsys.Recommender, shop: Shop) -> None:
    users = [*_untold(shop)[:3], "traits"]
    mixed = [users[0], _told(shop, users[1]), Subject(history=["i1", "i2"]), _told(shop, users[2]), users[3]]
    together = rec.funnel.recommend(mixed, k=4)
    for place, one in nonempty(enumerate(mixed)):
        alone = rec.funnel.recommend([one], k=4)
        assert np.array_equal(alone.rows[0], together.rows[place])
        np.testing.assert_allclose(alone.scores[0], together.scores[place], atol=1e-6)


def test_events_told_come_behind_those_stored(rec: recsys.Recommender, shop: Shop) -> None:
    news = [
        {"item": "i3", "time": 900, "labels": {"click": 1, "like": 1}, "tab": "feed", "hour": 5, "stars": 5},
        {"item": "i7", "time": 950, "labels": {"click": 0}, "tab": "search", "hour": 6, "stars": 1},
    ]
    users = _untold(shop)[:6]
    whole = [_told(shop, user) for user in users]
    whole = [Subject(**{**vars(one), "history": [*one.history, *news]}) for one in whole]
    added = rec.funnel.recommend([Subject(user=user, history=news) for user in users], k=5)
    _same(rec.funnel.recommend(whole, k=5), added)
    assert not np.array_equal(added.scores, rec.funnel.recommend(users, k=5).scores)
    assert "i3" not in {rec.funnel.dataset.item_ids[row] for row in added.rows.flat if row >= 0}


def test_somebody_anonymous_is_answered_like_a_stored_newcomer(rec: recsys.Recommender) -> None:
    told = rec.funnel.recommend([Subject(features={"city": "A", "age": 33})], k=5)
    stored = rec.funnel.recommend(["traits"], k=5)
    assert told.rungs == stored.rungs
    assert np.array_equal(told.rows, stored.rows)
    np.testing.assert_allclose(told.scores, stored.scores, atol=1e-6)
    (answer,) = told.to_json()
    assert (answer["user"], answer["known"]) == (None, False)


def test_the_context_told_is_that_of_the_request(rec: recsys.Recommender, shop: Shop) -> None:
    user = _untold(shop)[0]
    now = {"tab": "search", "hour": 3.0}
    told = _told(shop, user)
    last = {**told.history[-1], **now}
    as_if = Subject(**{**vars(told), "history": [*told.history[:-1], last]})
    asked = rec.funnel.recommend([Subject(user=user, context=now)], k=5)
    data = rec.funnel.dataset
    people = rec.funnel.before(_encoded(rec, as_if)).dataset
    mine = rec.funnel.before(_encoded(rec, Subject(user=user, context=now))).dataset
    rows, everything = np.array([0]), np.arange(data.num_catalogue)[None, :]
    one, other = (found.candidates(rows, everything, 3) for found in (people, mine))
    assert bool((one.query.categorical == other.query.categorical).all())
    assert np.array_equal(one.item.numeric.numpy(), other.item.numeric.numpy(), equal_nan=True)
    assert not np.array_equal(asked.scores, rec.funnel.recommend([user], k=5).scores)


def _encoded(rec: recsys.Recommender, subject: Subject) -> SubjectDataset:
    return encode_subjects(rec.funnel.dataset, [subject], "click")


def test_an_event_without_labels_is_a_positive_one(rec: recsys.Recommender) -> None:
    bare = rec.funnel.recommend([Subject(history=["i1", 4, "i2"])], k=5)
    said = [
        {"item": "i1", "labels": {"click": 1}},
        {"item": "i4", "click": 1},
        {"item_id": "i2", "labels": {"click": 1}},
    ]
    labelled = rec.funnel.recommend([Subject(history=said)], k=5)
    assert bare.rungs == (Rung.HISTORY,)
    assert bare.to_json()[0]["unknown"] == {"history": ["4"]}
    known = rec.funnel.recommend([Subject(history=["i1", "i4", "i2"])], k=5)
    assert np.array_equal(known.rows, labelled.rows)
    np.testing.assert_allclose(known.scores, labelled.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("subject", "kind", "sentence"),
    [
        ({"features": {"citty": "A"}}, ConfigError, 'no column "citty" of the users table; did you mean "city"'),
        ({"features": {"age": "old"}}, DataError, 'column "age": found "old", expected a number; mend the value'),
        ({"context": {"stars": 3}}, ConfigError, 'no column "stars" of the events table'),
        ({"history": [{"time": 3}]}, ConfigError, "names no item"),
        ({"history": [{"item": "i1", "labels": {"clik": 1}}]}, ConfigError, 'no label is called "clik"'),
        ({"history": [{"item": "i1", "labels": {"click": 7}}]}, DataError, "expected 0 or 1"),
        ({"history": [{"item": "i1", "time": "noon"}]}, DataError, "expected a whole number of seconds or an ISO date"),
    ],
)
def test_what_no_request_may_say(
    rec: recsys.Recommender, subject: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence) as raised:
        rec.funnel.recommend([Subject(**subject)], k=3)
    assert "on_bad_rows" not in str(raised.value)


def test_a_history_that_is_no_list() -> None:
    with pytest.raises(ConfigError, match="give a list of item ids"):
        Subject(history="i1,i2")


def test_the_command_line_tells_what_python_tells(
    tiny_run: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traits = tmp_path / "traits.json"
    traits.write_text('{"age": 33, "gender": "f"}')
    asked = ["recommend", "--run", str(tiny_run.folder), "-k", "4", "--json"]
    told = ["--history", "5, 9,zzz", "--user-features", str(traits), "--context", "position=2"]
    rec = recsys.load(tiny_run.folder)
    for user in ([], ["--user", "7"]):
        assert main([*asked, *told, *user]) == 0
        answer = json.loads(capsys.readouterr().out)
        knowledge = {"user_features": {"age": 33, "gender": "f"}, "context": {"position": 2}}
        frame = rec.recommend(user[1:] or None, 4, history=["5", 9, "zzz"], **knowledge)
        assert [item["item"] for item in answer["items"]] == [str(item) for item in frame["item"]]
        assert [item["score"] for item in answer["items"]] == pytest.approx(list(frame["score"]), abs=1e-6)
        assert (answer["known"], answer["unknown"]) == (bool(user), {"history": ["zzz"]})
    assert main([*asked[:-1], "--history", "5,zzz"]) == 0
    shown = capsys.readouterr().out
    assert "For somebody anonymous" in shown
    assert "the run does not know history: zzz" in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--history", "5", "--user", "1", "--user", "2"], "--history is of one user and 2 are named"),
        (["--context", "phone"], "is no pair; expected KEY=VALUE"),
        (["--user-features", "none.json"], "there is no file none.json"),
        (["--context", "weather=rain"], 'no column "weather" of the events table'),
    ],
)
def test_wrong_options(
    tiny_run: TinyRun, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "--run", str(tiny_run.folder), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_table_of_events_is_a_history(tiny_run: TinyRun) -> None:
    rec = recsys.load(tiny_run.folder)
    table = pd.DataFrame({"item": ["5", "9"], "time": [1_700_000_000, 1_700_000_100], "click": [1, 0]})
    by_table = rec.recommend(history=table)
    by_list = rec.recommend(recsys.Subject(history=table.to_dict("records")))
    assert list(by_table["item"]) == list(by_list["item"])
    with pytest.raises(ConfigError, match="history= is of one user and 2 are named"):
        rec.recommend(["1", "2"], history=["5"])
    with pytest.raises(ConfigError, match="say it in the Subject"):
        rec.recommend(recsys.Subject(user="1"), history=["5"])
