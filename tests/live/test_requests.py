"""A request says what is wrong with it, place by place, and never quotes what it was given."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.live.errors import RequestError
from recsys.live.requests import Event, Request, ScoreRequest, SimilarRequest, parsed

PLANTED = "planted-secret-4711"


def test_ids_are_taken_as_their_text() -> None:
    for given in (42, 42.0, "42"):
        assert parsed(Request, {"user": given, "exclude": [given]}).user == "42"
        assert Request(user=given, allow=[given]).allow == ("42",)  # type: ignore[arg-type]


def test_a_request_is_taken_as_it_is() -> None:
    request = Request(user="42")
    assert parsed(Request, request) is request
    assert parsed(Request, {}) == Request()


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        ({"usr": PLANTED}, "/usr", 'did you mean "user"'),
        ({"user": {"id": PLANTED}}, "/user", "found an object, expected an id"),
        ({"user": True}, "/user", "found true or false"),
        ({"user": ""}, "/user", "without a character"),
        ({"k": "10"}, "/k", "found text, expected a whole number"),
        ({"k": 0}, "/k", "at least 1"),
        ({"k": 2.5}, "/k", "whole number"),
        ({"history": PLANTED}, "/history", "found text, expected a list"),
        ({"history": ["1", {"item": [PLANTED]}]}, "/history/1/item", "found a list"),
        ({"history": ["1", {"item": "2", "labels": PLANTED}]}, "/history/1/labels", "expected an object"),
        ({"history": [{"item": "2", "labels": {"cl/ick": [PLANTED]}}]}, "/history/0/labels/cl~1ick", "found a list"),
        ({"history": [{"item": "2", "device": {"a": PLANTED}}]}, "/history/0/device", "found an object"),
        ({"features": {"age": {"a": PLANTED}}}, "/features/age", "found an object"),
        ({"features": [PLANTED]}, "/features", "expected an object"),
        ({"allow": ["1", None]}, "/allow/1", "found null"),
        ({"explain": "yes"}, "/explain", "true or false"),
        ({"history_mode": PLANTED}, "/history_mode", "append"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_without_the_value(given: Any, pointer: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(Request, given)
    assert [flaw.pointer for flaw in caught.value.flaws] == [pointer]
    assert words in caught.value.flaws[0].detail
    assert PLANTED not in str(caught.value)


def test_every_mistake_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        parsed(Request, {"k": -1, "where": 5, "user": []})
    assert {flaw.pointer for flaw in caught.value.flaws} == {"/k", "/where", "/user"}


@pytest.mark.parametrize("kind", [SimilarRequest, ScoreRequest])
def test_items_are_asked_for(kind: type[Any]) -> None:
    wrong: list[dict[str, Any]] = [{}, {"items": []}]
    for given in wrong:
        with pytest.raises(RequestError) as caught:
            parsed(kind, given)
        assert caught.value.flaws[0].pointer == "/items"


def test_other_keys_of_an_event_are_its_columns() -> None:
    event = parsed(Event, {"user": 1, "item": "2", "labels": {"click": 1}, "device": "phone"})
    assert (event.user, event.columns) == ("1", {"device": "phone"})
    assert parsed(Event, {"user": 1, "item": 2, "columns": {"device": "phone"}}) == Event(
        user="1", item="2", columns={"device": "phone"}
    )
    with pytest.raises(RequestError, match="/propensity"):
        parsed(Event, {"user": 1, "item": 2, "propensity": 1.5})
    with pytest.raises(RequestError, match="/item: the key is missing"):
        parsed(Event, {"user": 1})
