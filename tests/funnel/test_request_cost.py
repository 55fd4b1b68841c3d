"""What a request may cost, counted and not timed; and that answers do not depend on how many ask at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import recsys
from recsys.funnel.funnel import Funnel
from recsys.funnel.recommendations import Recommendations
from recsys.tests.support.tiny import TinyRun

MOST_CALLS = 1250
"""Of functions, Python's and C's, in one answer to one user: ten opinions, MMoE, a history, counts."""


@pytest.fixture(scope="module")
def funnel(tiny_run: TinyRun) -> Funnel:
    found = recsys.load(tiny_run.folder).funnel
    found.warm_up(recorded=True)
    return found


def with_history(funnel: Funnel) -> list[str]:
    rows = np.flatnonzero(np.diff(funnel.retriever.data.history.ptr) > 0)
    return [funnel.dataset.user_ids[row] for row in rows.tolist()]


def calls(work: Callable[[], object]) -> int:
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_request_makes_few_calls_and_they_do_not_grow_with_the_candidates(funnel: Funnel) -> None:
    user = with_history(funnel)[5]

    def least(k: int) -> int:
        return min(calls(lambda: funnel.recommend([user], k)) for _ in range(3))

    assert least(10) < MOST_CALLS
    assert abs(least(10) - least(3)) < 20


def equal(one: Recommendations, other: Recommendations) -> bool:
    tasks = all(np.array_equal(one.tasks[name], other.tasks[name], equal_nan=True) for name in one.tasks)
    return tasks and np.array_equal(one.rows, other.rows) and np.array_equal(one.scores, other.scores, equal_nan=True)


def test_two_threads_that_ask_the_same_recommender_get_their_own_answers(tiny_run: TinyRun) -> None:
    expected = recsys.load(tiny_run.folder).funnel
    users = with_history(expected)[:30]
    alone = [expected.recommend([user], 5) for user in users]
    fresh = recsys.load(tiny_run.folder).funnel  # so that what is prepared at first use is prepared by both threads

    def ask(order: list[int]) -> list[tuple[int, Recommendations]]:
        torch.set_num_threads(1)
        return [(place, fresh.recommend([users[place]], 5)) for place in order]

    places = list(range(len(users)))
    with ThreadPoolExecutor(2) as pool:
        answers = [answer for part in pool.map(ask, (places, places[::-1])) for answer in part]
    assert len(answers) == 2 * len(users)
    assert all(equal(answer, alone[place]) for place, answer in answers)


def test_what_is_recorded_before_the_first_request_is_all_that_is_recorded(funnel: Funnel) -> None:
    def recordings() -> int:
        assert funnel.answering is not None
        return funnel.retriever._passes.recordings + sum(one.recordings for one in funnel.answering._recorded.values())

    before = recordings()
    for user in with_history(funnel):
        funnel.recommend([user], 5)
    assert recordings() == before >= 2


def test_an_answer_is_the_same_before_and_after_its_pass_is_recorded(tiny_run: TinyRun) -> None:
    funnel = recsys.load(tiny_run.folder).funnel
    user = with_history(funnel)[3]
    answers = [funnel.recommend([user], 5) for _ in range(8)]
    assert funnel.answering is not None
    assert sum(one.recordings for one in funnel.answering._recorded.values()) == 1
    assert all(equal(answer, answers[0]) for answer in answers)
