"""What a request may say of what was seen, and of writing down what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recsys
from recsys.configs.rules import RulesConfig
from recsys.live.errors import RequestError
from recsys.live.log import MemoryLog

CLICKED, SHOWN = "i1", "i2"
POLICIES: list[Any] = [
    "none",
    "shown",
    "taken",
    {"policy": "taken", "window_days": 0.0003},
    {"policy": "shown", "window_days": 0.0003},
    {"tasks": ["like"]},
]


def with_rules(trained: recsys.Recommender, seen: Any, log: MemoryLog) -> recsys.Recommender:
    """The shop with a policy of its own."""
    config = trained.config.model_copy(update={"rules": RulesConfig.model_validate({"seen": seen})})
    return recsys.Recommender(replace(trained.trained, config=config)).keep(log)


def names(answer: recsys.Answer) -> list[str]:
    return [item["item"] for item in answer.items]


@pytest.fixture
def log(trained: recsys.Recommender) -> MemoryLog:
    """What was told: a click and a showing of a stranger and of a user, and later a click of another one."""
    log = MemoryLog()
    told = [
        {"user": user, "item": item, "time": 345, "labels": {"click": label}}
        for user in ("u0", "stranger")
        for item, label in ((CLICKED, 1), (SHOWN, 0))
    ]
    recsys.Recommender(trained.trained).keep(log).add_events([*told, {**told[0], "user": "u9", "time": 390}])
    return log


@pytest.mark.parametrize("seen", POLICIES)
def test_a_request_with_a_policy_is_answered_as_by_rules_with_it(
    trained: recsys.Recommender, log: MemoryLog, seen: Any
) -> None:
    plain, ruled = recsys.Recommender(trained.trained).keep(log), with_rules(trained, seen, log)
    for asked in ({"user": "u0"}, {"user": "stranger"}, {"user": "u5"}, {"history": [SHOWN]}, {"user": "nobody"}):
        one, other = plain.ask({**asked, "k": 20, "seen": seen}), ruled.ask({**asked, "k": 20})
        assert names(one) == names(other)
        assert one.eligible == other.eligible
        assert names(plain.ask({**asked, "k": 20})) == names(with_rules(trained, None, log).ask({**asked, "k": 20}))


def test_the_policy_decides_what_returns(trained: recsys.Recommender, log: MemoryLog) -> None:
    shop = recsys.Recommender(trained.trained).keep(log)

    def listed(seen: Any) -> set[str]:
        return {CLICKED, SHOWN} & set(names(shop.ask({"user": "stranger", "k": 20, "seen": seen})))

    assert [listed(seen) for seen in POLICIES[:4]] == [{CLICKED, SHOWN}, set(), {SHOWN}, {CLICKED, SHOWN}]


@pytest.mark.parametrize(
    ("seen", "pointer", "sentence"),
    [
        ("all", "/seen", '"taken", "shown" or "none"'),
        ({"polici": "none"}, "/seen/polici", 'did you mean "policy"'),
        ({"policy": "none", "window_days": 3}, "/seen", "leave one of them out"),
        ({"tasks": ["clik"]}, "/seen", "no binary task"),
    ],
)
def test_a_policy_that_is_none_is_refused_in_its_place(
    trained: recsys.Recommender, seen: Any, pointer: str, sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        trained.ask({"user": "u0", "seen": seen})
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]
    assert sentence in str(caught.value)


def test_what_is_shown_is_written_down_once_and_a_click_joins_it(trained: recsys.Recommender, tmp_path: Path) -> None:
    shop = recsys.Recommender(trained.trained).keep("memory")
    asked = {"user": "u0", "k": 3, "record": "shown", "request_id": "r", "context": {"tab": "home"}}
    first = shop.ask(asked)
    teller = shop._teller
    assert teller.shown([(recsys.Request(**asked), first)]).duplicates == 3
    rows = shop.log.read_after(0, 10)
    assert [(row.user, row.item) for row in rows] == [("u0", item) for item in names(first)]
    for row in rows:
        assert json.loads(row.body)["columns"] == {"click": "0", "like": "0", "tab": "home"}
    shop.add_events([{"user": "u0", "item": names(first)[1], "labels": {"click": 1}, "token": first.items[1]["token"]}])
    assert len(shop.funnel.dataset.live) == 3  # type: ignore[attr-defined]
    assert shop.export_state(tmp_path / "day.parquet").rows["events"] == 3
    later = shop.ask({"user": "u0", "k": 17, "seen": "shown"})
    assert not set(names(later)) & set(names(first))
    shop.ask_many([{"user": "u1", "k": 2, "record": "shown"}, {"user": "u2", "k": 2}])
    assert [row.user for row in shop.log.read_after(4, 10)] == ["u1", "u1"]


def test_what_cannot_be_written_down_is_refused(trained: recsys.Recommender) -> None:
    with pytest.raises(RequestError, match="/record: there is no state"):
        trained.ask({"user": "u0", "record": "shown"})
    with pytest.raises(RequestError, match="/record: nobody is named"):
        recsys.Recommender(trained.trained).keep("memory").ask({"record": "shown"})
