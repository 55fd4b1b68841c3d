"""What counts as seen is the same in the requests that are trained on, in the evaluation, the baselines and answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys
from recsys.base.errors import ConfigError, DataError
from recsys.configs.run import RunConfig
from recsys.data.dataset import NOW
from recsys.data.split import Part
from recsys.data.subject import Subject
from recsys.funnel.ladder import Rung
from recsys.pipeline.requests import select_requests
from recsys.retrieval.seen import DAY, SeenConfig
from recsys.retrieval.towers.train import requests
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.shop import Shop

POLICIES: dict[str, Any] = {
    "taken": "taken",
    "shown": "shown",
    "none": "none",
    "window": {"policy": "taken", "window_days": 60 / DAY},
    "tasks": {"tasks": ["like"]},
}


def _config(shop: Shop, seen: Any, **data: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "shop",
            "data": shop.config("time", **data).model_dump(),
            "retrieval": {
                "positive": "click",
                "seen": seen,
                "num_candidates": 12,
                "proposers": ["two_tower", "item_knn"],
                "fit": {"epochs": 1},
                "tower": {"dim": 8},
            },
            "ranking": {"model": {"kind": "shared_bottom"}, "fit": {"epochs": 1}},
            "evaluation": {"ks": [3], "list_k": 3, "draws": 10},
            "runtime": {"threads": 1},
        }
    )


@pytest.fixture(scope="module", params=POLICIES)
def trained(request: pytest.FixtureRequest, shop: Shop) -> tuple[str, recsys.Recommender]:
    """The shop under a policy, with one user more, who was shown things and took none of them."""
    looks = shop.events.iloc[[3, 5, 8]].assign(user_id="looker", click=0, like=np.nan)
    events = pd.concat([looks, shop.events], ignore_index=True)
    rec = recsys.train(events, shop.items, shop.users, config=_config(shop, POLICIES[request.param]))
    return request.param, rec


def _had(policy: str, rec: recsys.Recommender, moment: int) -> list[set[int]]:
    """Seen item rows of every user, counted event by event from the log."""
    data = rec.trained.dataset
    events, clicked = data.events, data.history("click")
    found: list[set[int]] = [set() for _ in data.user_ids]
    if policy == "none":
        return found
    newest = events.times[events.parts < moment].max()
    columns = {"shown": None, "tasks": 1}.get(policy, 0)
    for row in range(len(events)):
        taken = columns is None or (events.labels[row, columns] > 0 and events.mask[row, columns])
        recent = policy != "window" or events.times[row] >= newest - 60
        if events.parts[row] < moment and 0 <= events.items[row] < data.num_catalogue and taken and recent:
            found[events.users[row]].add(int(events.items[row]))
    listed = clicked.rows < 0  # from before the log: positive, and older than any window
    if policy == "taken":
        owner = np.repeat(np.arange(clicked.num_users), np.diff(clicked.ptr))
        for user, item in zip(owner[listed], clicked.items[listed], strict=True):
            found[user].add(int(item))
    return found


def test_answers_leave_out_what_is_seen_and_nothing_else(trained: tuple[str, recsys.Recommender]) -> None:
    policy, rec = trained
    data = rec.trained.dataset
    had = _had(policy, rec, NOW)
    answers = rec.funnel.recommend(list(data.user_ids), k=data.num_catalogue)
    everything = set(range(data.num_catalogue))
    assert Rung.POPULAR in answers.rungs or policy != "shown"
    for user, rows in nonempty(enumerate(answers.rows)):
        named = {int(row) for row in rows if row >= 0}
        assert named == everything - had[user]
        assert answers.eligible[user] == len(everything - had[user])


def test_evaluation_and_training_requests_leave_out_the_same(trained: tuple[str, recsys.Recommender]) -> None:
    policy, rec = trained
    retriever = rec.trained.retriever
    assert retriever is not None
    clicked = retriever.data.history
    for part in (Part.VALID, Part.TEST):
        had = _had(policy, rec, int(part))
        users, seen, truth = requests(retriever.data, part)
        for place, user in nonempty(enumerate(users)):
            mine = slice(clicked.ptr[user], clicked.ptr[user + 1])
            later = {int(item) for item in clicked.items[mine][clicked.parts[mine] == part]}
            own = slice(truth.ptr[place], truth.ptr[place + 1])
            assert set(truth.items[own].tolist()) == later - had[user]
            assert set(seen.items[seen.ptr[place] : seen.ptr[place + 1]].tolist()) == had[user]
        for name in ("two_tower", "item_knn", "ease"):
            histories, queries = retriever.histories(users, int(part)), retriever.queries(users, int(part))
            lists = retriever.propose(name, queries, histories, retriever.data.num_items, complete=True)
            for place, user in nonempty(enumerate(users)):
                assert set(lists[place][lists[place] >= 0].tolist()) == set(range(20)) - had[user]
    had = _had(policy, rec, int(Part.VALID))
    asked = select_requests(rec.trained.dataset, retriever, rec.config)
    for user, rows in nonempty(zip(asked.users, asked.rows, strict=True)):
        assert had[user].isdisjoint(rows.tolist())


def test_the_report_says_what_was_left_out(trained: tuple[str, recsys.Recommender]) -> None:
    policy, rec = trained
    protocol = rec.evaluate("retrieval")["protocol"]
    words = {
        "taken": "items the user has taken (positive events); items that were only shown return",
        "shown": "items of any event of the user",
        "none": "nothing: items the user has had may return, and repeats are to be found",
        "tasks": "items of the user's events with label 1 in like; others return",
    }
    assert protocol["filter_seen"] is (policy != "none")
    assert policy == "window" or protocol["seen"] == words[policy]
    assert policy != "window" or protocol["seen"].endswith("days they return")


def test_who_is_told_has_seen_the_same(trained: tuple[str, recsys.Recommender]) -> None:
    policy, rec = trained
    told = rec.funnel.recommend([Subject(history=["i1", {"item": "i2", "labels": {"click": 0}}])], k=20)
    named = {rec.funnel.dataset.item_ids[row] for row in told.rows[0] if row >= 0}
    assert ("i1" in named) is (policy in ("none", "tasks"))
    assert ("i2" in named) is (policy != "shown")


def test_a_run_that_was_saved_keeps_its_policy(shop: Shop, tmp_path: Any) -> None:
    rec = recsys.train(shop.events, shop.items, shop.users, config=_config(shop, "shown"))
    rec.save(tmp_path / "run")
    loaded = recsys.load(tmp_path / "run")
    assert loaded.config.retrieval.seen == SeenConfig(policy="shown")
    assert np.array_equal(loaded.funnel.recommend(["u1"], 5).rows, rec.funnel.recommend(["u1"], 5).rows)


def test_repeats_alone_are_nothing_to_learn_unless_they_may_return(shop: Shop) -> None:
    first = shop.events.drop_duplicates(["user_id", "item_id"]).assign(click=1, like=0, part="train", timestamp=1)
    again = [first.assign(part=part, timestamp=time) for part, time in (("valid", 270), ("test", 310))]
    events = pd.concat([first, *again], ignore_index=True)
    with pytest.raises(DataError, match="to let them return"):
        recsys.train(events, shop.items, shop.users, config=_config(shop, "taken"))
    rec = recsys.train(events, shop.items, shop.users, config=_config(shop, "none"))
    assert rec.evaluate("retrieval")["retrieval"]["two_tower"]["recall@3"] > 0


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ("seen", "taken"),
        ({"policy": "shown", "tasks": ["click"]}, "leave one of them out"),
        ({"policy": "none", "window_days": 3}, "leave one of them out"),
    ],
)
def test_what_no_policy_can_say(shop: Shop, seen: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _config(shop, seen)


def test_a_task_or_a_time_that_is_none(shop: Shop) -> None:
    with pytest.raises(ConfigError, match='names "lik", which is no binary task; there are: click, like'):
        recsys.train(shop.events, shop.items, shop.users, config=_config(shop, {"tasks": ["lik"]}))
