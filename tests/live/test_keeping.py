"""A run with a state: what it is told is kept, and is in the next answer, here and wherever the state is open."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError, RecsysError
from recsys.data.reading.exported import exported_log
from recsys.funnel.ladder import Rung
from recsys.live.log import MemoryLog, SqliteLog
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.rebuilt import Frames

USERS = ["u0", "u1", "u2", "traits", "nobody"]


def click(user: str, item: str, time: int = 345, **more: Any) -> dict[str, Any]:
    return {"user": user, "item": item, "time": time, "labels": {"click": 1}, "tab": "home", "hour": 3, **more}


@pytest.fixture
def rec(trained: recsys.Recommender) -> recsys.Recommender:
    """The shop with a state that ends with the process."""
    return recsys.Recommender(trained.trained).keep("memory")


def opened(trained: recsys.Recommender, state: Path) -> recsys.Recommender:
    return recsys.Recommender(trained.trained).keep(SqliteLog(state, "process"))


def test_what_is_told_to_one_is_in_the_next_answer_of_another(trained: recsys.Recommender, tmp_path: Path) -> None:
    writer, reader = (opened(trained, tmp_path) for _ in range(2))
    for place in nonempty(range(20)):
        user, item = f"u{place}", f"i{place % 20}"
        receipt = writer.add_events([click(user, item)])
        assert (receipt.accepted, receipt.duplicates) == (1, 0)
        answer = reader.ask({"user": user, "k": 12})
        assert (answer.position, answer.stale) == (receipt.position, False)
        assert item not in [one["item"] for one in answer.items]
        assert item not in set(reader.recommend(user, 12)["item"])
    again = opened(trained, tmp_path)
    users = [f"u{place}" for place in range(20)]
    pd.testing.assert_frame_equal(again.recommend(users, 5), writer.recommend(users, 5))
    assert again.position == writer.position


def test_a_state_is_opened_whose_last_rows_went_or_never_were(trained: recsys.Recommender, tmp_path: Path) -> None:
    """It once waited for them for ever, and with it a worker that was started again."""
    first = opened(trained, tmp_path)
    event = click("u0", "i5", id="once")
    first.add_events([event])
    first.add_events([event])
    assert opened(trained, tmp_path).position == first.position
    log = SqliteLog(tmp_path, "process")
    assert log.trim(log.last, received=float("inf")) == 1
    assert opened(trained, tmp_path).ask({"user": "u0", "k": 3}).items


def test_the_first_click_of_a_stranger_lifts_him_to_the_history_rung(rec: recsys.Recommender) -> None:
    assert rec.answer("nobody", 5).rungs == (Rung.POPULAR,)
    rec.add_events([click("nobody", "i3")])
    found = rec.answer("nobody", 5)
    assert (found.rungs, found.to_json()[0]["known"]) == ((Rung.HISTORY,), False)
    assert rec.score(["nobody"], ["i4"])["score"].notna().all()


def test_a_repeated_event_changes_nothing(rec: recsys.Recommender) -> None:
    event = click("u0", "i5", id="once")
    first = rec.add_events([event, click("u0", "i6")])
    before = rec.answer(["u0"], 5)
    again = rec.add_events([event, click("u0", "i6"), {**event, "item": "i9"}])
    assert (first.accepted, again.accepted, again.duplicates) == (2, 0, 3)
    assert np.array_equal(before.scores, rec.answer(["u0"], 5).scores)


@pytest.mark.parametrize(
    ("event", "kind", "sentence"),
    [
        (click("u0", "i1", labels={"click": 7}), DataError, r'row 2, column "click": found "7", expected 0 or 1'),
        (click("u0", "i1", labels={"clik": 1}), ConfigError, 'no label is called "clik"'),
        (click("u0", "i1", tabb="home"), ConfigError, 'no column "tabb" of events; did you mean "tab"'),
        (click("u0", "i1", hour="noon"), DataError, r'column "hour": found "noon", expected a number'),
        (click("u0", "i1") | {"time": "noon"}, DataError, "expected a whole number of seconds or an ISO date"),
        (click("u0", "i1", propensity=0.5), ConfigError, "the run's data has no propensity"),
        ({"user": "u0"}, ConfigError, "the key is missing"),
    ],
)
def test_an_event_that_is_wrong_is_refused_with_all_others(
    rec: recsys.Recommender, event: dict[str, Any], kind: type[RecsysError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        rec.add_events([click("u1", "i2"), event])
    assert rec.position == 0
    told = rec.add_events([click("u1", "i2"), event, click("u1", "i3")], skip=True)
    assert (told.accepted, [place for place, _ in told.refused]) == (2, [1])
    assert rec.position == 2


def test_a_time_that_is_none_is_quoted_at_its_own_event(rec: recsys.Recommender) -> None:
    timeless = {name: value for name, value in click("u0", "i1").items() if name != "time"}
    wrong = [
        timeless,
        {**timeless, "time": "noon"},
        timeless | {"item": "i2"},
        click("u1", "i2"),
        {**timeless, "time": "dawn"},
    ]
    with pytest.raises(DataError, match=r'row 2, column "timestamp": found "noon"'):
        rec.add_events(wrong)
    told = rec.add_events(wrong, skip=True)
    assert told.accepted == 3
    assert [(place, '"noon"' in said, '"dawn"' in said) for place, said in told.refused] == [
        (1, True, False),
        (4, False, True),
    ]


def test_a_time_that_lies_ahead_is_refused_and_an_event_without_one_is_now(rec: recsys.Recommender) -> None:
    event = click("u0", "i1")
    with pytest.raises(DataError, match="expected a time at most 5 minutes ahead of the clock"):
        rec.add_events([event | {"time": 4_000_000_000}])
    del event["time"]
    rec.add_events([event])
    (row,) = rec.log.read_after(0, 5)
    assert row.time == row.received == pytest.approx(time.time(), abs=60)


def test_a_user_who_is_forgotten_is_nobody(trained: recsys.Recommender, tmp_path: Path) -> None:
    rec = opened(trained, tmp_path)
    nobody = rec.ask({"user": "nobody"})
    rec.add_events([click("u0", "i3"), click("newcomer", "i3")])
    rec.forget_user("u0")
    rec.forget_user("newcomer")
    for shop in (rec, opened(trained, tmp_path)):
        for user in ("u0", "newcomer"):
            found = shop.ask({"user": user})
            assert (found.rung, found.known) == ("popular", False)
            assert [item["item"] for item in found.items] == [item["item"] for item in nobody.items]
    assert {row.kind for row in rec.log.read_after(0, 100)} == {"forget"}
    rec.add_events([click("u0", "i7")])
    assert rec.ask({"user": "u0"}).rung == "history"


def test_features_that_are_told_override_those_stored(rec: recsys.Recommender) -> None:
    traits = {"city": "B", "age": 60}
    wanted = rec.answer([recsys.Subject(user=user, features=traits) for user in USERS], 5)
    for user in USERS:
        rec.put_user(user, traits)
    found = rec.answer(USERS, 5)
    assert np.array_equal(found.rows, wanted.rows)
    assert np.array_equal(found.scores, wanted.scores, equal_nan=True)
    with pytest.raises(ConfigError, match='no column "town" of the users table'):
        rec.put_user("u0", {"town": "B"})
    with pytest.raises(DataError, match="expected a number"):
        rec.put_user("u0", {"age": "old"})


def test_a_deleted_item_is_in_no_list_until_it_is_put_back(rec: recsys.Recommender) -> None:
    before = rec.recommend(USERS, 6)
    gone = list(before["item"].unique()[:4])
    rec.delete_items([*gone, "never heard of"])
    rec.add_events([click("nobody", "i3")])
    after = rec.recommend([*USERS, "stranger"], 6)
    assert not set(gone) & set(after["item"])
    assert rec.ask({"user": "u0"}).eligible < recsys.Recommender(rec.trained).ask({"user": "u0"}).eligible
    rec.upsert_items([{"item": gone[0], "genre": "g1", "price": 3}, {"item": gone[1], "available": False}])
    found = set(rec.recommend([*USERS, "stranger"], 6)["item"])
    assert gone[0] in found
    assert not set(gone[1:]) & found
    with pytest.raises(ConfigError, match='no column "prize" of the items table'):
        rec.upsert_items([{"item": "i1", "prize": 3}])
    with pytest.raises(DataError, match="expected a number"):
        rec.upsert_items([{"item": "i1", "price": "cheap"}])


def test_without_a_state_nothing_can_be_told(trained: recsys.Recommender) -> None:
    with pytest.raises(ConfigError, match="give it a state"):
        trained.add_events([click("u0", "i1")])


def test_of_a_foreign_log_only_what_is_later_than_the_run_is_new(
    trained: recsys.Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    log = MemoryLog()
    recsys.Recommender(trained.trained).keep(log).add_events([click("u0", "i3", 338), click("u1", "i4", 341)])
    with caplog.at_level(logging.WARNING):
        rec = recsys.Recommender(trained.trained).keep(log)
        assert len(rec.funnel.dataset.live) == 1  # type: ignore[attr-defined]
    assert "was trained on no export of this log" in caplog.text
    known = replace(trained.trained, log={"log": log.log_id, "last": 1})
    assert len(recsys.Recommender(known).keep(log).funnel.dataset.live) == 1  # type: ignore[attr-defined]


def test_training_on_an_export_is_training_on_the_same_events(
    trained: recsys.Recommender, frames: Frames, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    rows = [
        {
            "user": str(rng.choice(["u0", "u1", "u2", "u3", "newcomer"])),
            "item": f"i{rng.integers(0, 22)}",
            "time": 345 + 4 * number,
            "tab": str(rng.choice(["home", "search"])),
            "hour": int(rng.integers(0, 24)),
            "stars": int(rng.integers(1, 6)),
            "click": int(rng.integers(0, 2)),
        }
        for number in range(40)
    ]
    state = opened(trained, tmp_path / "state")
    state.add_events(rows[::2])
    state.add_events(rows[1::2])
    token = state.tokens.sign("r", str(rows[0]["item"]), 1, None, 0, "", 600.0)
    shown = [{**rows[0], "time": time, "click": click, "token": token} for time, click in ((600, 0), (605, 1))]
    state.add_events(shown)
    found = state.export_state(tmp_path / "day.parquet")
    assert (found.rows["events"], found.last) == (41, state.position)
    assert exported_log(found.files["events"]) == {"log": state.log.log_id, "last": state.position}
    whole = pd.DataFrame([*rows[::2], *rows[1::2], {**shown[0], "click": 1}]).drop(columns="token")
    names = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    whole.rename(columns=names).assign(like="").to_csv(tmp_path / "day.csv", index=False)
    split = {"kind": "time", "valid_from": "460", "test_from": "480"}
    config = trained.config.model_copy(
        update={"data": trained.config.data.model_copy(update={"split": type(trained.config.data.split)(**split)})}
    )
    runs = [
        recsys.train(tmp_path / name, frames[1], frames[2], config=config, source=trained)
        for name in ("day.csv", "day.parquet")
    ]
    one, other = (run.answer([*USERS, "newcomer"], 5) for run in runs)
    assert np.array_equal(one.rows, other.rows)
    assert np.array_equal(one.scores, other.scores, equal_nan=True)
    for name, values in nonempty(runs[0].trained.retriever.model.state_dict().items()):  # type: ignore[union-attr]
        assert bool((values == runs[1].trained.retriever.model.state_dict()[name]).all())  # type: ignore[union-attr]
