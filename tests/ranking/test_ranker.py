"""Groups of tasks: who is in none, and what no grouping is."""

from __future__ import annotations

import pytest

from recsys.base.errors import ConfigError
from recsys.ranking.ranker import ungrouped

TASKS = ["click", "like", "follow", "watch"]


def test_tasks_of_no_group_are_left_in_their_order() -> None:
    assert ungrouped({}, TASKS) == TASKS
    assert ungrouped({"react": ["follow", "like"]}, TASKS) == ["click", "watch"]
    assert ungrouped({"react": ["follow", "like"], "rest": ["watch", "click"]}, TASKS) == []


@pytest.mark.parametrize(
    "groups",
    [
        {"a": ["click", "click"]},
        {"a": ["click"], "b": ["like", "click"]},
        {"a": ["click", "share"]},
        {"a": []},
        {"a": ["click"], "b": []},
    ],
)
def test_a_task_twice_an_unknown_one_and_an_empty_group_are_refused(groups: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match="every group needs tasks, each task at most once"):
        ungrouped(groups, TASKS)
