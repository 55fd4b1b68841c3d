"""An answer is the funnel's, whoever else is asked about; a mistake is met by the request that makes it alone."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys
from recsys.cli.main import main
from recsys.configs.rules import RulesConfig
from recsys.live.answering import Answering
from recsys.live.answers import Answer
from recsys.live.errors import NotFoundError, RequestError
from recsys.live.requests import Request, ScoreRequest, SimilarRequest
from recsys.recommender import Recommender
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun


@pytest.fixture(scope="module")
def shop(tiny_run: TinyRun) -> Recommender:
    """The tiny run."""
    return recsys.load(tiny_run.folder)


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    items = [{name: value for name, value in item.items() if name != "token"} for item in answer["items"]]
    same = {name: value for name, value in answer.items() if name not in ("timings_ms", "request_id", "cursor")}
    return same | {"items": items}


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers are of the same items with the same scores, to 1e-5."""
    return (
        [item["item"] for item in one["items"]] == [item["item"] for item in other["items"]]
        and one["rung"] == other["rung"]
        and np.allclose(
            [[item["score"], *item["tasks"].values()] for item in one["items"]],
            [[item["score"], *item["tasks"].values()] for item in other["items"]],
            atol=1e-5,
        )
    )


REQUESTS = st.fixed_dictionaries(
    {"k": st.sampled_from([1, 5, 10])},
    optional={
        "user": st.sampled_from(["1", "2", "3", "17", "nobody"]),
        "history": st.lists(st.sampled_from(["1", "5", "9", "gone"]), max_size=3),
        "where": st.sampled_from(["", "price > 3"]),
        "exclude": st.lists(st.sampled_from(["1", "2", "3"]), max_size=2),
        "explain": st.booleans(),
    },
)


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(REQUESTS, min_size=2, max_size=12))
def test_an_answer_does_not_depend_on_its_neighbours(shop: Recommender, asked: list[dict[str, Any]]) -> None:
    together = shop.ask_many(asked)
    for request, answer in nonempty(zip(asked, together, strict=True)):
        assert close(answer.to_json(), shop.ask(request).to_json())


def test_an_answer_is_the_funnels(shop: Recommender) -> None:
    theirs = shop.answer(["3"], 5, explain=True).to_json()[0]
    ours = shop.ask(Request(user="3", k=5, explain=True)).to_json()
    for name in theirs.keys() - {"items", "timings_ms"}:
        assert ours[name] == theirs[name]
    for slot, (mine, item) in enumerate(nonempty(zip(ours["items"], theirs["items"], strict=True)), start=1):
        token = mine.pop("token")
        assert mine == {**item, "slot": slot, "pinned": False, "explored": False, "propensity": None}
        assert len(token) == 79


def test_the_command_line_prints_the_answer(
    shop: Recommender, tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--user", "3", "--user", "nobody", "-k", "4", "--where", "price > 3", "--json"]
    assert main(["recommend", "--run", str(tiny_run.folder), *asked]) == 0
    printed = [bare(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    answers = shop.ask_many([Request(user=user, k=4, where="price > 3") for user in ("3", "nobody")])
    assert printed == [bare(answer.to_json()) for answer in answers]


def test_an_error_is_met_by_its_own_request_alone(shop: Recommender) -> None:
    good = Request(user="3", history=("5",))
    wrong = [
        Request(user="3", k=81),
        Request(user="3", where="price >"),
        Request(user="3", context={"nonsense": "1"}),
        Request(history=({"item": "5", "labels": {"nonsense": 1}},)),
    ]
    futures = shop.engine.ask_many([good, *wrong, good])
    expected = shop.ask(good).to_json()
    for future in (futures[0], futures[-1]):
        assert close(future.result().to_json(), expected)
    pointers = []
    for future in futures[1:-1]:
        error = future.exception()
        assert isinstance(error, RequestError)
        pointers.append(error.flaws[0].pointer)
    assert pointers == ["/k", "/where", "/context", "/history"]


def test_lists_of_ids_hold(shop: Recommender) -> None:
    answer = shop.ask(Request(user="3", allow=("1", "2", "3", "4", "gone"), exclude=("2", "other")))
    assert {item["item"] for item in answer.items} <= {"1", "3", "4"}
    assert answer.unknown == {"allow": ["gone"]}
    assert answer.to_json()["unknown"] == {"allow": ["gone"]}
    assert "unknown" not in shop.ask(Request(user="3")).to_json()


def test_rules_can_be_switched_off_but_blocks_stay(tiny_run: TinyRun) -> None:
    first = [item["item"] for item in recsys.load(tiny_run.folder).ask(Request(user="3", k=3)).items]
    rules = {"block": [{"items": [first[0]]}], "pin": [{"item": "40", "slot": 1}], "explore": {"slots": [2]}}
    with recsys.load(tiny_run.folder, rules=RulesConfig.model_validate(rules)) as shop:
        whole = shop.ask(Request(user="3", k=3))
        assert (whole.items[0]["item"], whole.items[0]["pinned"]) == ("40", True)
        assert whole.items[1]["explored"]
        assert whole.items[1]["propensity"] is not None
        assert whole.rules is not None
        assert not any(item["explored"] for item in shop.ask(Request(user="3", k=3, explore=False)).items)
        assert shop.ask(Request(user="3", k=3, explore=False)).items[0]["pinned"]
        without = [item["item"] for item in shop.ask(Request(user="3", k=3, rules="none")).items]
        assert without[:2] == first[1:]


def test_similar_items_are_those_of_the_recommender(shop: Recommender) -> None:
    answer = shop.ask(SimilarRequest(items=("5", "gone", "7"), k=4, by="vector", where="price > 3"))
    assert [bare(one) for one in answer.seeds] == shop.similar(["5", "7"], 4, "price > 3", by="vector").to_json()
    assert answer.unknown == ["gone"]
    with pytest.raises(NotFoundError) as caught:
        shop.ask(SimilarRequest(items=("gone",)))
    assert "gone" not in str(caught.value)
    listed = {item["item"] for item in shop.ask(SimilarRequest(items=("5",), k=60, by="vector")).seeds[0]["items"]}
    seen = {shop.trained.dataset.item_ids[row] for row in shop.funnel.ladder.seen(np.array([2])).items}
    user = shop.trained.dataset.user_ids[2]
    kept = shop.ask(SimilarRequest(items=("5",), k=60, by="vector", user=user)).seeds[0]["items"]
    assert seen & listed
    assert not seen & {item["item"] for item in kept}


def test_scores_are_those_of_the_recommender(shop: Recommender) -> None:
    items = ("9", "gone", "5", "9")
    answer = shop.ask(ScoreRequest(user="3", items=items))
    expected = shop.score(["3"] * 2, ["5", "9"]).set_index("item")
    for item, scored in nonempty(zip(items, answer.items, strict=True)):
        assert scored["item"] == item
        assert scored["known"] == (item != "gone")
        if scored["known"]:
            assert scored["score"] == pytest.approx(expected.loc[item, "score"], abs=1e-6)
            assert scored["tasks"].keys() == set(expected.columns) - {"user", "score"}
    stranger = shop.ask(ScoreRequest(user="nobody", history=("5",), items=("9",)))
    assert (stranger.known, stranger.items[0]["score"] is not None) == (False, True)
    assert shop.ask(ScoreRequest(items=("9",))).user is None


def test_many_threads_ask_one_recommender(tiny_run: TinyRun) -> None:
    with recsys.load(tiny_run.folder) as shop:
        users = [str(user) for user in range(1, 9)]
        expected = {user: shop.ask({"user": user}).to_json() for user in users}
        found: dict[str, Answer] = {}

        def ask(user: str) -> None:
            found[user] = shop.ask(Request(user=user))

        threads = [threading.Thread(target=ask, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(users)
        assert all(close(answer.to_json(), expected[user]) for user, answer in found.items())
    assert shop.ask({"user": "3"}).run["version"] == expected["3"]["run"]["version"] != ""
    shop.close()


EXPLORING = RulesConfig.model_validate(
    {
        "pin": [{"item": "7", "slot": 2}],
        "boost": [{"where": "price > 3", "factor": 1.5}],
        "explore": {"slots": [1, 3], "epsilon": 0.5},
    }
)


def test_a_repeated_request_is_drawn_alike_and_its_tokens_say_the_chances(tiny_run: TinyRun) -> None:
    served = Answering(recsys.load(tiny_run.folder, rules=EXPLORING).funnel, version="0123456789ab")
    asked = [Request(user=user, k=5, request_id=f"r{number}") for number, user in enumerate("12341234")]
    found, alone = served.answer(asked), served.answer(asked[3:4])
    answers = [answer for answer in nonempty([*found, *alone]) if isinstance(answer, Answer)]
    assert len(answers) == 9
    lists = [[item["item"] for item in answer.items] for answer in answers]
    assert lists[3] == lists[8]
    assert lists[:4] != lists[4:8]
    for answer in answers:
        for item in answer.items:
            assert item["token"]
            said = served.tokens.read(item["token"], item["item"])
            drawn = item["slot"] in (1, 3)
            assert (said.slot, said.propensity, said.version) == (item["slot"], item["propensity"], "0123456789ab")
            assert (said.propensity is not None, said.among > 60) == (drawn, drawn)


def test_an_explanation_says_what_rules_did(tiny_run: TinyRun) -> None:
    served = Answering(recsys.load(tiny_run.folder, rules=EXPLORING).funnel)
    ruled, plain = served.answer(
        [Request(user="1", k=5, explain=True), Request(user="1", k=5, explain=True, rules="none")]
    )
    assert isinstance(ruled, Answer)
    assert isinstance(plain, Answer)
    marks = [item["why"]["rules"] for item in ruled.items]
    assert ["explore" in one for one in marks] == [True, False, True, False, False]
    assert ["pin" in one for one in marks] == [item["item"] == "7" for item in ruled.items]
    assert any("boost" in one for one in marks)
    assert all("rules" not in item["why"] for item in plain.items)
