"""Twenty pages name no item twice, whatever worker answers, and caps go on from page to page."""

from __future__ import annotations

import pytest

import recsys
from recsys.configs.rules import RulesConfig
from recsys.live.answering import Answering
from recsys.live.cursors import MOST, Cursor, read_cursor
from recsys.live.errors import RequestError
from recsys.live.requests import Request
from recsys.recommender import Recommender
from recsys.tests.support.nonempty import nonempty
from recsys.tests.support.tiny import TinyRun

KEY = b"k" * 32


def pages(answerings: list[Answering], **asked: object) -> list[list[str]]:
    """Items of page after page, each from the next worker."""
    found, cursor = [], None
    for page in range(40):
        answer = answerings[page % len(answerings)].answer([Request(cursor=cursor, **asked)])[0]  # type: ignore[arg-type]
        assert not isinstance(answer, Exception), answer
        if answer.items:
            found.append([item["item"] for item in answer.items])
            assert answer.items[0]["slot"] == 1 + sum(map(len, found[:-1]))
        if answer.cursor is None:
            break
        cursor = answer.cursor
    return found


def test_twenty_pages_repeat_nothing_and_name_everything(shop: Recommender) -> None:
    workers = [Answering(shop.funnel, key=KEY) for _ in range(2)]
    found = pages(workers, user="3", k=3)
    named = [item for page in found for item in page]
    assert len(found) >= 20
    assert len(named) == len(set(named))
    whole = shop.ask({"user": "3"})
    assert len(named) == whole.eligible


def test_caps_and_pins_go_on_behind_the_first_page(tiny_run: TinyRun) -> None:
    rules = RulesConfig.model_validate({"cap": [{"column": "category", "most": 2}], "pin": [{"item": "40", "slot": 4}]})
    shop = recsys.load(tiny_run.folder, rules=rules)
    first = shop.ask({"user": "3", "k": 3})
    second = shop.ask({"user": "3", "k": 3, "cursor": first.cursor})
    assert second.items[0]["item"] == "40"
    columns = shop.trained.dataset.item_columns["category"]
    rows = [shop.trained.dataset.item_rows[item["item"]] for item in (*first.items, *second.items)]
    values = [columns.values[columns.codes[columns.ptr[row]]] for row in rows]  # type: ignore[union-attr]
    assert not second.relaxed
    for value in nonempty(set(values)):
        assert values.count(value) <= 2 + (value == values[3])
    shop.close()


def test_a_cursor_is_ours_alone() -> None:
    import numpy as np

    cursor = Cursor("a request", 3, np.arange(5, dtype=np.uint64))
    text = cursor.text(KEY)
    back = read_cursor(text, KEY)
    assert (back.request_id, back.page, back.given.tolist()) == ("a request", 3, [0, 1, 2, 3, 4])
    for wrong in (text[:-3], "B" + text[1:], text[:20] + "-" + text[21:], text + "AAAA", "", "é"):
        with pytest.raises(RequestError, match="/cursor"):
            read_cursor(wrong, KEY)
    with pytest.raises(RequestError):
        read_cursor(text, b"x" * 32)


def test_a_cursor_remembers_so_many(shop: Recommender) -> None:
    import numpy as np

    answering = Answering(shop.funnel, key=KEY)
    full = Cursor("r", 1, np.arange(MOST, dtype=np.uint64)).text(KEY)
    answer = answering.answer([Request(user="3", k=3, cursor=full)])[0]
    assert not isinstance(answer, Exception)
    assert answer.cursor is None
