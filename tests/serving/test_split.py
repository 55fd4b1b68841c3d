"""A share of the users falls to a run, and the same user to the same one."""

from __future__ import annotations

import pytest

from recsys.serving.split import chosen_run


def test_users_are_shared_out() -> None:
    split = {"main": 0.9, "b": 0.1, "off": 0.0}
    chosen = [chosen_run(split, str(user)) for user in range(4000)]
    assert chosen == [chosen_run(split, str(user)) for user in range(4000)]
    assert chosen.count("b") / 4000 == pytest.approx(0.1, abs=0.015)
    assert set(chosen) == {"main", "b"}
