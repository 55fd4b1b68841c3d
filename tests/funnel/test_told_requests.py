"""What a request says reaches derived features and the moment, and `score`, `rank` and `explain` as it does answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.cli.main import main
from recsys.configs.run import RunConfig
from recsys.data.dataset import NOW
from recsys.data.encoding.subjects import encode_subjects
from recsys.data.sequence_columns import GAP_BUCKETS
from recsys.data.subject import Subject
from recsys.data.vocabulary import UNKNOWN
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop
from recsys.tests.support.tiny import TinyRun

DERIVED = [
    {"name": "now", "kind": "hour"},
    {"name": "day", "kind": "weekday"},
    {"name": "away", "kind": "since"},
    {"name": "value", "kind": "ratio", "inputs": ["context.basket", "item.price"]},
    {"name": "sky", "kind": "cross", "inputs": ["user.city", "context.weather"], "hash_buckets": 50},
]
"""`basket` and `weather` are columns of the events that are no features themselves."""
MONDAY_EIGHT = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def events(shop: Shop) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    weather = rng.choice(["sun", "rain"], len(shop.events))
    return shop.events.assign(weather=weather, basket=rng.integers(1, 9, len(shop.events)))


@pytest.fixture(scope="module")
def rec(shop: Shop, events: pd.DataFrame) -> recsys.Recommender:
    tower = {"dim": 8, "event_features": ["request_gap"]}
    config = RunConfig.model_validate(
        {
            "name": "shop",
            "data": shop.config(derived=DERIVED).model_dump(),
            "retrieval": {"positive": "click", "num_candidates": 8, "fit": {"epochs": 1}, "tower": tower},
            "ranking": {"model": {"kind": "mmoe"}, "fit": {"epochs": 1}, "select": {"requests_per_step": 4}},
            "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
        }
    )
    return recsys.train(events, shop.items, shop.users, config=config)


def _told(shop: Shop, events: pd.DataFrame, user: str) -> Subject:
    """All that the tables know of a user, as a request says it."""
    mine = events[events["user_id"] == user].sort_values("timestamp", kind="stable")
    row = shop.users[shop.users["user_id"] == user].iloc[0]
    history = [
        {
            "item": event["item_id"],
            "time": event["timestamp"],
            "labels": {name: event[name] for name in ("click", "like")},
            **{name: event[name] for name in ("tab", "hour", "stars", "weather", "basket")},
        }
        for event in mine.to_dict("records")
    ]
    traits = {"city": row["city"], "age": row["age"]}
    return Subject(user=user, history=history, history_mode="replace", features=traits)


def _users(shop: Shop) -> list[str]:
    return [user for user, before in zip(shop.users["user_id"], shop.users["before"], strict=True) if not before][:5]


def test_who_is_told_is_scored_and_explained_like_who_is_stored(
    rec: recsys.Recommender, shop: Shop, events: pd.DataFrame
) -> None:
    items = ["i1", "i5", "nothing", "i9"]
    for user in nonempty(_users(shop)):
        told = _told(shop, events, user)
        stored, asked = rec.rank(user, items), rec.rank(told, items)
        assert asked["item"].tolist() == stored["item"].tolist()
        assert set(asked["user"]) == {user}
        values = [name for name in stored if name not in ("user", "item")]
        np.testing.assert_allclose(asked[values], stored[values], atol=1e-6)
        one, other = rec.explain(user, "i5"), rec.explain(told, "i5")
        assert one.keys() == other.keys()
        assert (one["rung"], one["rank"], one["user"]) == (other["rung"], other["rank"], other["user"])
        assert other["score"] == pytest.approx(one["score"], abs=1e-6)
        assert [item["item"] for item in one["because_of"]] == [item["item"] for item in other["because_of"]]


def test_subjects_and_stored_users_are_scored_beside_each_other(rec: recsys.Recommender, shop: Shop) -> None:
    somebody = Subject(features={"city": "A"}, history=["i1", "i2"])
    user = _users(shop)[0]
    mixed = rec.score([somebody, user, somebody], ["i3", "i3", "i4"])
    assert mixed["user"].isna().tolist() == [True, False, True]
    alone = rec.rank(somebody, ["i3", "i4"]).set_index("item")["score"]
    np.testing.assert_allclose(mixed["score"][[0, 2]], alone[["i3", "i4"]], atol=1e-6)
    assert mixed["score"][1] == pytest.approx(rec.score([user], ["i3"])["score"][0], abs=1e-6)
    assert rec.explain(somebody, "i3")["rung"] == "history"
    with pytest.raises(ConfigError, match="the run knows no user None"):
        rec.rank(Subject(), ["i1"])


def test_context_told_reaches_what_is_derived_from_columns_that_are_no_features(
    rec: recsys.Recommender, shop: Shop, events: pd.DataFrame
) -> None:
    """The cross and the ratio of a request are those of its own weather and basket."""
    data = rec.trained.dataset
    cities = dict(zip(shop.users["user_id"], shop.users["city"], strict=True))
    user = next(user for user in _users(shop) if cities[user] == "A")
    owners = np.array(data.user_ids)[data.events.users]
    weathers = events["weather"].to_numpy()[data.events.source_rows]
    rows = pd.DataFrame({"city": [cities[owner] for owner in owners], "weather": weathers})
    place = data.layout.query.categorical.index("sky")
    of_rows = np.asarray(data.row_query.codes(place - len(data.sides["user"].categorical)))
    items = np.arange(data.num_catalogue)[None, :]
    prices = next(one for one in data.derived if one.spec.name == "value").inputs[1][: data.num_catalogue]
    for weather, basket in (("rain", 3), ("sun", 8)):
        people = encode_subjects(data, [Subject(user=user, context={"weather": weather, "basket": basket})], "click")
        batch = people.candidates(np.array([0]), items, NOW)
        same = of_rows[((rows["city"] == "A") & (rows["weather"] == weather)).to_numpy()]
        assert set(same.tolist()) == {int(batch.query.categorical[0, place])}
        ratio = np.divide(basket, prices, out=np.full(len(prices), np.nan), where=prices != 0).astype(np.float32)
        found = batch.item.categorical[:, data.layout.item.categorical.index("value")]
        assert found.tolist() == data.encoders.numerics["value"].buckets(ratio).tolist()


def test_the_time_told_is_the_moment_of_the_request(rec: recsys.Recommender, shop: Shop) -> None:
    """Hour, weekday and the time since the last event are counted from it, and so is the towers' `request_gap`."""
    data, user, moment = rec.trained.dataset, _users(shop)[0], MONDAY_EIGHT.timestamp()
    people = encode_subjects(data, [Subject(user=user, context={"timestamp": MONDAY_EIGHT.isoformat()})], "click")
    query = people.candidates(np.array([0]), np.array([[0]]), NOW).query
    last = data.events.times[data.events.users == data.user_rows[user]].max()
    for name, value in (("now", 8.0), ("day", 0.0), ("away", moment - last)):
        expected = data.encoders.numerics[name].buckets(np.array([value], dtype=np.float32))
        assert query.categorical[0, data.layout.query.categorical.index(name)].item() == int(expected[0])
    history = people.history("click")
    gaps = rec.funnel.before(people).retriever.data.properties[:, 0]
    assert gaps.tolist() == (history.request_gap_buckets(GAP_BUCKETS, moment) + UNKNOWN).tolist()
    soon = encode_subjects(data, [Subject(user=user, context={"timestamp": last + 60})], "click")
    assert rec.funnel.before(soon).retriever.data.properties[-1, 0] < gaps[-1]


def test_a_time_that_is_none_is_refused(rec: recsys.Recommender) -> None:
    with pytest.raises(DataError, match="expected a whole number of seconds or an ISO date"):
        rec.recommend(Subject(user="u1", context={"timestamp": "noon"}), k=3)


@pytest.fixture(scope="module")
def asked(tiny_run: TinyRun) -> list[str]:
    return ["recommend", "--run", str(tiny_run.folder), "-k", "4"]


def test_a_history_with_times_on_the_command_line(
    tiny_run: TinyRun, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `@` and by file; the order is that of the times, and labels of a file count."""
    rec = recsys.load(tiny_run.folder)
    times = ["2024-05-02T10:00", "2024-05-01T09:30"]
    events = [{"item": item, "time": time} for item, time in zip(("5", "9"), times, strict=True)]
    (tmp_path / "h.json").write_text(json.dumps(events))
    (tmp_path / "h.csv").write_text(f"item,time,click\n5,{times[0]},\n9,{times[1]},\n")
    line = ",".join(f"{event['item']}@{event['time']}" for event in events)
    given = [["--history", line], *(["--history-file", str(tmp_path / name)] for name in ("h.json", "h.csv"))]
    for one in nonempty(given):
        assert main([*asked, "--json", *one]) == 0
        answer = json.loads(capsys.readouterr().out)
        expected = rec.recommend(history=events, k=4)
        assert [item["item"] for item in answer["items"]] == [str(item) for item in expected["item"]]
        scores = [item["score"] for item in answer["items"]]
        assert scores == pytest.approx(list(expected["score"]), abs=1e-6)
        assert scores != pytest.approx(list(rec.recommend(history=["5", "9"], k=4)["score"]), abs=1e-9)
    assert main([*asked, "--json", "--history", "a@b.example,5"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == {"history": ["a@b.example"]}
    assert main([*asked, "--history", "5", "--history-file", str(tmp_path / "h.json")]) == 2
    assert "both tell the history" in capsys.readouterr().err


def test_what_is_told_is_written_to_a_table_too(
    tiny_run: TinyRun, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answer.parquet"
    assert main([*asked, "--history", "5,9", "--out", str(file)]) == 0
    rec = recsys.load(tiny_run.folder)
    written, expected = pd.read_parquet(file), rec.recommend(history=["5", "9"], k=4)
    assert written["item"].astype(str).tolist() == expected["item"].astype(str).tolist()
    assert written["user"].isna().all()
    np.testing.assert_allclose(written["score"], expected["score"], atol=1e-6)
    people = [Subject(user="7"), Subject(history=["5", "9"]), Subject(user="7", history=["5"])]
    report = rec.write_lists(file, 4, users=people)
    whole = pd.read_parquet(file)
    assert (report.users, len(whole)) == (3, 12)
    np.testing.assert_allclose(whole["score"], rec.recommend(people, k=4)["score"], atol=1e-6)
