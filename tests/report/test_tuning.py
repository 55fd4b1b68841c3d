"""The account of a search: what was found, beside what was there before."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.report.tuning import tuning_blocks
from recsys.report.values import Line


def account(best: int) -> dict[str, Any]:
    trials = [
        {"trial": 0, "state": "complete", "ndcg@10": 0.125, "settings": {}},
        {"trial": 1, "state": "complete", "ndcg@10": 0.25, "settings": {"a": 1}},
        {"trial": 2, "state": "pruned", "ndcg@10": None, "settings": {"a": 2}},
    ]
    return {"metric": "ndcg@10", "upwards": True, "best": trials[best], "trials": trials}


@pytest.mark.parametrize(("best", "compared"), [(1, True), (0, False)])
def test_what_was_found_stands_beside_the_configuration_as_it_is(best: int, compared: bool) -> None:
    line = tuning_blocks(account(best))[0]
    assert isinstance(line, Line)
    assert line.text.startswith(f"trial {best} with ")
    assert ("the configuration as it is has 0.125" in line.text) is compared
