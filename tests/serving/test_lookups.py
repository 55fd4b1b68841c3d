"""Whom a service knows and what they did, for those who run it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.texts import Texts
from recsys.recommender import Recommender
from recsys.tests.support.served import serving, telling

TEXTS = st.text(alphabet="ab\u00e9\U0001f600", max_size=3)


@pytest.fixture(scope="module")
def told(shop: Recommender) -> Iterator[httpx.Client]:
    with serving(telling(shop)) as client:
        yield client


@given(texts=st.lists(TEXTS), prefix=TEXTS, after=TEXTS)
def test_texts_are_found_by_their_beginning(texts: list[str], prefix: str, after: str) -> None:
    wanted = sorted(text for text in texts if text.startswith(prefix) and (not after or text > after))
    assert list(Texts(texts).beginning(prefix, after)) == wanted


def test_users_come_in_order_and_page_by_page(told: httpx.Client, shop: Recommender) -> None:
    event = {"item": "5", "labels": {"click": 1}}
    told.post("/v1/events", json={"events": [{**event, "user": user} for user in ("1a", "17", "zoe")]})
    told.put("/v1/users/1b", json={"age": 3})
    told.delete("/v1/users/18")
    everybody = sorted({*shop.trained.dataset.user_ids, "1a", "1b", "zoe"} - {"18"})
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = told.get("/v1/users", params={"after": after, "limit": 7}).json()
        found, after = found + page["users"], page["after"]
        assert len(page["users"]) == 7 or after is None
    assert found == everybody
    ones = told.get("/v1/users", params={"prefix": "1", "limit": 1000}).json()
    assert ones["users"] == [user for user in everybody if user.startswith("1")]
    assert ones["after"] is None


def test_a_history_is_what_is_stored_and_what_was_told_since(told: httpx.Client, shop: Recommender) -> None:
    events = shop.trained.dataset.events
    stored = int((events.users == shop.trained.dataset.user_rows["3"]).sum())
    before = told.get("/v1/users/3/history", params={"limit": 2}).json()
    assert (before["known"], before["total"], len(before["events"])) == (True, stored, 2)
    told.post("/v1/events", json={"events": [{"user": "3", "item": "7", "labels": {"click": 1}}]})
    told.post("/v1/events", json={"events": [{"user": "3", "item": "unheard", "labels": {"click": 0}}]})
    after = told.get("/v1/users/3/history").json()
    assert [event["item"] for event in after["events"][:2]] == [None, "7"]
    assert after["events"][1]["labels"]["click"] == 1.0
    assert after["events"][2:4] == before["events"]
    assert np.all(np.diff([event["time"] for event in after["events"]]) <= 0)
    assert after["total"] == stored + 2
    told.delete("/v1/users/3")
    assert told.get("/v1/users/3/history").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "pointer"),
    [
        ("/v1/users?limit=0", 422, "/limit"),
        ("/v1/users?limit=1001", 422, "/limit"),
        ("/v1/users?limit=many", 422, "/limit"),
        ("/v1/users?prefx=1", 422, "/prefx"),
        ("/v1/users?run=none", 404, "/run"),
        ("/v1/users/nobody/history", 404, "/user"),
    ],
)
def test_a_wrong_question_is_told_its_place(told: httpx.Client, path: str, status: int, pointer: str) -> None:
    found = told.get(path)
    assert (found.status_code, found.json()["errors"][0]["pointer"]) == (status, pointer)
