"""What is encoded of a user is kept until something more is told of them, and never longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import recsys
from recsys.data.encoding import subjects
from recsys.data.live import LiveDataset


def answered(shop: recsys.Recommender, user: str) -> Any:
    """What somebody gets, with scores, without what differs from call to call."""
    answer = shop.ask({"user": user, "k": 8})
    return answer.known, answer.rung, answer.eligible, [(item["item"], item["score"]) for item in answer.items]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Users whose rows were encoded, in order."""
    found: list[str] = []
    before = subjects._encoded

    def watched(dataset: Any, asked: Any, positive: str) -> Any:
        found.extend(subject.user for subject in asked)
        return before(dataset, asked, positive)

    monkeypatch.setattr(subjects, "_encoded", watched)
    return found


def test_whatever_is_told_is_in_the_next_answer(
    trained: recsys.Recommender, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = recsys.Recommender(trained.trained).keep("memory")
    event = {"user": "u0", "item": "i3", "time": 345, "labels": {"click": 0}, "tab": "home"}
    token = shop.tokens.sign("r", "i5", 1, None, 0, "", 345.0)
    told: list[Callable[[], object]] = [
        lambda: shop.add_events([event]),
        lambda: shop.add_events([{**event, "item": "i4", "time": 341, "labels": {"click": 1}}]),
        lambda: shop.add_events([{**event, "item": "i5", "token": token}]),
        lambda: shop.add_events([{**event, "item": "i5", "labels": {"click": 1}, "token": token}]),
        lambda: shop.put_user("u0", {"age": 60}),
        lambda: shop.put_user("u0", {"age": 20}),
        lambda: shop.add_events([{**event, "user": "u1"}]),
        lambda: shop.delete_items([answered(shop, "u0")[3][0][0]]),
        lambda: shop.forget_user("u0"),
        lambda: shop.add_events([{**event, "labels": {"click": 1}}]),
    ]
    for tell in told:
        tell()
        with monkeypatch.context() as patched:
            patched.setattr(LiveDataset, "remembered", lambda self, user, make: make())
            fresh = answered(shop, "u0")
        encoded.clear()
        for _ in range(3):
            assert answered(shop, "u0") == fresh
        assert len(encoded) <= 1


def test_only_so_many_users_are_kept(
    trained: recsys.Recommender, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.data.live.REMEMBERED", 2)
    shop = recsys.Recommender(trained.trained).keep("memory")
    for user in ("u0", "u1", "u2"):
        shop.add_events([{"user": user, "item": "i3", "time": 345, "labels": {"click": 1}}])
    for user in ("u0", "u1", "u0", "u2", "u0", "u1"):
        answered(shop, user)
    assert encoded == ["u0", "u1", "u2", "u1"]
